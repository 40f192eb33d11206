//! Programs fail, die, hang or print nonsense, or the host lacks something. Each time there is one
//! clear line, and the kernel holds either the old fences or the new ones.

use std::process::Command;
use std::thread;

use nix::mount::{MsFlags, mount};

use crate::lab::{
    Host, IS_LOADING, MACFENCE, Ran, domain, fake_virsh, macfence_with, need, path_with, prepend,
    script, tmpfs,
};

const VMS: usize = 8;

fn name(vm: usize) -> String {
    format!("one-{vm}")
}

fn xml(vm: usize) -> String {
    let mac = format!("02:00:c0:a8:{vm:02x}:05");
    domain(&name(vm), &[(&mac, &name(vm), "br0")])
}

/// Returns a host on which each of [`COMMANDS`] has something to do, its hypervisor, and its
/// ruleset.
fn host() -> (Host, tempfile::TempDir, String) {
    let host = Host::new();
    host.bridge("br0");
    for vm in 0..VMS {
        host.ports("br0", &[&name(vm)]);
    }
    for vm in 0..VMS / 2 {
        let len = if vm == 1 { "32" } else { "40" };
        host.macfence_reading(&xml(vm), ["apply", "--xml", "-", "--prefix-len", len])
            .ok();
    }
    host.unplug(&name(0));
    let running: Vec<_> = (1..VMS).map(|vm| (name(vm), xml(vm))).collect();
    let running: Vec<_> = running
        .iter()
        .map(|(name, xml)| (&**name, &**xml))
        .collect();
    let saved = "flush ruleset\n".to_owned() + &host.ok("nft", &["list", "ruleset"]);
    (host, fake_virsh(&running), saved)
}

const COMMANDS: [&[&str]; 8] = [
    &["apply", "one-1", "one-5", "one-6"],
    &["apply", "one-7"],
    &["sync"],
    &["flush"],
    &["remove", "one-1", "one-2"],
    &["hook", "ebtables-kvm", "one-1"],
    &["list"],
    &["check"],
];

/// The last line of `check` if something differs.
const HINT: &str = "macfence: note: run macfence sync to set this right\n";

fn run(host: &Host, virsh: &tempfile::TempDir, args: &[&str]) -> Ran {
    host.exec(macfence_with(virsh).args(args), "")
}

/// Runs macfence like [`run`], with the programs of another directory first.
fn run_with(
    host: &Host,
    faulty: &tempfile::TempDir,
    virsh: &tempfile::TempDir,
    args: &[&str],
) -> Ran {
    let path = prepend(faulty, &path_with(virsh));
    host.exec(Command::new(MACFENCE).args(args).env("PATH", path), "")
}

/// Runs every command a few times with a script in place of these programs. The script finds the
/// number of its call in `$n` and the real program in `$real`.
fn with_faults(faults: &[(&str, &str)]) {
    let (host, virsh, saved) = host();
    for args in COMMANDS {
        let restore = || {
            drop(
                host.exec(Command::new("/usr/sbin/nft").args(["-f", "-"]), &saved)
                    .ok(),
            )
        };
        restore();
        let before = host.sorted_ruleset();
        let status = run(&host, &virsh, args).status;
        let after = host.sorted_ruleset();
        let faulty = tempfile::tempdir().unwrap();
        let d = faulty.path().display();
        for (program, fault) in faults {
            let real = match *program {
                "virsh" => virsh.path().join("virsh").display().to_string(),
                program => format!("/usr/sbin/{program}"),
            };
            let count = format!(
                "n=$(cat {d}/{program}.n 2>/dev/null); n=$((n+1)); echo $n >{d}/{program}.n"
            );
            script(&faulty, program, &format!("{count}; real={real}; {fault}"));
        }
        for round in 0..6 {
            restore();
            let mut ran = run_with(&host, &faulty, &virsh, args);
            ran.stderr = ran.stderr.replace(HINT, "");
            let now = host.sorted_ruleset();
            let what = format!("{faults:?} {args:?} round {round}: {ran:?}");
            if ran.status == status && ran.stderr.is_empty() {
                assert_eq!(now, after, "{what}");
                continue;
            }
            // `list` can show fences without virsh.
            let is_less = "macfence: warning: only what is fenced is shown";
            if *args == ["list"] && ran.stderr.starts_with(is_less) {
                assert!(ran.status == 0 && faults[0].0 == "virsh", "{what}");
                assert_eq!(now, before, "{what}");
                continue;
            }
            let trouble = if *args == ["check"] { 2 } else { 1 };
            assert!(ran.status == trouble && ran.stdout.is_empty(), "{what}");
            let line = ran.stderr.strip_suffix('\n').unwrap();
            assert!(
                line.starts_with("macfence: error: ") && !line.contains('\n'),
                "{what}"
            );
            assert!(
                faults.iter().any(|(program, _)| line.contains(program)),
                "{what}"
            );
            assert!(now == before || now == after, "{what}: {now:#?}");
        }
        // When the programs work again, so do all commands.
        restore();
        assert_eq!(run(&host, &virsh, args).status, status);
        assert_eq!(host.sorted_ruleset(), after);
    }
}

