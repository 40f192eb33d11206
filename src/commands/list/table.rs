//! Writes the table that people read.

use anstyle::{AnsiColor, Style};

use crate::commands::columns::columns;
use crate::commands::shared::is_coloured;
use crate::fence::{ActualGuard, Hears};
use crate::survey::{Cause, Entry, Status};
use crate::vm::VmName;

const HEADER: [&str; 10] = [
    "VM", "PORT", "BRIDGE", "MAC", "HEARS", "GUARD", "SPOOFED", "FOREIGN", "FORGED", "STATE",
];

/// The table and a summary.
pub fn text(entries: &[Entry], backend: &str) -> String {
    let mut text = String::new();
    if !entries.is_empty() {
        text += &table(entries, is_coloured());
        text += "\n";
    }
    text + &summary(entries, backend)
}

fn table(entries: &[Entry], is_coloured: bool) -> String {
    let mut table = columns(HEADER, 6..9);
    for entry in entries {
        let dropped = entry.held.as_ref().map(|guard| guard.dropped);
        let dropped = dropped.unwrap_or_default();
        // The last column: colours add to its width, which here moves no other column.
        let state = state(&entry.status);
        let state = if is_coloured {
            let style = style(&entry.status);
            format!("{style}{state}{style:#}")
        } else {
            state
        };
        table.add_row([
            entry.vm.as_ref().map_or("-".to_owned(), VmName::to_string),
            or_dash(entry.port.as_ref()),
            or_dash(entry.bridge.as_ref()),
            or_dash(entry.mac),
            or_dash(hears(entry)),
            or_dash(entry.held.as_ref().and_then(guards)),
            or_dash(dropped.spoofed),
            or_dash(dropped.foreign),
            or_dash(dropped.forged),
            state,
        ]);
    }
    table.trim_fmt()
}

fn summary(entries: &[Entry], backend: &str) -> String {
    let mut text = String::new();
    let held: Vec<_> = entries.iter().filter(|e| e.held.is_some()).collect();
    let all = held.iter().filter(|e| hears(e).as_deref() == Some("all"));
    let (all, ports) = (all.count(), held.len());
    if all > 0 {
        text += &format!(
            "{all} of {ports} ports hear all networks: no template asked to isolate them\n"
        );
    }
    let has_cause = |entry: &&Entry, cause| entry.cause() == Some(cause);
    let missing = entries.iter().filter(|e| has_cause(e, Cause::Missing));
    let differs = entries
        .iter()
        .filter(|e| matches!(e.status, Status::Differs(_)));
    if missing.count() > 0 {
        text += "to fence what nothing has fenced yet: macfence sync\n";
    }
    if differs.count() > 0 {
        text += "what differs, in words: macfence check; to set it right: macfence sync\n";
    }
    text + &if held.is_empty() {
        format!("nothing is fenced by {backend}\n")
    } else {
        format!("fenced by {backend}\n")
    }
}

/// Says which senders the port hears; `None` if the rules contradict each other or are lost.
pub fn hears(entry: &Entry) -> Option<String> {
    let Some(guard) = &entry.held else {
        // No rule keeps frames from it.
        return entry.bridge.as_ref().map(|_| "all".to_owned());
    };
    match guard.network() {
        Some(Hears::Network {
            prefix,
            trusted,
            trusted_ports,
        }) => Some(match trusted.len() + trusted_ports.len() {
            0 => prefix.to_string(),
            others => format!("{prefix} + {others} trusted"),
        }),
        _ => guard.hears.first().map(|_| "all".to_owned()),
    }
}

/// Names the other guards.
fn guards(guard: &ActualGuard) -> Option<String> {
    let names = [
        (guard.addresses.is_some(), "addresses"),
        (guard.dhcp_guard, "dhcp"),
        (guard.ra_guard, "ra"),
    ];
    let names: Vec<_> = names.iter().filter(|(is_on, _)| *is_on).collect();
    let names: Vec<_> = names.iter().map(|(_, name)| *name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn state(status: &Status) -> String {
    match status {
        Status::Fenced(None) => "fenced".to_owned(),
        Status::Fenced(Some(remark)) => format!("fenced: {remark}"),
        Status::Unfenced(_, why) => format!("UNFENCED: {why}"),
        Status::Stale(why) => format!("stale: {why}"),
        // The differences would fill several lines.
        Status::Differs(_) => "differs".to_owned(),
    }
}

fn style(status: &Status) -> Style {
    let colour = match status {
        Status::Fenced(_) => AnsiColor::Green,
        Status::Unfenced(Cause::Missing | Cause::Failed, _) | Status::Differs(_) => AnsiColor::Red,
        Status::Unfenced(Cause::Configuration | Cause::Bridgeless, _) | Status::Stale(_) => {
            AnsiColor::Yellow
        }
    };
    colour.on_default()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}
