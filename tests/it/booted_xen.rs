//! A real Xen under QEMU, with the hook as `install-hook xen` puts it. PV guests send under false addresses.
//! PVH and HVM domains stay paused, because QEMU emulates their processors neither fast nor without faults.
//! One boot, in `booted_xen/dom0`; each claim is about what it left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, copy, create_dir_all};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::lab::{fetched, need, source};
use crate::legacy::pack;
use crate::one_program::shipped;

/// How long a boot may take from power on to power off, in seconds. An idle machine needs about a third.
const TIME_LIMIT: &str = "900";

/// How often it is booted at most. A Xen under emulation hangs now and then.
const ATTEMPTS: u32 = 2;

/// The guests' addresses: two of one network, and two of others.
const FIRST: &str = "02:00:c0:a8:00:05";
const OTHER: &str = "02:00:c0:a8:00:07";
const SECOND: &str = "02:00:c0:a8:02:05";

/// Those that each of them pretends to have: of one network, of another, and of a router.
const FALSE: [&str; 3] = [
    "02:00:c0:a8:00:06",
    "02:00:c0:a8:01:06",
    "52:54:00:00:00:01",
];

/// A name that every shell would stumble over.
const ODD: &str = "my db's";

/// What the host has found: files, by name.
struct Found(BTreeMap<String, String>);

/// A port as `macfence list` tells it.
#[derive(Debug)]
struct Listed {
    vm: String,
    port: String,
    state: String,
    spoofed: u64,
}

fn boot() -> Found {
    for program in [
        "qemu-system-x86_64",
        "busybox",
        "strip",
        "timeout",
        "cc",
        "tar",
    ] {
        need(program);
    }
    let [xen, kernel, initrd, disk] =
        ["xen", "vmlinuz", "initrd.img", "disk.img"].map(|name| fetched(&format!("xen/{name}")));
    let dir = tempfile::tempdir().unwrap();
    let [second, third] = ["second", "third"].map(|name| dir.path().join(name));
    files(dir.path(), &kernel, &second);
    let try_once = || boot_once(dir.path(), [&xen, &kernel, &initrd, &disk, &second, &third]);
    let found = (0..ATTEMPTS).find_map(|_| try_once());
    found.expect("Xen did not come through its boot; the output has its console")
}

/// What was found, if the boot came through.
fn boot_once(dir: &Path, files: [&PathBuf; 6]) -> Option<Found> {
    let [xen, kernel, initrd, disk, second, third] = files;
    fs::File::create(third).unwrap().set_len(64 << 20).unwrap();
    let started = Instant::now();
    let mut qemu = Command::new("timeout");
    qemu.args([TIME_LIMIT, "qemu-system-x86_64", "-accel", "tcg"]);
    // Xen does not come up on the processors that QEMU makes by default.
    qemu.args("-cpu phenom,+svm,+npt,-rdtscp -smp 1 -m 1200".split(' '));
    qemu.args("-nographic -nic none -no-reboot -monitor none".split(' '));
    let console = dir.join("console");
    qemu.arg("-serial")
        .arg(format!("file:{}", console.display()));
    qemu.arg("-kernel").arg(xen).args([
        "-append",
        "console=com1 com1=115200,8n1 dom0_mem=600M,max:600M dom0_max_vcpus=1 noreboot",
    ]);
    let modules = format!(
        "{} console=hvc0 quiet,{}",
        kernel.display(),
        initrd.display()
    );
    qemu.args(["-initrd", &modules]);
    for (file, more) in [(disk, "snapshot=on"), (second, "readonly=on"), (third, "")] {
        let drive = format!("file={},format=raw,if=virtio,{more}", file.display());
        qemu.args(["-drive", drive.trim_end_matches(',')]);
    }
    let output = qemu.stdin(std::process::Stdio::null()).output().unwrap();
    let console = fs::read(&console).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr);
    let console = format!("{}{said}", String::from_utf8_lossy(&console));
    println!("{console}\nbooted for {:.0?}", started.elapsed());
    let found = dir.join("found");
    create_dir_all(&found).unwrap();
    // The disk is empty if the boot was ended.
    let unpacked = tar().arg("-xf").arg(third).arg("-C").arg(&found).status();
    let found = texts(&found);
    (unpacked.unwrap().success() && found.contains_key("done")).then_some(Found(found))
}

