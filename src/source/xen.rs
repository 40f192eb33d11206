//! Xen: what `xl`, or `xm` where there is no `xl`, tells about a domain.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::limits::{self, DOMAINS, NICS, TABLE_TEXT};
use super::{Hypervisor, Kind, Running};
use crate::bridge;
use crate::process;
use crate::quote::quoted;
use crate::vm::{Nic, Port, Vm, VmName};

/// What Xen's library says where its hypervisor does not answer (`tools/libs/call/linux.c`).
const NOT_BOOTED: &str = "Could not obtain handle on privileged command interface";

/// What its tools print, in the words of error messages.
const TABLE: &str = "Xen's list";

/// Xen on this host.
pub(super) struct Xen;

impl Hypervisor for Xen {
    fn is_there(&self) -> bool {
        ["xl", "xm"].iter().any(|tool| process::find(tool).is_ok())
    }

    fn runs(&self, kind: Kind) -> bool {
        kind == Kind::Xen
    }

    /// All running domains but the host's own: one process, and one for each.
    fn running(&self) -> Result<Running> {
        let mut running = Running::default();
        let listing = match ask(&["list"]) {
            // Its tools are installed, but Xen was not booted: it runs nothing.
            Err(e) if format!("{e:#}").contains(NOT_BOOTED) => return Ok(running),
            listing => listing?,
        };
        for (name, id) in domains(&listing)? {
            match vm(&name, id) {
                Ok(vm) => running.vms.push(vm),
                Err(e) => running.failed.push((name, e)),
            }
        }
        if !running.failed.is_empty() {
            // Those that have ended meanwhile are no failures.
            let left: BTreeSet<_> = domains(&ask(&["list"])?)?
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            running.failed.retain(|(name, _)| left.contains(name));
        }
        Ok(running)
    }

    /// The running domains of these names: two processes for each.
    fn named(&self, names: &[VmName]) -> Vec<Result<Vm>> {
        let domain = |name| domid(name).and_then(|id| vm(name, id));
        names.iter().map(domain).collect()
    }
}

fn vm(name: &VmName, id: u32) -> Result<Vm> {
    let listing = ask(&["network-list", &id.to_string()])?;
    let interfaces = interfaces(&listing)?;
    if interfaces.is_empty() {
        // xl lists nothing, and does not fail, for a domain that has ended or was started anew.
        ensure!(
            domid(name).is_ok_and(|now| now == id),
            "the domain {:?} ended while Xen was asked about it",
            name.as_str()
        );
    }
    let mut vm = Vm {
        name: name.clone(),
        nics: Vec::new(),
        skipped: Vec::new(),
    };
    for interface in interfaces {
        let (index, mac) = match interface {
            Ok(interface) => interface,
            Err(why) => {
                vm.skipped.push(why);
                continue;
            }
        };
        let port: Port = format!("vif{id}.{index}").parse()?;
        // What an HVM guest sends through until it has loaded its drivers; others have none.
        let emulated: Port = format!("{port}-emu").parse()?;
        let emulated = bridge::of(&emulated)?.map(|_| emulated);
        for port in [Some(port), emulated].into_iter().flatten() {
            vm.nics.push(Nic::new(port, mac.parse()?, None)?);
        }
    }
    Ok(vm)
}

fn domid(name: &VmName) -> Result<u32> {
    ensure!(
        !name.as_str().starts_with('-'),
        "Xen's tools would take the name {:?} for a flag",
        name.as_str()
    );
    let said = ask(&["domid", name.as_str()])?;
    let said = said.trim();
    said.parse().with_context(|| {
        format!(
            "Xen's number for the domain {:?} is {}",
            name.as_str(),
            quoted(said)
        )
    })
}

/// Asks Xen, which answers root only.
fn ask(words: &[&str]) -> Result<String> {
    let tool = match process::find("xl") {
        Ok(_) => "xl",
        Err(_) => "xm",
    };
    process::run(tool, words, "")?.checked()
}

/// The domains of a `list`, but for the host's own. A name may hold anything, so that its columns
/// are counted from the right:
///
/// ```text
/// Name                                        ID   Mem VCPUs   State   Time(s)
/// one-7                                        7   128     1     -b----      12.4
/// ```
///
/// # Errors
/// If a line is none of such a table, or there are too many.
pub fn domains(listing: &str) -> Result<Vec<(VmName, u32)>> {
    limits::check_text(TABLE, listing, TABLE_TEXT)?;
    let mut domains = Vec::new();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        let unknown = || format!("Xen listed a domain as {}", quoted(line));
        let mut rest = line.trim_end();
        let mut last = "";
        for _ in 0..5 {
            let (before, word) = rest
                .rsplit_once(char::is_whitespace)
                .with_context(unknown)?;
            (rest, last) = (before.trim_end(), word);
        }
        if last == "ID" {
            continue;
        }
        let id = last.parse().with_context(unknown)?;
        if id != 0 {
            DOMAINS.check(TABLE, domains.len() + 1)?;
            domains.push((rest.trim_start().parse().with_context(unknown)?, id));
        }
    }
    Ok(domains)
}

/// An interface's index and MAC address, or why it has no port here.
pub type Interface<'a> = Result<(u32, &'a str), String>;

