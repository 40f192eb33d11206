//! `doctor` on hosts with the mistakes that people make: it names each, and what it says to do about it
//! sets it right.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::lab::oneadmin::{Oneadmin, REMOTES, SUDOERS};
use crate::lab::{
    Host, MACFENCE, PROGRAM, domain, fake_virsh, for_everybody, path_with, script, source, tmpfs,
};

const A: &str = "02:00:c0:a8:00:05";
const ROUTER: &str = "52:54:00:aa:bb:01";
const HOOK: &str = "/etc/libvirt/hooks/qemu.d/macfence";

/// What doctor said.
struct Said {
    status: i32,
    findings: Vec<Value>,
}

impl Said {
    /// The findings of a level.
    fn of(&self, level: &str) -> Vec<&Value> {
        let findings = self.findings.iter();
        findings.filter(|found| found["level"] == level).collect()
    }

    /// The one finding that is not as it should be: level, topic, and text with fix.
    fn only(&self) -> (&str, &str, String) {
        let mut wrong = self.findings.iter().filter(|found| found["level"] != "ok");
        let found = wrong.find(|found| found["level"] != "absent");
        let found = found.unwrap_or_else(|| panic!("{:#?}", self.findings));
        assert_eq!(
            self.of("warn").len() + self.of("fail").len() + self.of("unknown").len(),
            1,
            "{:#?}",
            self.findings
        );
        let text = |key: &str| found[key].as_str().unwrap_or_default();
        let whole = format!("{}; {}", text("text"), text("fix"));
        (text("level"), text("topic"), whole)
    }
}

/// Runs a program as doctor, which finds this virsh.
fn run(host: &Host, program: &str, virsh: &TempDir, args: &[&str]) -> Said {
    let mut command = Command::new(program);
    command.args(["doctor", "--json"]).args(args);
    let ran = host.exec(command.env("PATH", path_with(virsh)), "");
    assert_eq!(ran.stderr, "");
    Said {
        findings: serde_json::from_str(&ran.stdout).expect("JSON"),
        status: ran.status,
    }
}

fn doctor(host: &Host, virsh: &TempDir, args: &[&str]) -> Said {
    run(host, MACFENCE, virsh, args)
}

/// A host on which all is well: a fenced VM, and libvirt's hook.
fn healthy() -> (Host, TempDir) {
    let host = Host::new();
    host.bridge("br0");
    host.ports("br0", &["one-1-0"]);
    let xml = domain("one-1", &[(A, "one-1-0", "br0")]);
    host.apply(&xml).ok();
    let shipped = std::fs::read_to_string(source("share/libvirt/macfence")).expect("a hook");
    host.run(|| {
        // What the hook calls.
        crate::lab::install();
        tmpfs("/etc/libvirt/hooks");
        let dir = Path::new(HOOK).parent().expect("a directory");
        std::fs::create_dir(dir).expect("qemu.d");
        let body = shipped.strip_prefix("#!/bin/sh\n").expect("a script");
        script(dir, "macfence", body);
    });
    (host, fake_virsh(&[("one-1", &xml)]))
}

#[test]
fn a_host_on_which_all_is_well_has_no_findings() {
    let (host, virsh) = healthy();
    let said = doctor(&host, &virsh, &[]);
    assert_eq!(said.status, 0, "{:#?}", said.findings);
    for level in ["warn", "fail", "unknown"] {
        assert!(said.of(level).is_empty(), "{:#?}", said.findings);
    }
    let fences = said
        .findings
        .iter()
        .find(|found| found["topic"] == "fences");
    assert_eq!(fences.expect("fences")["text"], "VMs that are fenced: 1");
    // People get lines in columns, without colour where nobody sees it.
    let mut command = Command::new(MACFENCE);
    let ran = host.exec(command.arg("doctor").env("PATH", path_with(&virsh)), "");
    let text = ran.ok();
    assert_eq!(text.lines().count(), said.findings.len(), "{text}");
    assert!(text.contains("\nok    nft "), "{text}");
    assert!(
        !text.contains('\x1b') && text.lines().count() < 24,
        "{text}"
    );
}