/// The texts of the files in a directory, by their names.
fn texts(dir: &Path) -> BTreeMap<String, String> {
    let files = dir.read_dir().unwrap().map(|entry| entry.unwrap());
    let files = files.filter(|entry| entry.path().is_file());
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    files
        .map(|entry| (name(&entry), text(entry.path())))
        .collect()
}

fn tar() -> Command {
    Command::new("tar")
}

/// The second disk: what the host and its guests run.
fn files(dir: &Path, kernel: &Path, disk: &Path) {
    let (tree, guest) = (dir.join("tree"), dir.join("guest"));
    create_dir_all(&tree).unwrap();
    for folder in ["bin", "dev", "proc", "sys", "tmp"] {
        create_dir_all(guest.join(folder)).unwrap();
    }
    let of_test = |name: &str| source(&format!("tests/it/booted_xen/{name}"));
    // Emulated, the program for tests takes seconds for what this one does at once.
    copy(shipped(), tree.join("macfence")).unwrap();
    copy(kernel, tree.join("vmlinuz")).unwrap();
    for name in ["init", "dom0"] {
        copy(of_test(name), tree.join(name)).unwrap();
    }
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Werror", "-static", "-o"])
        .arg(tree.join("frames"));
    assert!(cc.arg(of_test("frames.c")).status().unwrap().success());
    copy(tree.join("frames"), guest.join("frames")).unwrap();
    copy(of_test("guest"), guest.join("init")).unwrap();
    copy(need("busybox"), guest.join("bin/busybox")).unwrap();
    let driver = "xen-netfront.ko";
    copy(fetched(&format!("xen/{driver}")), guest.join(driver)).unwrap();
    pack(&guest, &tree.join("guest.img"));
    let packed = tar()
        .arg("-cf")
        .arg(disk)
        .arg("-C")
        .arg(&tree)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
}

impl Found {
    fn text(&self, name: &str) -> String {
        let text = self.0.get(name);
        text.unwrap_or_else(|| panic!("no {name}")).clone()
    }

    fn status(&self, name: &str) -> u32 {
        self.text(&format!("{name}.status")).trim().parse().unwrap()
    }

    /// Nothing is to be set right at this stage.
    fn is_well(&self, stage: &str) {
        let name = format!("{stage}.check");
        assert_eq!((self.status(&name), &*self.text(&name)), (0, ""), "{stage}");
    }

    fn listed(&self, stage: &str) -> Vec<Listed> {
        let list: Value = serde_json::from_str(&self.text(&format!("{stage}.list"))).unwrap();
        let vms = list.as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        vms.flat_map(|vm| {
            let nics = vm["nics"].as_array().unwrap().iter();
            nics.map(move |nic| Listed {
                vm: text(&vm["vm"]),
                port: text(&nic["port"]),
                state: text(&nic["state"]),
                spoofed: nic["dropped"]["spoofed"].as_u64().unwrap_or_default(),
            })
        })
        .collect()
    }

    /// The ports of a domain that are fenced.
    fn fenced(&self, stage: &str, domain: &str) -> Vec<String> {
        let listed = self.listed(stage).into_iter();
        let fenced = listed.filter(|port| port.vm == domain && port.state == "fenced");
        fenced.map(|port| port.port).collect()
    }

    /// How many frames of a port were dropped for their false address.
    fn spoofed(&self, stage: &str, port: &str) -> u64 {
        let listed = self.listed(stage);
        let port = listed.iter().find(|listed| listed.port == port);
        port.unwrap_or_else(|| panic!("{listed:?}")).spoofed
    }

    /// Who was heard at a port.
    fn heard(&self, stage: &str, port: &str) -> BTreeSet<String> {
        let heard = self.text(&format!("{stage}.heard"));
        let heard = heard.lines().filter_map(|line| line.split_once(' '));
        let at_port = heard.filter(|(at, _)| *at == port);
        at_port.map(|(_, mac)| mac.to_owned()).collect()
    }

    /// The number of a domain and its state.
    fn domain(&self, stage: &str, name: &str) -> Option<(u32, String)> {
        let domains = self.text(&format!("{stage}.domains"));
        let row = domains.lines().find_map(|line| line.strip_prefix(name))?;
        let mut words = row.split_whitespace();
        let number = words.next()?.parse().ok()?;
        Some((number, words.nth(2)?.to_owned()))
    }
}