#[test]
fn an_nft_that_fails_every_third_call() {
    with_faults(&[(
        "nft",
        "[ $((n % 3)) = 0 ] && { echo 'Error: no buffer space' >&2; exit 1; }; exec $real \"$@\"",
    )]);
}

#[test]
fn an_nft_that_is_killed_before_or_after_its_work() {
    with_faults(&[("nft", "[ $((n % 3)) = 0 ] && kill -9 $$; exec $real \"$@\"")]);
    with_faults(&[("nft", "$real \"$@\"; [ $((n % 3)) = 0 ] && kill -9 $$")]);
}

#[test]
fn an_nft_that_prints_rubbish() {
    let cut = "[ $((n % 3)) = 0 ] && { $real \"$@\" | head -c 90; exit; }; exec $real \"$@\"";
    let other = "[ $((n % 3)) = 0 ] && { echo 'segfault at 0'; exit; }; exec $real \"$@\"";
    // nft must fail if it did not load. So only calls that load nothing print nonsense and succeed.
    let loads = format!("{IS_LOADING} && exec $real \"$@\"; ");
    with_faults(&[("nft", &format!("{loads}{cut}"))]);
    with_faults(&[("nft", &format!("{loads}{other}"))]);
}

#[test]
fn a_virsh_that_fails_is_killed_or_prints_rubbish() {
    for fault in [
        "echo 'error: connection reset' >&2; exit 1",
        "kill -9 $$",
        "$real \"$@\" | head -c 200",
        "echo 'Segmentation fault'",
        "$real \"$@\"; kill -9 $$",
    ] {
        let fault = format!("[ $((n % 3)) = 0 ] && {{ {fault}; exit; }}; exec $real \"$@\"");
        with_faults(&[("virsh", &fault)]);
    }
}

#[test]
fn programs_that_hang_are_killed_and_named() {
    let (host, virsh, _) = host();
    let before = host.sorted_ruleset();
    let hang = |program: &str, when: &str, args: &'static [&'static str]| {
        let dir = tempfile::tempdir().unwrap();
        let real = if program == "virsh" {
            virsh.path().join("virsh")
        } else {
            "/usr/sbin/nft".into()
        };
        let says = format!(
            "case $1,$4 in {when}) exec sleep 60;; esac; exec {} \"$@\"",
            real.display()
        );
        script(&dir, program, &says);
        let (host, virsh) = (&host, &virsh);
        move || {
            let ran = run_with(host, &dir, virsh, args);
            let trouble = if args == ["check"] { 2 } else { 1 };
            assert_eq!((ran.status, &*ran.stdout), (trouble, ""), "{ran:?}");
            assert!(ran.stderr.contains(" s and was killed"), "{ran:?}");
        }
    };
    thread::scope(|scope| {
        scope.spawn(hang("virsh", "*,list*", &["check"]));
        scope.spawn(hang("nft", "-j*", &["check"]));
        scope.spawn(hang("nft", "-j*", &["list"]));
        scope.spawn(hang("virsh", "*,list*", &["sync"]));
        scope.spawn(hang("nft", "-j*", &["flush"]));
    });
    assert_eq!(host.sorted_ruleset(), before);
    assert_eq!(run(&host, &virsh, &["sync"]).status, 0);
}