#[test]
fn a_host_without_nft_is_told_what_to_install() {
    let (host, virsh) = healthy();
    host.ok("nft", &["flush", "ruleset"]);
    host.hide("nft");
    host.apply(&domain("one-1", &[(A, "one-1-0", "br0")])).ok();
    let said = doctor(&host, &virsh, &[]);
    let (level, topic, text) = said.only();
    assert_eq!((said.status, level, topic), (1, "warn", "nft"), "{text}");
    assert!(text.contains("nft was not found") && text.contains("apt install nftables"));
    // Where it is a must, nothing works.
    let said = doctor(&host, &virsh, &["--backend", "nft"]);
    let failed = said.of("fail");
    assert!(failed.iter().any(|found| found["topic"] == "nft"));
    assert_eq!(said.status, 1);
}

#[test]
fn a_hook_that_is_a_link_or_cannot_be_executed_is_named() {
    let (host, virsh) = healthy();
    let shipped = source("share/libvirt/macfence");
    host.run(|| {
        std::fs::remove_file(HOOK).unwrap();
        symlink(&shipped, HOOK).unwrap();
    });
    let said = doctor(&host, &virsh, &[]);
    let (level, topic, text) = said.only();
    // This machine's kernel has no AppArmor, with which it were a failure.
    assert_eq!((level, topic), ("warn", "libvirt hook"), "{text}");
    assert!(
        text.contains("is a link") && text.contains("macfence install-hook libvirt"),
        "{text}"
    );
    assert_eq!(said.status, 1);
    host.ok(
        "cp",
        &["--remove-destination", shipped.to_str().unwrap(), HOOK],
    );
    assert_eq!(doctor(&host, &virsh, &[]).status, 0);
    host.ok("chmod", &["644", HOOK]);
    let said = doctor(&host, &virsh, &[]);
    // Nothing calls macfence then.
    let topics: Vec<_> = said
        .of("fail")
        .iter()
        .map(|found| &found["topic"])
        .collect();
    assert_eq!(topics, ["libvirt hook", "service"]);
    let fix = &said.of("fail")[0]["fix"];
    assert_eq!(fix, &format!("run \"chmod 755 {HOOK}\""));
}

/// Makes it look as if AppArmor confined libvirtd: what the kernel would tell of it.
fn confine(host: &Host) {
    host.run(|| {
        tmpfs("/sys/module");
        let parameters = Path::new("/sys/module/apparmor/parameters");
        std::fs::create_dir_all(parameters).unwrap();
        std::fs::write(parameters.join("enabled"), "Y\n").unwrap();
        tmpfs("/sys/kernel/security");
        let profiles = Path::new("/sys/kernel/security/apparmor");
        std::fs::create_dir(profiles).unwrap();
        std::fs::write(profiles.join("profiles"), "libvirtd (enforce)\n").unwrap();
    });
}

#[test]
fn where_apparmor_confines_libvirt_a_link_is_a_failure() {
    let (host, virsh) = healthy();
    confine(&host);
    host.run(|| {
        std::fs::remove_file(HOOK).unwrap();
        symlink(source("share/libvirt/macfence"), HOOK).unwrap();
    });
    let said = doctor(&host, &virsh, &[]);
    let (level, text) = hook(&said);
    assert_eq!((&*level, said.status), ("fail", 1));
    assert!(text.contains("ends all that run"), "{text}");
}

#[test]
fn a_hook_is_called_and_one_that_fails_is_named_with_its_words() {
    let (host, virsh) = healthy();
    let text = host.run(|| std::fs::read_to_string(HOOK).unwrap());
    let moved = text.replace(" macfence hook", " /opt/macfence hook");
    host.run(|| std::fs::write(HOOK, moved).unwrap());
    let said = doctor(&host, &virsh, &[]);
    let (level, text) = hook(&said);
    assert_eq!((&*level, said.status), ("fail", 1));
    assert!(text.contains("/opt/macfence: not found"), "{text}");
    // What others wrote is not called: it would fail as well.
    host.run(|| std::fs::write(HOOK, "#!/bin/sh\nmacfence no such hook\n").unwrap());
    let said = doctor(&host, &virsh, &[]);
    assert_eq!(said.status, 0, "{:#?}", said.findings);
}