fn set(macs: &[&str]) -> BTreeSet<String> {
    macs.iter().map(|mac| (*mac).to_owned()).collect()
}

/// One test makes all claims: several would wait for the boot, and keep other tests from running meanwhile.
#[test]
#[ignore = "under QEMU's emulation a guest of Xen sometimes does not get an attached interface; run it by name with --ignored"]
fn a_real_xen_keeps_its_guests_apart() {
    let found = &boot();
    without_a_fence_a_guest_of_xens_is_heard_under_every_address(found);
    what_runs_when_the_hook_is_installed_is_fenced_by_sync(found);
    a_pvh_domain_is_fenced_before_it_runs(found);
    a_domain_is_fenced_before_it_runs_at_the_port_that_it_names(found);
    an_interface_that_is_attached_is_fenced_and_one_that_is_detached_leaves_nothing(found);
    a_domain_that_reboots_has_another_number_and_is_fenced(found);
    from_then_on_no_false_address_is_ever_heard(found);
    an_emulated_port_is_fenced_and_no_difference_once_its_guest_has_given_it_up(found);
    what_cannot_be_fenced_is_neither_created_nor_attached(found);
    nothing_is_left_of_domains_that_are_destroyed(found);
    the_hook_goes_as_it_came_and_does_not_come_where_it_would_fail(found);
}

fn without_a_fence_a_guest_of_xens_is_heard_under_every_address(found: &Found) {
    let all = [&[FIRST][..], &FALSE].concat();
    assert_eq!(found.heard("open", "up1"), set(&all));
    assert_eq!(found.status("open.check"), 1);
    assert_eq!(
        found.text("open.check").lines().next(),
        Some("missing one-5: port \"vif1.0\"")
    );
}

fn what_runs_when_the_hook_is_installed_is_fenced_by_sync(found: &Found) {
    let said = found.text("install");
    assert_eq!(found.status("install"), 0, "{said}");
    assert!(
        said.starts_with("installed /etc/xen/scripts/vif-post.d/macfence.hook and "),
        "{said}"
    );
    let said = found.text("sync");
    assert!(
        said.starts_with("fenced one-5: port \"vif1.0\"\n"),
        "{said}"
    );
    assert_eq!(found.heard("sync", "up1"), set(&[FIRST]));
    found.is_well("sync");
}

fn a_pvh_domain_is_fenced_before_it_runs(found: &Found) {
    let said = found.text("pvh-paused.create");
    assert_eq!(found.status("pvh-paused.create"), 0, "{said}");
    assert_eq!(found.fenced("pvh-paused", "one-9").len(), 1);
}

fn a_domain_is_fenced_before_it_runs_at_the_port_that_it_names(found: &Found) {
    assert_eq!(
        found.status("paused.create"),
        0,
        "{}",
        found.text("paused.create")
    );
    assert_eq!(found.domain("paused", ODD).unwrap().1, "--p---");
    assert_eq!(found.fenced("paused", ODD), ["tenant7"]);
    found.is_well("both");
    assert_eq!(found.heard("both", "up1"), set(&[FIRST, OTHER]));
    assert_eq!(found.heard("both", "vif1.0"), set(&[OTHER]));
    assert_eq!(found.heard("both", "tenant7"), set(&[FIRST]));
    assert!(found.spoofed("both", "tenant7") > 0);
}

fn an_interface_that_is_attached_is_fenced_and_one_that_is_detached_leaves_nothing(found: &Found) {
    assert_eq!(
        found.status("attached.attach"),
        0,
        "{}",
        found.text("attached.attach")
    );
    assert_eq!(found.fenced("attached", "one-5"), ["vif1.0", "vif1.1"]);
    assert_eq!(found.heard("attached", "up1"), set(&[FIRST, OTHER, SECOND]));
    assert_eq!(found.heard("attached", "vif1.0"), set(&[OTHER]));
    assert_eq!(found.heard("attached", "vif1.1"), set(&[]));
    found.is_well("attached");
    assert_eq!(found.fenced("detached", "one-5"), ["vif1.0"]);
    found.is_well("detached");
}

