//! Tests what OpenNebula's oneadmin can and cannot do as root with the shipped sudoers file.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use macfence::cli::LINKS;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::lab::oneadmin::{Oneadmin, SUDOERS, TMP};
use crate::lab::{
    Host, LIBEXEC, LOGIN_PATH, MACFENCE, PROGRAM, Ran, domain, path_with, prepend, replace, script,
    tmpfs,
};

const A: &str = "02:00:c0:a8:00:05";

/// A URI that makes libvirt run a program.
const EVIL: &str = "qemu+ext:///system?command=/var/tmp/tmp/evil";

/// The template of VM 42 with one NIC, as OpenNebula's drivers get it.
fn template() -> String {
    BASE64_STANDARD.encode(format!(
        "<VM><ID>42</ID><TEMPLATE><NIC><BRIDGE>br0</BRIDGE><MAC>{A}</MAC><NIC_ID>0</NIC_ID>\
         <TARGET>one-42-0</TARGET><VN_MAD>bridge</VN_MAD></NIC></TEMPLATE></VM>"
    ))
}

/// A host with the port of VM 42 on a bridge with Linux's defaults, and a virsh that records its
/// calls.
fn host() -> (Host, tempfile::TempDir) {
    let host = Host::new();
    host.ip("link add br0 type bridge\nlink set br0 up\n");
    host.ports("br0", &["one-42-0"]);
    let dir = tempfile::tempdir().unwrap();
    let xml = domain("one-42", &[(A, "one-42-0", "br0")]);
    std::fs::write(dir.path().join("xml"), xml).unwrap();
    let virsh = "d=${0%/*}; echo \"$*\" >>$d/calls; env >>$d/env; cat $d/xml";
    script(&dir, "virsh", virsh);
    (host, dir)
}

fn entry(name: &str) -> String {
    format!("{LIBEXEC}/{name}")
}

/// Runs sudo with these arguments.
fn sudo(one: &Oneadmin, args: &[&str], stdin: &str) -> Ran {
    let mut sudo = Command::new("sudo");
    sudo.arg("-n")
        .args(args)
        .env_clear()
        .env("PATH", LOGIN_PATH);
    one.exec(&mut sudo, stdin)
}

#[test]
fn each_entry_point_works_for_oneadmin() {
    let (host, dir) = host();
    let one = Oneadmin::of(&host);
    host.put(&dir, "virsh");
    let is_fenced = |fenced: bool| assert_eq!(!host.fenced().is_empty(), fenced);
    for (call, fences) in [
        ("hook one-post one-42 host1", true),
        ("hook one-clean host1", false),
        ("hook one-post --driver fw -- one-42 host1", false),
        ("hook one-post --driver bridge -- one-42 host1", true),
        ("hook one-clean --driver bridge -- host1", false),
        ("hook driver-post bridge one-42 host1", true),
        ("hook ebtables-flush", true),
        ("hook driver-clean bridge host1", false),
        ("hook ebtables-kvm one-42", true),
    ] {
        one.run(&format!("{PROGRAM} {call}"), &template()).quiet();
        is_fenced(fences);
    }
    // The entry points by their paths, without sudo.
    let path = entry("driver-clean");
    one.run(&format!("{path} bridge host1"), &template())
        .quiet();
    is_fenced(false);
    let path = entry("driver-post");
    let call = format!("{path} bridge one-42 host1");
    one.run(&call, &template()).quiet();
    is_fenced(true);
    host.unplug("one-42-0");
    one.run(&format!("{PROGRAM} hook ebtables-flush"), "")
        .quiet();
    is_fenced(false);
    // With root's rights, hooks can also set this.
    let learn = "/sys/class/net/br0/bridge/no_linklocal_learn";
    assert_eq!(host.run(|| std::fs::read_to_string(learn).unwrap()), "1\n");
}

