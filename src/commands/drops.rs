//! `macfence drops`: shows which frames were dropped, at which port and why, and who has their
//! source address.

mod whose;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use self::whose::{Known, Whose};
use super::columns::columns;
use super::shared::print;
use crate::backend::{self, Backend, Noted, Reason};
use crate::config::Config;
use crate::mac::MacAddr;
use crate::vm::{Port, VmName};

/// How often `--follow` asks the kernel.
const PERIOD: Duration = Duration::from_secs(1);

/// One line of the output, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    /// `null` if no VM has the port any more.
    vm: Option<String>,
    port: String,
    /// `from`: the VM sent the frames. `to`: they were not delivered to the VM.
    direction: &'static str,
    reason: Reason,
    source: String,
    whose: Whose,
    /// `null` if this nft does not count.
    frames: Option<u64>,
    seconds_ago: u64,
}

/// What distinguishes one noted drop from another.
type Key = (Reason, Port, MacAddr);

/// Runs it.
pub fn run(config: &Config, vms: &[VmName], follow: bool, json: bool) -> Result<()> {
    let backend = backend::choose(config.backend);
    let noted = noted(&*backend)?;
    let known = Known::gather(config, &*backend)?;
    for vm in vms {
        ensure!(
            known.has(vm),
            "no VM {:?} is fenced or running",
            vm.as_str()
        );
    }
    if follow {
        return self::follow(config, &*backend, vms, json, &noted);
    }
    let rows: Vec<_> = rows(&known, vms, &noted).collect();
    if json {
        return print(&(serde_json::to_string(&rows).context("JSON")? + "\n"));
    }
    if rows.is_empty() {
        return print(
            "no drops were noted in the last 10 minutes\n\
             broadcasts of other networks are only counted: see FOREIGN in \"macfence list\"\n",
        );
    }
    print(&format!("{}\n", table(&rows)))
}

fn noted(backend: &dyn Backend) -> Result<Vec<Noted>> {
    let noted = backend.noted()?;
    noted.with_context(|| format!("{} does not note what it drops: use nft", backend.name()))
}

fn rows(known: &Known, vms: &[VmName], noted: &[Noted]) -> impl Iterator<Item = Row> {
    let all = noted.iter().map(|noted| (known.vm_at(&noted.port), noted));
    let meant = all.filter(|(vm, _)| vms.is_empty() || vm.is_some_and(|vm| vms.contains(vm)));
    meant.map(|(vm, noted)| Row {
        vm: vm.map(|vm| vm.as_str().to_owned()),
        port: noted.port.to_string(),
        direction: noted.reason.direction(),
        reason: noted.reason,
        source: noted.source.to_string(),
        whose: known.whose(noted.source, vm),
        frames: noted.frames,
        seconds_ago: noted.seconds,
    })
}

fn table(rows: &[Row]) -> String {
    let header = [
        "VM", "PORT", "WAY", "REASON", "SOURCE", "WHOSE", "FRAMES", "LAST",
    ];
    let mut table = columns(header, 6..7);
    for row in rows {
        table.add_row(row.cells());
    }
    table.trim_fmt()
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let frames = self.frames.map(|frames| frames.to_string());
        [
            // Escape the VM's name: it may contain control characters for the terminal.
            self.vm
                .as_ref()
                .map_or("-".to_owned(), |vm| vm.escape_debug().to_string()),
            self.port.clone(),
            self.direction.to_owned(),
            self.reason.to_string(),
            self.source.clone(),
            self.whose.to_string(),
            frames.unwrap_or_else(|| "-".to_owned()),
            ago(self.seconds_ago),
        ]
    }
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s ago"),
        _ => format!("{} min ago", seconds / 60),
    }
}

/// Prints new drops until the reader closes the pipe.
fn follow(
    config: &Config,
    backend: &dyn Backend,
    vms: &[VmName],
    json: bool,
    noted: &[Noted],
) -> Result<()> {
    let mut before = by_key(noted);
    loop {
        thread::sleep(PERIOD);
        let now = self::noted(backend)?;
        let news: Vec<_> = now
            .iter()
            .filter(|noted| is_new(noted, &before))
            .cloned()
            .collect();
        before = by_key(&now);
        if news.is_empty() {
            continue;
        }
        // VMs may have started or ended since the last second.
        let known = Known::gather(config, backend)?;
        let mut text = String::new();
        for row in rows(&known, vms, &news) {
            text += &if json {
                serde_json::to_string(&row).context("JSON")?
            } else {
                row.cells().join("  ")
            };
            text.push('\n');
        }
        let mut stdout = io::stdout().lock();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => bail!("cannot write to standard output: {e}"),
            Ok(()) => {}
        }
    }
}

fn by_key(noted: &[Noted]) -> BTreeMap<Key, (Option<u64>, u64)> {
    let key = |noted: &Noted| (noted.reason, noted.port.clone(), noted.source);
    let entries = noted.iter();
    entries
        .map(|noted| (key(noted), (noted.frames, noted.seconds)))
        .collect()
}

/// Tells whether more frames were dropped since the last second.
fn is_new(noted: &Noted, before: &BTreeMap<Key, (Option<u64>, u64)>) -> bool {
    let key = (noted.reason, noted.port.clone(), noted.source);
    match before.get(&key) {
        None => true,
        Some((Some(frames), _)) => noted.frames.is_none_or(|now| now > *frames),
        // Without a counter, a smaller age means a newer frame. A second passes between two
        // queries.
        Some((None, seconds)) => noted.seconds < *seconds || noted.seconds == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(source: &str, frames: Option<u64>, seconds: u64) -> Noted {
        Noted {
            reason: Reason::Spoofed,
            port: "one-1-0".parse().unwrap(),
            source: source.parse().unwrap(),
            frames,
            seconds,
        }
    }

    #[test]
    fn only_drops_since_the_last_query_are_new() {
        let (a, b) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
        let before = by_key(&[noted(a, Some(3), 9), noted(b, None, 9)]);
        assert!(!is_new(&noted(a, Some(3), 10), &before));
        assert!(is_new(&noted(a, Some(4), 0), &before));
        // The kernel's entry expired and was created again.
        assert!(!is_new(&noted(b, None, 10), &before));
        assert!(is_new(&noted(b, None, 2), &before));
        assert!(is_new(&noted("02:00:00:00:00:03", None, 2), &before));
    }

    #[test]
    fn time_is_told_in_seconds_and_then_in_minutes() {
        assert_eq!(
            [ago(0), ago(59), ago(60), ago(599)],
            ["0 s ago", "59 s ago", "1 min ago", "9 min ago"]
        );
    }
}
