//! Checks the service, and the directory of the locks.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::Result;

use super::finding::Finding;
use crate::process;

const TOPIC: &str = "service";

/// The finding if nothing fences VMs.
pub const NOTHING: &str = "nothing fences VMs as they start: no working hook calls macfence, and the service does not run";

const LOCKS: &str = "/run/macfence";

/// The state of a unit of systemd.
#[derive(Clone, Debug, Default)]
struct Unit {
    /// `enabled`, `disabled`, …; empty: the unit does not exist.
    enabled: String,
    /// `active`, `inactive`, `failed`, …
    active: String,
}

/// The facts about the host.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// `macfence.service` and `macfence-sync.service`; `None`: systemd does not run here.
    units: Option<(Unit, Unit)>,
    /// Whether `macfence watch` runs in this network namespace, started by anything.
    is_watching: bool,
    /// Whether a hook calls macfence when a VM starts.
    is_hooked: bool,
}

/// Checks the service, and whether anything fences VMs as they start.
pub fn look(is_hooked: bool) -> Vec<Finding> {
    let units = Path::new("/run/systemd/system").is_dir();
    let units = units.then(|| Ok((unit("macfence.service")?, unit("macfence-sync.service")?)));
    match units.transpose() {
        Ok(units) => judge(&Facts {
            units,
            is_watching: is_watching(),
            is_hooked,
        }),
        Err(e) => vec![Finding::unknown(TOPIC, &e)],
    }
}

fn unit(name: &str) -> Result<Unit> {
    // If the answer is no, both exit with other statuses than 0.
    let ask = |what| process::run("systemctl", &[what, name], "");
    Ok(Unit {
        enabled: ask("is-enabled")?.stdout.trim().to_owned(),
        active: ask("is-active")?.stdout.trim().to_owned(),
    })
}

/// Tells whether a process of this network namespace is `macfence watch`.
fn is_watching() -> bool {
    let ours = fs::read_link("/proc/self/ns/net").ok();
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes.map_while(Result::ok).any(|process| {
        let path = process.path();
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        is_watch(&words) && ours.is_some() && fs::read_link(path.join("ns/net")).ok() == ours
    })
}

/// Tells whether this is the command line of `macfence watch`, as `/proc` has it.
fn is_watch(words: &[u8]) -> bool {
    let mut words = words.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let name = program.rsplit(|byte| *byte == b'/').next();
    name == Some(b"macfence") && words.any(|word| word == b"watch")
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let enable = "run \"systemctl enable --now macfence.service\"";
    let start = "install the hook for libvirt or the files for OpenNebula's drivers, or start \"macfence watch\"";
    let nothing = || Finding::fail(TOPIC, NOTHING);
    let Some((watch, sync)) = &facts.units else {
        return vec![if facts.is_watching {
            Finding::ok(TOPIC, "macfence watch runs, without systemd")
        } else if facts.is_hooked {
            let text = "systemd does not run here; only the hooks fence VMs, as they start";
            Finding::absent(TOPIC, text)
        } else {
            nothing().fix(start)
        }];
    };
    if watch.active == "failed" {
        let text = "macfence.service has failed";
        return vec![Finding::fail(TOPIC, text).fix("run \"journalctl -u macfence\" to see why")];
    }
    let is_active = matches!(&*watch.active, "active" | "activating" | "reloading");
    let is_on = |unit: &Unit| unit.enabled.starts_with("enabled");
    vec![match (is_active || facts.is_watching, is_on(watch)) {
        (true, true) => Finding::ok(TOPIC, "macfence.service is enabled and runs"),
        (true, false) => {
            let text = "macfence.service runs, but is not enabled: it will not start at boot";
            Finding::warn(TOPIC, text).fix("run \"systemctl enable macfence.service\"")
        }
        (false, true) => Finding::fail(TOPIC, "macfence.service is enabled, but does not run")
            .fix("run \"systemctl start macfence.service\""),
        (false, false) if !facts.is_hooked => nothing().fix(enable),
        (false, false) if is_on(sync) && sync.active != "failed" => Finding::ok(
            TOPIC,
            "hooks fence VMs as they start; macfence-sync.service fences them again when nftables is reloaded",
        ),
        (false, false) => {
            let text = "if somebody flushes the rules, VMs stay open: hooks alone do not notice";
            Finding::warn(TOPIC, text).fix(enable)
        }
    }]
}

