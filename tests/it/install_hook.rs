//! `macfence install-hook` on a host without AppArmor: what is written, what is refused, and that a refusal
//! changes nothing. With AppArmor: [`super::booted`].

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::lab::oneadmin::{Oneadmin, REMOTES};
use crate::lab::{Host, PROGRAM, Ran, install, need, script, tmpfs};

const HOOKS: &str = "/etc/libvirt/hooks";
const HOOK: &str = "/etc/libvirt/hooks/qemu.d/macfence";
const LXC_HOOK: &str = "/etc/libvirt/hooks/lxc.d/macfence";

/// A host with macfence, a libvirt and no hooks.
fn host() -> Host {
    need("libvirtd");
    let host = Host::new();
    host.run(|| {
        install();
        tmpfs(HOOKS);
    });
    host
}

fn run(host: &Host, words: &str) -> Ran {
    let mut command = Command::new(PROGRAM);
    host.exec(command.arg("install-hook").args(words.split(' ')), "")
}

/// What is below a directory: each path with its mode, owner and content.
pub fn tree(host: &Host, dir: &str) -> String {
    let find =
        "find \"$1\" -printf '%p %M %u %l\\n' | sort; find \"$1\" -type f | sort | xargs -r cat";
    host.ok("sh", &["-c", find, "sh", dir])
}