#[test]
fn a_failure_behind_sudo_comes_back_unchanged() {
    let (host, _dir) = host();
    let one = Oneadmin::of(&host);
    let error = one.run(&format!("{PROGRAM} hook one-post"), "x").error();
    assert!(error.contains("not base64"), "{error}");
    let ran = sudo(&one, &[&entry("driver-post")], "");
    assert_eq!(ran.status, 2, "{ran:?}");
    // The arguments are wrong, so macfence fails before it calls sudo.
    let ran = one.run(&format!("{PROGRAM} hook ebtables-kvm"), "");
    assert_eq!(ran.status, 2, "{ran:?}");
}

#[test]
fn a_flag_that_chooses_what_root_does_is_refused_with_its_name() {
    let (host, _dir) = host();
    let one = Oneadmin::of(&host);
    let before = host.generation();
    for (flag, value) in [
        ("--config", "/etc/shadow"),
        ("--connect", EVIL),
        ("--bridge", "br0"),
        ("--backend", "ebtables"),
        ("--prefix-len", "8"),
        ("--trusted", A),
        ("--verbose", ""),
    ] {
        let given = if value.is_empty() {
            flag.to_owned()
        } else {
            format!("{flag}='{value}'")
        };
        for call in [
            format!("{given} hook one-post"),
            format!("hook one-post {given}"),
            format!("hook ebtables-kvm one-42 {given}"),
        ] {
            let error = one.run(&format!("{PROGRAM} {call}"), &template()).error();
            let words = format!("{flag}: only root may choose this");
            assert!(error.contains(&words), "{call}: {error}");
        }
    }
    assert_eq!(host.generation(), before);
}

#[test]
fn nothing_behind_an_entry_point_is_a_flag() {
    let (host, dir) = host();
    let one = Oneadmin::of(&host);
    host.put(&dir, "virsh");
    let connect = format!("--connect={EVIL}");
    let flags: [&[&str]; 9] = [
        &["--config", "/etc/shadow"],
        &["--config=/etc/shadow"],
        &["--", "--config", "/etc/shadow"],
        &["--connect", EVIL],
        &[&connect],
        &["--", &connect],
        &["--", "--", &connect],
        &["one-42", &connect],
        &["-c", EVIL],
    ];
    for path in LINKS.map(entry) {
        for flags in flags {
            let args = [&["--", &*path], flags].concat();
            let ran = sudo(&one, &args, &template());
            assert!(!ran.stderr.contains("root:"), "{ran:?}");
            // It must not be taken for the name of the configuration file either.
            assert!(!ran.stderr.contains("shadow:"), "{ran:?}");
        }
    }
    let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap_or_default();
    for call in calls.lines() {
        assert!(call.starts_with("-q -c qemu:///system "), "{call}");
    }
}