/// Checks the permissions of the directory of the locks.
pub fn look_at_locks() -> Option<Finding> {
    // The first command creates it.
    let found = Path::new(LOCKS).symlink_metadata().ok()?;
    Some(judge_locks(
        found.is_dir(),
        found.uid(),
        found.permissions().mode() & 0o7777,
    ))
}

fn judge_locks(is_dir: bool, owner: u32, mode: u32) -> Finding {
    if !is_dir {
        let text = format!("{LOCKS} is not a directory, so no command works");
        return Finding::fail("locks", text).fix("delete it; the next command creates it");
    }
    if owner == 0 && mode & 0o077 == 0 {
        return Finding::ok("locks", format!("{LOCKS} is root's alone"));
    }
    let text = if owner != 0 {
        format!("{LOCKS} belongs to user {owner}, who can keep VMs from being fenced")
    } else {
        format!("{LOCKS} has mode {mode:04o}")
    };
    let fix = format!("run \"chown root: {LOCKS}\" and \"chmod 700 {LOCKS}\"");
    // A user who can write there can replace the locks with his own.
    if owner != 0 || mode & 0o022 != 0 {
        Finding::fail("locks", text).fix(fix)
    } else {
        Finding::warn("locks", text).fix(fix)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn level(watch: (&str, &str), sync: &str, is_hooked: bool) -> Level {
        let unit = |enabled: &str, active: &str| Unit {
            enabled: enabled.to_owned(),
            active: active.to_owned(),
        };
        let facts = Facts {
            units: Some((unit(watch.0, watch.1), unit(sync, "inactive"))),
            is_hooked,
            ..Facts::default()
        };
        judge(&facts)[0].level
    }

    #[test]
    fn somebody_must_call_and_somebody_must_notice_a_flush() {
        let (on, off) = (("enabled", "active"), ("disabled", "inactive"));
        assert_eq!(level(on, "disabled", false), Level::Ok);
        assert_eq!(level(("disabled", "active"), "", false), Level::Warn);
        assert_eq!(level(("enabled", "failed"), "", true), Level::Fail);
        assert_eq!(level(("enabled", "inactive"), "", true), Level::Fail);
        assert_eq!(level(off, "disabled", false), Level::Fail);
        assert_eq!(level(off, "enabled", false), Level::Fail);
        assert_eq!(level(off, "enabled", true), Level::Ok);
        assert_eq!(level(off, "disabled", true), Level::Warn);
        // The unit does not exist.
        assert_eq!(level(("", "inactive"), "", true), Level::Warn);
    }

    #[test]
    fn without_systemd_a_hook_or_a_watch_will_do() {
        let level = |is_hooked, is_watching| {
            let facts = Facts {
                units: None,
                is_hooked,
                is_watching,
            };
            judge(&facts)[0].level
        };
        assert_eq!(level(false, false), Level::Fail);
        assert_eq!(level(true, false), Level::Absent);
        assert_eq!(level(false, true), Level::Ok);
    }

    #[test]
    fn a_watch_is_told_by_its_command_line() {
        assert!(is_watch(b"/usr/sbin/macfence\0watch\0"));
        assert!(is_watch(b"macfence\0--verbose\0watch\0"));
        for other in [&b"macfence\0list\0"[..], b"vi\0watch\0", b""] {
            assert!(!is_watch(other));
        }
    }

    #[test]
    fn the_locks_are_roots() {
        let level = |is_dir, owner, mode| judge_locks(is_dir, owner, mode).level;
        assert_eq!(level(true, 0, 0o700), Level::Ok);
        assert_eq!(level(true, 0, 0o755), Level::Warn);
        assert_eq!(level(true, 0, 0o777), Level::Fail);
        assert_eq!(level(true, 9869, 0o700), Level::Fail);
        assert_eq!(level(false, 0, 0o777), Level::Fail);
    }
}
