//! Checks the firewalls and the kernel: which firewall can be used, and whether both hold rules.

use std::fs;

use anyhow::{Context, Result, anyhow};

use super::finding::Finding;
use crate::backend::ebtables::Ebtables;
use crate::backend::nft::Nft;
use crate::backend::{Backend, Choice};
use crate::process;

/// The oldest nft that is known to work.
const OLDEST_NFT: [u32; 3] = [0, 9, 8];

/// The facts about the host.
#[derive(Clone, Debug)]
struct Facts {
    choice: Choice,
    /// The version of nft, or why it cannot be used.
    nft: Result<String, String>,
    /// The version of ebtables, and how many ports its rules fence; or why it cannot be used.
    ebtables: Result<(String, usize), String>,
}

/// Checks them.
pub fn look(choice: Choice) -> Vec<Finding> {
    let facts = Facts {
        choice,
        nft: nft().map_err(|e| format!("{e:#}")),
        ebtables: ebtables().map_err(|e| format!("{e:#}")),
    };
    let mut findings = judge(&facts);
    findings.push(match kernel() {
        Ok(release) => Finding::ok("kernel", format!("Linux {release}")),
        Err(e) => Finding::unknown("kernel", &e),
    });
    findings
}

fn nft() -> Result<String> {
    if let Some(why) = Nft::incapacity() {
        return Err(why);
    }
    let said = process::run("nft", &["--version"], "")?.checked()?;
    version(&said).with_context(|| {
        format!(
            "cannot find the version in the output of nft --version: {}",
            said.trim()
        )
    })
}

fn ebtables() -> Result<(String, usize)> {
    let said = process::run("ebtables", &["--version"], "")?.checked()?;
    let version = version(&said).ok_or_else(|| {
        anyhow!(
            "cannot find the version in the output of ebtables --version: {:?}",
            said.trim()
        )
    })?;
    let ports = Ebtables.ports()?.len();
    Ok((format!("{version}, {}", kind(&said)), ports))
}

fn kernel() -> Result<String> {
    let path = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(release.trim().to_owned())
}

/// The first word that is a version, without its `v`.
fn version(said: &str) -> Option<String> {
    let mut words = said.split_whitespace();
    let words = words.find_map(|word| {
        let word = word.strip_prefix('v').unwrap_or(word);
        word.starts_with(|c: char| c.is_ascii_digit())
            .then_some(word)
    });
    words.map(str::to_owned)
}

/// Tells which of the two programs of this name it is. Old versions do not say, and are legacy.
fn kind(said: &str) -> &'static str {
    if said.contains("nf_tables") {
        "the nft variant"
    } else {
        "legacy"
    }
}

fn is_older(version: &str, than: [u32; 3]) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let parts = [(); 3].map(|()| parts.next().unwrap_or(0));
    parts < than
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let wants_nft = facts.choice != Choice::Ebtables;
    let nft = match &facts.nft {
        Ok(version) if is_older(version, OLDEST_NFT) => {
            let oldest = OLDEST_NFT.map(|part| part.to_string()).join(".");
            Finding::warn(
                "nft",
                format!("{version} is older than all versions that macfence was tested with"),
            )
            .fix(format!("install nftables {oldest} or later"))
        }
        Ok(version) => Finding::ok(
            "nft",
            format!("{version}, with JSON and tables of the bridge family"),
        ),
        Err(why) if !wants_nft => Finding::absent("nft", why.clone()),
        Err(why) => {
            let fix = "install nftables 0.9.8 or later (on Debian: apt install nftables)";
            if facts.choice == Choice::Auto && facts.ebtables.is_ok() {
                let text = format!("{why}; macfence uses ebtables instead, which is slower");
                Finding::warn("nft", text).fix(fix)
            } else {
                Finding::fail("nft", why.clone()).fix(fix)
            }
        }
    };
    let uses_nft = wants_nft && (facts.nft.is_ok() || facts.choice == Choice::Nft);
    let ebtables = match &facts.ebtables {
        Ok((version, ports)) if *ports > 0 && uses_nft => Finding::warn(
            "ebtables",
            format!("{version}; it fences {ports} ports as well as nft"),
        )
        .fix("run \"macfence migrate\""),
        Ok((version, _)) if uses_nft => {
            Finding::ok("ebtables", format!("{version}; not used: nft is"))
        }
        Ok((version, _)) => Finding::ok("ebtables", format!("{version}; used")),
        Err(why) if uses_nft => Finding::absent("ebtables", why.clone()),
        Err(why) if facts.choice == Choice::Ebtables => Finding::fail("ebtables", why.clone())
            .fix("install ebtables, or set backend = \"auto\""),
        Err(why) => Finding::absent("ebtables", why.clone()),
    };
    vec![nft, ebtables]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn levels(
        choice: Choice,
        nft: Result<&str, &str>,
        ebtables: Result<usize, &str>,
    ) -> [Level; 2] {
        let facts = Facts {
            choice,
            nft: nft.map(str::to_owned).map_err(str::to_owned),
            ebtables: ebtables
                .map(|ports| ("1.8.9".to_owned(), ports))
                .map_err(str::to_owned),
        };
        let found = judge(&facts);
        [found[0].level, found[1].level]
    }

    #[test]
    fn one_firewall_is_enough_and_nft_is_better() {
        use Choice::{Auto, Ebtables, Nft};
        use Level::{Absent, Fail, Ok as Well, Warn};
        let (nft, old, none) = (Ok("1.0.6"), Ok("0.9.6"), Err("not found"));
        assert_eq!(levels(Auto, nft, Ok(0)), [Well, Well]);
        assert_eq!(levels(Auto, nft, Err("not found")), [Well, Absent]);
        assert_eq!(levels(Auto, old, Ok(0)), [Warn, Well]);
        assert_eq!(levels(Auto, none, Ok(3)), [Warn, Well]);
        assert_eq!(levels(Auto, none, Err("not found")), [Fail, Absent]);
        assert_eq!(levels(Nft, none, Ok(0)), [Fail, Well]);
        assert_eq!(levels(Ebtables, none, Ok(3)), [Absent, Well]);
        assert_eq!(levels(Ebtables, nft, Err("not found")), [Well, Fail]);
        // Rules of both.
        assert_eq!(levels(Auto, nft, Ok(3)), [Well, Warn]);
    }

    #[test]
    fn versions_and_kinds_are_read_as_the_programs_print_them() {
        for (said, is, of) in [
            ("nftables v1.0.6 (Lester Gooch #5)\n", "1.0.6", ""),
            ("ebtables 1.8.9 (nf_tables)\n", "1.8.9", "the nft variant"),
            (
                "ebtables v2.0.11 (legacy) (December 2011)\n",
                "2.0.11",
                "legacy",
            ),
            ("ebtables v2.0.10-4 (December 2011)\n", "2.0.10-4", "legacy"),
        ] {
            assert_eq!(version(said).as_deref(), Some(is));
            assert!(of.is_empty() || kind(said) == of);
        }
        assert_eq!(version("no number"), None);
        assert!(is_older("0.9.6", OLDEST_NFT) && is_older("0.8", OLDEST_NFT));
        assert!(!is_older("0.9.8", OLDEST_NFT) && !is_older("1.1", OLDEST_NFT));
    }
}