/// What is found about libvirt's hook.
fn hook(said: &Said) -> (String, String) {
    let mut found = said.findings.iter();
    let found = found.find(|found| found["topic"] == "libvirt hook");
    let found = found.expect("a finding");
    let word = |name: &str| found[name].as_str().unwrap().to_owned();
    (word("level"), word("text"))
}

#[test]
fn the_service_is_asked_of_systemd() {
    let (host, virsh) = healthy();
    host.run(|| std::fs::create_dir_all("/run/systemd/system").unwrap());
    let systemd = |watch: (&str, &str), sync: &str| {
        let says = format!(
            "case \"$*\" in 'is-enabled macfence.service') echo {};; \
             'is-active macfence.service') echo {};; \
             'is-enabled macfence-sync.service') echo {sync};; *) echo inactive;; esac; exit 3",
            watch.0, watch.1
        );
        script(&virsh, "systemctl", &says);
        doctor(&host, &virsh, &[])
    };
    assert_eq!(systemd(("enabled", "active"), "disabled").status, 0);
    assert_eq!(systemd(("disabled", "inactive"), "enabled").status, 0);
    let said = systemd(("disabled", "inactive"), "disabled");
    let (level, topic, text) = said.only();
    assert_eq!((level, topic), ("warn", "service"), "{text}");
    assert!(
        text.contains("systemctl enable --now macfence.service"),
        "{text}"
    );
    let said = systemd(("enabled", "failed"), "disabled");
    assert_eq!(said.only().0, "fail");
    // Nobody calls at all.
    host.ok("rm", &[HOOK]);
    let said = systemd(("disabled", "inactive"), "enabled");
    let (level, topic, text) = said.only();
    assert_eq!((level, topic), ("fail", "service"), "{text}");
}

#[test]
fn a_bridge_that_is_not_there_is_named_beside_those_that_are() {
    let (host, virsh) = healthy();
    let said = doctor(&host, &virsh, &["--bridge", "br0", "--bridge", "br9"]);
    let (level, topic, text) = said.only();
    assert_eq!((said.status, level, topic), (1, "fail", "bridges"));
    let words = "there is no bridge \"br9\"; this host has \"br0\"";
    assert!(text.starts_with(words), "{text}");
}

#[test]
fn a_router_that_the_host_knows_and_the_vms_do_not_hear_is_named_until_it_is_trusted() {
    let (host, virsh) = healthy();
    host.ip(&format!(
        "addr add 192.0.2.2/24 dev br0\nroute add default via 192.0.2.1\n\
         neigh add 192.0.2.1 lladdr {ROUTER} dev br0 nud permanent\n\
         neigh add 192.0.2.7 lladdr 52:54:00:aa:bb:07 dev br0 nud permanent\n"
    ));
    let said = doctor(&host, &virsh, &[]);
    let (level, topic, text) = said.only();
    assert_eq!((said.status, level, topic), (1, "warn", "trusted"));
    let fix = format!("add \"{ROUTER}\" to trusted in /etc/macfence.toml");
    assert!(text.contains("192.0.2.1") && text.contains(&fix), "{text}");
    // As it says.
    let config = virsh.path().join("macfence.toml");
    std::fs::write(&config, format!("trusted = [\"{ROUTER}\"]\n")).unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let (level, topic, text) = {
        let said = doctor(&host, &virsh, &config);
        let (level, topic, text) = said.only();
        (level.to_owned(), topic.to_owned(), text)
    };
    assert_eq!((&*level, &*topic), ("fail", "fences"), "{text}");
    assert!(
        text.contains("one-1") && text.contains("macfence sync"),
        "{text}"
    );
    let mut sync = Command::new(MACFENCE);
    sync.args(config).arg("sync").env("PATH", path_with(&virsh));
    host.exec(&mut sync, "").ok();
    assert_eq!(doctor(&host, &virsh, &config).status, 0);
}

