//! `check` reports what differs from the desired fences, and `sync` repairs it.

mod ebtables;
mod hypervisor;
mod kept;
mod libvirt;
mod ruleset;

use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{Host, Ran, macfence_with};

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:01:05";
const C: &str = "02:00:0a:00:00:05";

/// Runs macfence with the programs of a directory first.
fn run(host: &Host, programs: &TempDir, args: &[&str]) -> Ran {
    host.exec(macfence_with(programs).args(args), "")
}

/// The words of `check` about a VM: its state, and a part of the detail.
type Verdict = (&'static str, &'static str);

const OK: Verdict = ("ok", "");

fn missing(words: &'static str) -> Verdict {
    ("missing", words)
}

fn differs(words: &'static str) -> Verdict {
    ("differs", words)
}

/// A host with two VMs that `sync` has fenced: `a` has nic10 with [`A`] and nic11 with [`B`], and
/// `b` has nic12 with [`C`].
struct Fenced<'a> {
    host: &'a Host,
    /// A stand-in for virsh. The directory is empty if libvirt is real.
    programs: TempDir,
    whole: Vec<String>,
}

impl<'a> Fenced<'a> {
    /// Fences the VMs. They already run.
    fn new(host: &'a Host, programs: TempDir) -> Self {
        assert_eq!(
            run(host, &programs, &["sync"]).ok(),
            "fenced a: port \"nic10\"; port \"nic11\"\nfenced b: port \"nic12\"\n"
        );
        run(host, &programs, &["sync"]).quiet();
        run(host, &programs, &["check"]).quiet();
        let whole = host.sorted_ruleset();
        Self {
            host,
            programs,
            whole,
        }
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(self.host, &self.programs, args)
    }

    /// Returns the exit status of `check`, and its findings: name, state and detail.
    fn check(&self) -> (i32, Vec<(String, String, String)>) {
        let ran = self.run(&["check", "--json"]);
        let rows: Vec<Value> =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let found = |row: &Value| (text(row, "vm"), text(row, "state"), text(row, "detail"));
        (ran.status, rows.iter().map(found).collect())
    }

    /// Damages the ruleset with nft. `check` must report this of `a` and `b`, and these others as
    /// stale with exactly this detail, and nothing else. `sync` must restore the ruleset.
    fn is_repaired(&self, damage: &str, a_and_b: [Verdict; 2], stale: &[(&str, &str)]) {
        self.host.ok("nft", &[damage]);
        let (status, found) = self.check();
        assert_eq!(status, 1, "{damage}: {found:?}");
        for (vm, (state, words)) in ["a", "b"].into_iter().zip(a_and_b) {
            let found = found.iter().find(|(name, ..)| name == vm).unwrap();
            assert_eq!(found.1, state, "{damage}: {found:?}");
            assert!(found.2.contains(words), "{damage}: {found:?}");
        }
        let others = found.iter().filter(|(vm, ..)| vm != "a" && vm != "b");
        let others: Vec<_> = others.map(|(vm, s, d)| (&**vm, &**s, &**d)).collect();
        let stale = stale.iter().map(|&(vm, detail)| (vm, "stale", detail));
        assert_eq!(others, Vec::from_iter(stale), "{damage}");
        // Without --json there is one line for each finding that is not ok.
        let lines = self.run(&["check"]);
        let wrong = found.iter().filter(|(_, state, _)| state != "ok").count();
        assert_eq!(
            (lines.status, lines.stdout.lines().count()),
            (1, wrong),
            "{lines:?}"
        );
        let said = self.run(&["sync"]).ok();
        assert_eq!(said.lines().count(), wrong, "{damage}: {said}");
        assert_eq!(self.host.sorted_ruleset(), self.whole, "{damage}");
        self.run(&["check"]).quiet();
        let before = self.host.generation();
        self.run(&["sync"]).quiet();
        assert_eq!(self.host.generation(), before, "{damage}");
    }
}