#[test]
fn sudo_runs_nothing_but_the_entry_points() {
    let (host, _dir) = host();
    let one = Oneadmin::of(&host);
    let (mine, flush) = (
        |name: &str| format!("{TMP}/{name}"),
        entry("ebtables-flush"),
    );
    host.run(|| {
        symlink(PROGRAM, mine("list")).unwrap();
        symlink("/bin/sh", mine("one-post")).unwrap();
        std::fs::copy("/bin/sh", mine("one-clean")).unwrap();
        std::fs::copy(PROGRAM, mine("ebtables-kvm")).unwrap();
        symlink(PROGRAM, mine("ebtables-xen")).unwrap();
    });
    let before = host.generation();
    let up = format!("{LIBEXEC}/../../sbin/macfence");
    for args in [
        &[PROGRAM, "apply", "--xml", "-"][..],
        &[PROGRAM, "hook", "one-post"],
        &[PROGRAM, "list"],
        &[&up, "list"],
        &["macfence", "list"],
        &["nft", "-j", "-f", "-"],
        &["nft", "-c", "-j", "-f", "-"],
        &["nft", "list", "ruleset"],
        &["ebtables", "-L"],
        &["virsh", "-c", EVIL],
        &["sh", "-c", "id"],
        &["-s"],
        &["-i"],
        // Other programs under the names of entry points.
        &[&mine("list")],
        &[&mine("one-post"), "-c", "id"],
        &[&mine("one-clean"), "-c", "id"],
        &[&mine("ebtables-kvm"), "one-42"],
        // The entry points with arguments, options or variables.
        &[&flush, "x"],
        &["-E", &flush],
        &["PATH=/var/tmp/tmp", &flush],
        &["LIBVIRT_DEFAULT_URI=x", &flush],
        &["-u", "daemon", &flush],
        &["-g", "daemon", &flush],
        &["-D", TMP, &flush],
        &["-R", TMP, &flush],
        &["-i", &flush],
        &["-s", &flush],
        &["-C", "100", &flush],
        &["-e", &flush],
        &["-e", "/etc/shadow"],
    ] {
        let ran = sudo(&one, args, "include \"/etc/shadow\"");
        assert_ne!(ran.status, 0, "{args:?}: {ran:?}");
        assert!(!ran.stderr.contains("macfence: "), "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{args:?}: {ran:?}");
    }
    assert_eq!(host.generation(), before);
    // sudo allows this one, because it is the same file under the same name. So it must do no more
    // than the entry point.
    let link = mine("ebtables-xen");
    for args in [&["list"][..], &["--connect", EVIL]] {
        let ran = sudo(&one, &[&[&*link], args].concat(), "");
        assert_ne!(ran.status, 0, "{ran:?}");
        assert_eq!(host.generation(), before);
    }
    // sudo under its other name.
    let script = "exec -a sudoedit sudo -n /etc/shadow";
    let mut bash = Command::new("bash");
    let ran = one.exec(bash.args(["-c", script]).env("PATH", LOGIN_PATH), "");
    assert_ne!(ran.status, 0, "{ran:?}");
}