#[test]
fn what_cannot_be_looked_at_keeps_nothing_else_from_being_looked_at() {
    let (host, virsh) = healthy();
    let config = virsh.path().join("macfence.toml");
    std::fs::write(&config, "bridge = \"br0\"\n").unwrap();
    for (file, words) in [
        (config.to_str().unwrap(), "`bridge`"),
        ("./nope.toml", "nope.toml"),
    ] {
        let said = doctor(&host, &virsh, &["--config", file]);
        assert!(said.of("warn").is_empty(), "{:#?}", said.findings);
        let [wrong] = said.of("fail")[..] else {
            panic!("{:#?}", said.findings);
        };
        assert_eq!(wrong["topic"], "configuration");
        assert!(wrong["text"].as_str().unwrap().contains(words), "{wrong}");
        let unknown = said.of("unknown");
        assert!(unknown.iter().any(|found| found["topic"] == "libvirt hook"));
        for found in unknown {
            assert_eq!(
                found["text"],
                "cannot be checked: the configuration is wrong"
            );
        }
    }
    script(
        &virsh,
        "virsh",
        "[ \"$1\" = --version ] && exec echo 9.0.0; echo no >&2; exit 1",
    );
    let said = doctor(&host, &virsh, &[]);
    let (level, topic, text) = said.only();
    assert_eq!(
        (said.status, level, topic),
        (1, "fail", "hypervisor"),
        "{text}"
    );
    let fences = said
        .findings
        .iter()
        .find(|found| found["topic"] == "fences");
    let text = fences.unwrap()["text"].as_str().unwrap();
    assert!(text.starts_with("ports that are fenced: 1;"), "{text}");
    // Who is not root cannot look.
    let dir = for_everybody();
    let ran = host.as_nobody(&dir, &["doctor"], "");
    assert_eq!((ran.status, &*ran.stdout), (2, ""), "{ran:?}");
}

#[test]
fn an_open_bridge_and_an_open_vm_are_named() {
    let (host, virsh) = healthy();
    host.ip("link set dev br0 type bridge no_linklocal_learn 0\n");
    let said = doctor(&host, &virsh, &[]);
    let (level, topic, text) = said.only();
    assert_eq!((said.status, level, topic), (1, "warn", "hardening"));
    let fix = "run \"ip link set dev br0 type bridge no_linklocal_learn 1\"";
    assert!(text.ends_with(fix), "{text}");
    host.ip("link set dev br0 type bridge no_linklocal_learn 1\n");
    host.ok("nft", &["delete", "table", "bridge", "macfence"]);
    let said = doctor(&host, &virsh, &[]);
    let (level, topic, text) = said.only();
    assert_eq!((level, topic), ("fail", "fences"), "{text}");
    // A VM that the configuration leaves open is told. That it leaves out all of them is a finding.
    host.bridge("br1");
    let said = doctor(&host, &virsh, &["--bridge", "br1"]);
    let (level, topic, text) = said.only();
    assert_eq!((said.status, level, topic), (1, "warn", "fences"), "{text}");
    assert!(text.starts_with("VMs that are fenced: 0; open"), "{text}");
    assert!(
        text.contains("bridges leaves out every VM that runs"),
        "{text}"
    );
}

#[test]
fn opennebulas_drivers_and_the_rights_of_its_user_are_looked_at() {
    let (host, virsh) = healthy();
    Oneadmin::of(&host);
    let said = || run(&host, PROGRAM, &virsh, &[]);
    let healthy = said();
    assert_eq!(healthy.status, 0, "{:#?}", healthy.findings);
    let ok = |topic: &str| {
        let found = healthy
            .findings
            .iter()
            .find(|found| found["topic"] == topic);
        found.expect("a finding")["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(ok("OpenNebula").ends_with(": bridge, fw"));
    assert!(ok("sudo").contains("may run macfence's entry points"));
    let post = format!("{REMOTES}/vnm/fw/post.d/macfence");
    host.ok("chmod", &["644", &post]);
    let wrong = said();
    let (level, topic, text) = wrong.only();
    assert_eq!((level, topic), ("fail", "OpenNebula"), "{text}");
    assert!(
        text.starts_with(&format!("{post} is not executable")),
        "{text}"
    );
    host.ok("chmod", &["755", &post]);
    host.ok("rm", &[SUDOERS]);
    let wrong = said();
    let (level, topic, text) = wrong.only();
    assert_eq!((level, topic), ("fail", "sudo"), "{text}");
    assert!(
        text.contains("/usr/local/libexec/macfence/driver-post"),
        "{text}"
    );
}