/// What a `network-list` lists. The columns of interest are the first three of both tools:
///
/// ```text
/// Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref BE-path
/// 0   0  02:00:c0:a8:00:05 0      4     14       768/769         /local/domain/0/backend/vif/1/0
/// ```
///
/// # Errors
/// If a line is none of such a table, or there are too many.
pub fn interfaces(listing: &str) -> Result<Vec<Interface<'_>>> {
    limits::check_text(TABLE, listing, TABLE_TEXT)?;
    let lines = listing.lines().filter(|line| !line.trim().is_empty());
    let unknown = |line| format!("Xen listed an interface as {}", quoted(line));
    (1..)
        .zip(lines.filter(|line| !line.starts_with("Idx")))
        .map(|(count, line)| {
            NICS.check(TABLE, count)?;
            interface(line).with_context(|| unknown(line))
        })
        .collect()
}

fn interface(line: &str) -> Option<Interface<'_>> {
    let mut words = line.split_whitespace();
    let mut number = || words.next()?.parse::<u32>().ok();
    let (index, backend) = (number()?, number()?);
    Some(match (backend, words.next()?) {
        // xm's word for an address that it does not know.
        (0, "??") => Err(format!("interface {index} has no MAC address")),
        (0, mac) => Ok((index, mac)),
        (other, _) => Err(format!("interface {index} has its port in domain {other}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const XL: &str = "\
Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref BE-path
0   0  02:00:c0:a8:00:05 0      4     14       768/769         /local/domain/0/backend/vif/7/0
1   0  02:00:c0:a8:01:05 1      4     -1       -1/-1           /local/domain/0/backend/vif/7/1
";

    #[test]
    fn the_tables_of_both_tools_are_read() {
        let xm = "Idx BE     MAC Addr.     handle state evt-ch tx-/rx-ring-ref BE-path\n\
                  0   0  2:0:c0:a8:0:5        0     1      -1    -1   /-1      /local/x\n\
                  10  0  02:00:c0:a8:01:05    1     4      8     9/10 more  columns\n\n";
        assert_eq!(
            interfaces(XL).unwrap(),
            [Ok((0, "02:00:c0:a8:00:05")), Ok((1, "02:00:c0:a8:01:05"))]
        );
        assert_eq!(
            interfaces(xm).unwrap(),
            [Ok((0, "2:0:c0:a8:0:5")), Ok((10, "02:00:c0:a8:01:05"))]
        );
        assert_eq!(interfaces("").unwrap(), []);
    }

    #[test]
    fn the_domains_of_both_tools_are_read_but_for_the_hosts_own() {
        let xl = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n\
                  Domain-0                                     0  2048     2     r-----   12345.6\n\
                  one-7                                        7   128     1     -b----      12.4\n\
                  my db 2                                     12   128     1     ------       0.0\n";
        let name = |text: &str| text.parse::<VmName>().unwrap();
        let domains = |listing| domains(listing).map_err(|e| e.to_string());
        assert_eq!(
            domains(xl),
            Ok(vec![(name("one-7"), 7), (name("my db 2"), 12)])
        );
        assert_eq!(domains("").unwrap(), []);
        for listing in ["Error: no connection", "a b c d e f", "7 128 1 -b---- 12.4"] {
            assert!(
                domains(listing)
                    .unwrap_err()
                    .contains(&format!("{listing:?}"))
            );
        }
    }

    #[test]
    fn an_interface_without_a_port_here_is_named() {
        let listing = "0 0 ?? 0 1\n1 5 2:0:0:0:0:1 0 1\n";
        assert_eq!(
            interfaces(listing).unwrap(),
            [
                Err("interface 0 has no MAC address".to_owned()),
                Err("interface 1 has its port in domain 5".to_owned()),
            ]
        );
    }

    #[test]
    fn what_is_no_table_is_refused_by_line() {
        for listing in [
            "Error: no such domain",
            "0 0",
            "x 0 2:0:0:0:0:1",
            "0 y 2:0:0:0:0:1",
        ] {
            let error = interfaces(listing).unwrap_err().to_string();
            assert!(error.contains(&format!("{listing:?}")), "{error}");
        }
    }

    #[test]
    fn a_table_beyond_a_limit_is_refused() {
        let table = |line: &str, lines: usize| format!("{line}\n").repeat(lines);
        let (nic, domain) = ("0 0 2:0:0:0:0:1", "a 7 1 1 b 1");
        assert_eq!(interfaces(&table(nic, NICS.most())).unwrap().len(), 1_000);
        assert_eq!(
            domains(&table(domain, DOMAINS.most())).unwrap().len(),
            32_752
        );
        for (error, words) in [
            (interfaces(&table(nic, 1_001)).err(), "more than 1,000 NICs"),
            (
                domains(&table(domain, 32_753)).err(),
                "more than 32,752 domains",
            ),
            (interfaces(&table(" ", 3 << 20)).err(), "longer than 4 MiB"),
            (domains(&table(" ", 3 << 20)).err(), "longer than 4 MiB"),
            (domains(&"x".repeat(4 << 20)).err(), "xxx"),
        ] {
            let error = format!("{:#}", error.unwrap());
            assert!(error.contains(words) && error.len() < 200, "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_table_makes_the_parser_panic(
            at in 0..XL.len(), len in 0..80usize, text in "\\PC{0,8}",
        ) {
            let mut bytes = XL.as_bytes().to_vec();
            bytes.splice(at..(at + len).min(XL.len()), text.bytes());
            let _ = interfaces(&String::from_utf8_lossy(&bytes));
            let _ = domains(&String::from_utf8_lossy(&bytes));
        }
    }
}