/// Variables that would do harm if they reached root.
fn hostile() -> [(&'static str, String); 14] {
    [
        ("PATH", prepend(TMP, LOGIN_PATH)),
        ("LD_PRELOAD", format!("{TMP}/evil.so")),
        ("LD_LIBRARY_PATH", TMP.to_owned()),
        ("LD_AUDIT", format!("{TMP}/evil.so")),
        ("LIBVIRT_DEFAULT_URI", EVIL.to_owned()),
        ("LIBVIRT_AUTH_FILE", TMP.to_owned()),
        ("VIRSH_DEFAULT_CONNECT_URI", EVIL.to_owned()),
        ("XDG_CONFIG_HOME", TMP.to_owned()),
        ("HOME", TMP.to_owned()),
        ("TMPDIR", TMP.to_owned()),
        ("MACFENCE_CONFIG", "/etc/shadow".to_owned()),
        ("ENV", format!("{TMP}/evil")),
        ("LANG", "de_DE.UTF-8".to_owned()),
        ("TZ", "Mars".to_owned()),
    ]
}

#[test]
fn no_variable_of_oneadmins_environment_gets_to_root() {
    let (host, dir) = host();
    let one = Oneadmin::of(&host);
    host.put(&dir, "virsh");
    for name in ["nft", "virsh", "ebtables", "evil"] {
        let evil = format!("touch {TMP}/done; cat /etc/shadow");
        host.run(|| script(TMP, name, &evil));
    }
    // A site whose own settings keep all variables, and demand a terminal and logs.
    let kept: Vec<_> = hostile().map(|(name, _)| name).into();
    let site = format!(
        "Defaults !env_reset, requiretty, log_input, log_output, use_pty, setenv\n\
         Defaults env_keep += \"{}\"\nDefaults:oneadmin !env_reset, !secure_path\n\
         @includedir /etc/sudoers.d\n",
        kept.join(" ")
    );
    host.run(|| {
        tmpfs("/var/log");
        nix::mount::umount("/etc/sudoers").unwrap();
        replace("/etc/sudoers", &site);
    });
    let call = |args: &[&str]| {
        let mut sudo = Command::new("/usr/bin/setsid");
        sudo.args(["-w", "/usr/bin/sudo", "-n", "--"]).args(args);
        one.exec(sudo.env_clear().envs(hostile()), &template())
    };
    call(&[&entry("driver-post"), "bridge", "one-42", "host1"]).ok();
    // The command `list` would ask virsh with our environment, so look at the ruleset instead.
    assert!(host.ruleset().contains("chain vm-one-42"));
    call(&[&entry("ebtables-kvm"), "one-42"]).ok();
    assert!(!host.run(|| Path::new(TMP).join("done").exists()));
    let env = std::fs::read_to_string(dir.path().join("env")).unwrap();
    let names = env.lines().map(|line| line.split('=').next().unwrap());
    let mut names: Vec<_> = names.collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort();
    assert_eq!(names, ["LC_ALL", "PATH"], "{env}");
    // sudo's own arguments cannot pass them either, though this site allows it.
    let flush = entry("ebtables-flush");
    for args in [["-E", &*flush], ["PATH=/var/tmp/tmp", &flush]] {
        let ran = sudo(&one, &args, "");
        assert_ne!(ran.status, 0, "{ran:?}");
        assert!(ran.stderr.contains("not allowed to"), "{ran:?}");
    }
    // Shows what sudo itself passes on, without macfence.
    host.run(|| {
        std::fs::remove_file(entry("one-clean")).unwrap();
        script(LIBEXEC, "one-clean", "env");
    });
    let env = call(&[&entry("one-clean")]).ok();
    for (name, value) in hostile() {
        assert!(
            !env.lines().any(|line| line == format!("{name}={value}")),
            "{env}"
        );
    }
}

#[test]
fn behind_sudo_the_callers_path_is_ignored() {
    let (host, dir) = host();
    script(&dir, "nft", "echo evil >&2; exit 1");
    let list = |variable: &str| {
        let mut command = Command::new(MACFENCE);
        command.arg("list").env("PATH", path_with(&dir));
        host.exec(command.env(variable, "9869"), "")
    };
    assert!(list("OTHER").error().contains("evil"));
    list("SUDO_UID").ok();
}

#[test]
fn a_user_who_cannot_become_root_learns_what_to_install() {
    let (host, _dir) = host();
    let one = Oneadmin::of(&host);
    let before = host.generation();
    let refused = |words: &[&str]| {
        let call = format!("{PROGRAM} hook one-post --driver bridge");
        let error = one.run(&call, &template()).error();
        for words in words {
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(host.generation(), before);
    };
    // The sudoers file of version 0.1.
    let old = "oneadmin ALL=(root) NOPASSWD: /usr/sbin/nft -j -f -\n";
    host.run(|| std::fs::write(SUDOERS, old).unwrap());
    let path = entry("driver-post");
    let run = format!("user 9869 may not run {path} as root: run as root, or let this user");
    let fix = "install the file /etc/sudoers.d/macfence";
    refused(&[&run, fix]);
    host.run(|| std::fs::remove_file(SUDOERS).unwrap());
    refused(&[&run, fix]);
    host.run(|| std::fs::remove_file(&path).unwrap());
    refused(&[&format!("{path} is missing: install macfence")]);
    host.run(|| symlink(PROGRAM, &path).unwrap());
    host.hide("sudo");
    refused(&["install sudo"]);
}

#[test]
fn a_hook_whose_error_output_nobody_reads_does_not_hang() {
    let (host, _dir) = host();
    let one = Oneadmin::of(&host);
    // A NIC on no bridge causes a warning while the lock is held.
    let nic = format!("<NIC><MAC>{A}</MAC><NIC_ID>1</NIC_ID><TARGET>one-42-1</TARGET></NIC>");
    let xml = format!("<VM><ID>42</ID><TEMPLATE>{nic}</TEMPLATE></VM>");
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    fcntl(&full, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while full.write(&[b'x'; 4096]).is_ok() {}
    fcntl(&full, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", &entry("one-post")])
        .stdin(Stdio::piped())
        .stderr(writer);
    let mut hook = host.run(|| one.command(&mut sudo).spawn().unwrap());
    let template = BASE64_STANDARD.encode(xml);
    hook.stdin
        .take()
        .unwrap()
        .write_all(template.as_bytes())
        .unwrap();
    let begun = Instant::now();
    while hook.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = hook.kill();
    assert!(hook.wait().unwrap().success());
}