fn a_domain_that_reboots_has_another_number_and_is_fenced(found: &Found) {
    let [before, after] = ["both", "rebooted"].map(|stage| found.domain(stage, ODD).unwrap().0);
    assert_ne!(before, after);
    assert_eq!(found.fenced("rebooted", ODD), ["tenant7"]);
    assert_eq!(found.heard("rebooted", "up1"), set(&[FIRST, OTHER]));
    assert_eq!(found.heard("rebooted", "tenant7"), set(&[FIRST]));
    found.is_well("rebooted");
}

fn from_then_on_no_false_address_is_ever_heard(found: &Found) {
    // Also while domains start and reboot, and while an interface is attached to a guest that runs and sends at
    // once under each address: somebody listens from before to after.
    let ever = found.text("ever");
    let is_false = |line: &&str| FALSE.iter().any(|mac| line.ends_with(mac));
    let heard: Vec<_> = ever.lines().filter(is_false).collect();
    assert!(heard.is_empty(), "{heard:?}");
    assert!(ever.contains(SECOND), "{ever}");
}

fn an_emulated_port_is_fenced_and_no_difference_once_its_guest_has_given_it_up(found: &Found) {
    // Its guest does not run, as that takes minutes: the test deletes the port, which looks the same from here.
    let said = found.text("hvm-paused.create");
    assert_eq!(found.status("hvm-paused.create"), 0, "{said}");
    let mut ports = found.fenced("hvm-paused", "one-8");
    ports.sort();
    assert_eq!(ports, ["hvm8", "hvm8-emu"]);
    let ports = found.text("hvm.ports");
    assert!(
        ports.contains("hvm8") && !ports.contains("hvm8-emu"),
        "{ports}"
    );
    found.is_well("hvm");
    assert_eq!(
        (found.status("hvm.sync"), &*found.text("hvm.sync")),
        (0, "")
    );
    let left = found.listed("hvm-synced");
    assert!(left.iter().all(|port| port.port != "hvm8-emu"), "{left:?}");
    assert_eq!(found.fenced("hvm-synced", "one-8"), ["hvm8"]);
}

fn what_cannot_be_fenced_is_neither_created_nor_attached(found: &Found) {
    let said = found.text("refused.create");
    assert_ne!(found.status("refused.create"), 0, "{said}");
    assert!(said.contains("macfence could not fence vif"), "{said}");
    assert_ne!(found.status("refused.domid"), 0);
    assert_ne!(
        found.status("refused.attach"),
        0,
        "{}",
        found.text("refused.attach")
    );
    let ports = found.text("refused.ports");
    assert!(!ports.contains("vif1.1"), "{ports}");
    // It never was on the bridge.
    let links = found.text("refused.links");
    let of_port: Vec<_> = links
        .lines()
        .filter(|link| link.contains("vif1."))
        .collect();
    assert!(!of_port.is_empty(), "{links}");
    let on_bridge = |link: &&&str| !link.contains("vif1.0") && link.contains("master");
    assert_eq!(of_port.iter().find(on_bridge), None, "{links}");
    let log = found.text("xen-hotplug.log");
    assert!(log.contains("macfence: error: /etc/macfence.toml"), "{log}");
    assert_eq!(found.fenced("refused", "one-5"), ["vif1.0"]);
    found.is_well("refused");
}

fn nothing_is_left_of_domains_that_are_destroyed(found: &Found) {
    found.is_well("ended");
    assert_eq!(found.text("ended.list"), "[]\n");
    let rules = found.text("ended.rules");
    assert!(
        rules.contains("table bridge macfence") && !rules.contains("vm-"),
        "{rules}"
    );
}

fn the_hook_goes_as_it_came_and_does_not_come_where_it_would_fail(found: &Found) {
    assert_eq!(found.status("remove"), 0, "{}", found.text("remove"));
    let said = found.text("broken.install");
    assert_eq!(found.status("broken.install"), 1, "{said}");
    assert!(
        said.contains("nothing is installed") && said.contains("/etc/macfence.toml"),
        "{said}"
    );
    for stage in ["removed", "broken"] {
        let hooks = found.text(&format!("{stage}.hooks"));
        // Only the script that calls vif-bridge is left.
        let missing = hooks.matches("No such file or directory").count();
        assert_eq!((missing, hooks.lines().count()), (1, 2), "{hooks}");
        assert!(
            hooks.contains("\n/etc/xen/scripts/vif-macfence\n"),
            "{hooks}"
        );
        let settings = found.text(&format!("{stage}.settings"));
        assert_eq!(settings, found.text("none.settings"), "{stage}");
    }
}