#[test]
fn missing_rights_a_full_run_and_a_missing_sys_are_reported() {
    let (host, virsh, _) = host();
    let before = host.sorted_ruleset();
    // An nft that may read but not load, as with the root of a container.
    let faulty = tempfile::tempdir().unwrap();
    let says = format!(
        "{IS_LOADING} || exec /usr/sbin/nft \"$@\"; echo 'Operation not permitted' >&2; exit 1"
    );
    script(&faulty, "nft", &says);
    for args in [
        &["apply", "one-5"][..],
        &["apply", "one-5", "one-6"],
        &["remove", "one-2"],
        &["sync"],
        &["flush"],
    ] {
        let error = run_with(&host, &faulty, &virsh, args).error();
        assert!(
            error.contains("Operation not permitted"),
            "{args:?}: {error}"
        );
        assert_eq!(host.sorted_ruleset(), before, "{args:?}");
    }
    // macfence needs no room in /run for this.
    host.run(|| {
        mount(
            Some("tmpfs"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=4k,mode=755"),
        )
        .unwrap();
        let _ = std::fs::write("/run/full", vec![0; 1 << 20]);
        assert!(std::fs::write("/run/more", [0; 5000]).is_err());
    });
    run(&host, &virsh, &["apply", "one-5"]).ok();
    assert!(host.fenced().contains(&name(5)));
    // Without /sys, macfence cannot know which port is on a bridge. That is not the same as "on
    // none".
    let before = host.sorted_ruleset();
    host.run(|| tmpfs("/sys"));
    for args in [&["apply", "one-6"][..], &["sync"], &["flush"], &["check"]] {
        let ran = run(&host, &virsh, args);
        let trouble = if *args == ["check"] { 2 } else { 1 };
        assert!(
            ran.status == trouble && ran.stderr.contains("/sys/class/net"),
            "{ran:?}"
        );
        assert_eq!(host.sorted_ruleset(), before, "{args:?}");
    }
}

#[test]
fn a_clock_that_is_set_back_while_nft_runs_changes_nothing() {
    need("faketime");
    let (host, virsh, _) = host();
    let clock = virsh.path().join("clock");
    std::fs::write(&clock, "+0\n").unwrap();
    let back = format!(
        "echo -9d >{}; exec env -u LD_PRELOAD /usr/sbin/nft \"$@\"",
        clock.display()
    );
    script(&virsh, "nft", &back);
    let mut command = Command::new("faketime");
    command.args(["-f", "+0", MACFENCE, "apply", "one-5", "one-6"]);
    command
        .env("PATH", path_with(&virsh))
        .env("FAKETIME_TIMESTAMP_FILE", &clock);
    command
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    host.exec(&mut command, "").ok();
    assert_eq!(std::fs::read_to_string(&clock).unwrap(), "-9d\n");
    assert!(host.fenced().contains(&name(6)));
}

#[test]
fn other_files_in_the_place_of_ebtables_lock_are_neither_followed_nor_changed() {
    let (host, virsh, _) = host();
    host.hide("nft");
    host.run(|| tmpfs("/var/lib/ebtables"));
    let lock = "/var/lib/ebtables/lock";
    let apply = || {
        host.ok("ebtables", &["-F"]);
        run(
            &host,
            &virsh,
            &["apply", "one-4", "one-5", "one-6", "one-7"],
        )
        .ok();
        assert_eq!(host.ok("ebtables", &["-L"]).matches(" -o ").count(), 4);
    };
    host.run(|| std::fs::create_dir(lock).unwrap());
    apply();
    host.run(|| {
        std::fs::remove_dir(lock).unwrap();
        std::os::unix::fs::symlink("/nonexistent/file", lock).unwrap();
    });
    apply();
    host.run(|| {
        std::fs::remove_file(lock).unwrap();
        std::fs::write(lock, "not mine").unwrap();
        std::os::unix::fs::chown(lock, Some(65534), Some(65534)).unwrap();
    });
    apply();
    assert_eq!(
        host.run(|| std::fs::read_to_string(lock).unwrap()),
        "not mine"
    );
}