fn failed(ran: &Ran, words: &[&str]) {
    assert_ne!(ran.status, 0, "{ran:?}");
    assert_eq!(ran.stdout, "");
    for words in words {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[test]
fn libvirts_hook_is_a_copy_with_the_programs_path_and_goes_without_a_trace() {
    let host = host();
    let before = tree(&host, HOOKS);
    let said = run(&host, "libvirt").ok();
    assert!(said.contains("systemctl restart libvirtd"), "{said}");
    // For QEMU's domains, and for the containers of the LXC driver, which is here too.
    for hook in [HOOK, LXC_HOOK] {
        assert!(
            said.contains(&format!("{hook}: installed and tried")),
            "{said}"
        );
        let (text, mode) = host.run(|| {
            let mode = fs::symlink_metadata(hook).unwrap().mode();
            (fs::read_to_string(hook).unwrap(), mode)
        });
        assert_eq!(mode, 0o100_755);
        assert!(text.contains(&format!(" {PROGRAM} hook libvirt")), "{text}");
    }
    let with = tree(&host, HOOKS);
    run(&host, "libvirt").ok();
    assert_eq!(tree(&host, HOOKS), with);
    run(&host, "libvirt --remove").ok();
    assert_eq!(tree(&host, HOOKS), before);
    let said = run(&host, "libvirt --remove").ok();
    assert!(said.contains("no hook of macfence's"), "{said}");
}

/// Takes libvirt's LXC driver away from a host.
fn without_lxc(host: &Host) {
    let find = "find /usr/lib /usr/lib64 -name libvirt_driver_lxc.so 2>/dev/null";
    let modules = host.ok("sh", &["-c", find]);
    assert!(!modules.is_empty(), "libvirt-daemon-driver-lxc is missing");
    for module in modules.lines() {
        let none: Option<&str> = None;
        let hide = || mount(Some("/dev/null"), module, none, MsFlags::MS_BIND, none);
        host.run(hide).unwrap();
    }
}

#[test]
fn the_lxc_driver_gets_a_hook_only_where_it_is_and_nobody_elses_is_replaced() {
    let host = host();
    let file = "/etc/libvirt/hooks/lxc.d/macfence";
    host.run(|| {
        fs::create_dir(Path::new(file).parent().unwrap()).unwrap();
        fs::write(file, "#!/bin/sh\necho theirs\n").unwrap();
    });
    let before = tree(&host, HOOKS);
    // Nor does QEMU's driver get one then.
    failed(&run(&host, "libvirt"), &[file, "not macfence's"]);
    let said = run(&host, "libvirt --remove").ok();
    assert!(said.contains(&format!("{file}: left")), "{said}");
    assert_eq!(tree(&host, HOOKS), before);
    host.ok("rm", &[file]);
    host.ok("rmdir", &["/etc/libvirt/hooks/lxc.d"]);

    // doctor looks at both, and misses the one that the configuration asks for.
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(config.path(), "connect = ['qemu:///system', 'lxc:///']\n").unwrap();
    let hooks = || {
        let config = config.path().to_str().unwrap();
        let found = host
            .macfence(["doctor", "--json", "--config", config])
            .stdout;
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        let found = found.as_array().unwrap().clone().into_iter();
        found
            .filter(|found| found["topic"] == "libvirt hook")
            .collect::<Vec<_>>()
    };
    run(&host, "libvirt").ok();
    let found = hooks();
    let text = found[0]["text"].as_str().unwrap();
    assert!(
        found.len() == 1 && text.contains(HOOK) && text.contains(LXC_HOOK),
        "{found:?}"
    );
    host.ok("chmod", &["a-x", LXC_HOOK]);
    assert_eq!(hooks()[0]["level"], "fail");
    host.ok("rm", &[LXC_HOOK]);
    let found = hooks();
    assert_eq!(
        (&found[0]["level"], &found[1]["level"]),
        (&"ok".into(), &"warn".into())
    );
    run(&host, "libvirt --remove").ok();

    without_lxc(&host);
    run(&host, "libvirt").ok();
    assert!(host.run(|| Path::new(HOOK).exists() && !Path::new(LXC_HOOK).exists()));
    assert_eq!(hooks().len(), 1);
}

#[test]
fn a_link_that_an_older_page_said_to_make_becomes_a_copy() {
    let host = host();
    host.run(|| {
        fs::create_dir(Path::new(HOOK).parent().unwrap()).unwrap();
        symlink("/usr/share/macfence/libvirt/macfence", HOOK).unwrap();
    });
    run(&host, "libvirt").ok();
    assert!(host.run(|| fs::symlink_metadata(HOOK).unwrap().is_file()));
}

#[test]
fn an_old_libvirt_gets_the_single_file_unless_that_is_somebody_elses() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    script(
        dir.path(),
        "libvirtd",
        "echo '/usr/sbin/libvirtd (libvirt) 6.4.0'",
    );
    host.instead_of("libvirtd", &dir.path().join("libvirtd"));
    let file = format!("{HOOKS}/qemu");
    host.run(|| fs::write(&file, "#!/bin/sh\necho theirs\n").unwrap());
    let before = tree(&host, HOOKS);
    failed(
        &run(&host, "libvirt"),
        &[&file, "not macfence's", "hook libvirt -- \"$@\""],
    );
    let said = run(&host, "libvirt --remove").ok();
    assert!(said.contains("left"), "{said}");
    assert_eq!(tree(&host, HOOKS), before);
    host.run(|| fs::remove_file(&file).unwrap());
    run(&host, "libvirt").ok();
    assert!(
        host.run(|| fs::read_to_string(&file).unwrap())
            .contains(PROGRAM)
    );
    for hook in [HOOK, LXC_HOOK] {
        assert!(!host.run(|| Path::new(hook).exists()));
    }
    assert!(host.run(|| Path::new(HOOKS).join("lxc").is_file()));
    run(&host, "libvirt --remove").ok();
    assert_eq!(tree(&host, HOOKS).lines().count(), 1);
}

#[test]
fn a_hook_that_would_fail_is_not_installed() {
    let host = host();
    host.hide("nft");
    host.hide("ebtables");
    let before = tree(&host, HOOKS);
    let words = [
        "nothing was changed",
        "libvirt would start no VM",
        "nft was not found",
    ];
    failed(&run(&host, "libvirt"), &words);
    assert_eq!(tree(&host, HOOKS), before);
}

#[test]
fn what_cannot_be_is_named() {
    let host = host();
    failed(&run(&host, "qemu"), &["qemu"]);
    host.hide("libvirtd");
    failed(&run(&host, "libvirt"), &["neither libvirtd nor virtqemud"]);
    host.run(|| tmpfs("/var/tmp"));
    failed(
        &run(&host, "opennebula"),
        &["/var/lib/one/remotes", REMOTES],
    );
    let oneadmin = Oneadmin::of(&host);
    let ran = oneadmin.run(&format!("{PROGRAM} install-hook libvirt"), "");
    failed(&ran, &["run as root"]);
}

#[test]
fn opennebulas_files_are_written_as_its_user_who_can_lead_root_nowhere() {
    let host = host();
    let oneadmin = Oneadmin::of(&host);
    host.ok(
        "rm",
        &[
            "-r",
            &format!("{REMOTES}/vnm/bridge/post.d"),
            &format!("{REMOTES}/vnm/bridge/clean.d"),
        ],
    );
    host.ok("chown", &["-R", "oneadmin:", REMOTES]);
    let before = tree(&host, REMOTES);
    run(&host, "opennebula").ok();
    for name in ["post.d", "clean.d"] {
        let file = format!("{REMOTES}/vnm/bridge/{name}/macfence");
        let (owner, mode) = host.run(|| {
            let found = fs::symlink_metadata(&file).unwrap();
            (found.uid(), found.mode())
        });
        assert_eq!((owner, mode), (9869, 0o100_755));
    }
    run(&host, "opennebula --remove").ok();
    assert_eq!(tree(&host, REMOTES), before);

    host.ok("mkdir", &["/var/tmp/roots"]);
    let link = format!("ln -s /var/tmp/roots {REMOTES}/vnm/bridge/post.d");
    oneadmin.run(&link, "").ok();
    failed(
        &run(&host, "opennebula"),
        &["Permission denied", "nothing was changed"],
    );
    assert_eq!(host.ok("ls", &["/var/tmp/roots"]), "");
    failed(
        &run(&host, "opennebula --driver ovs"),
        &["\"ovs\"", "bridge, fw"],
    );
}
