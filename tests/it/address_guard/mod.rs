//! Nobody hears what a VM sends under addresses that are not its own, or as a server or router.
//! Honest frames are heard. Most tests call the library.

mod linux;
mod machine;
pub mod repair;
mod repair_ebtables;
mod senders;
pub mod table;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use macfence::backend::Backend;
use macfence::backend::nft::Nft;
use macfence::fence::{Addresses, Fence, Guard, Hears, Keep, LinkLocal};

use self::table::{Guarded, OWN_MAC, OWN_V4, OWN_V6, Row, rows};
use crate::lab::{Host, Tap, fetched};

pub const PORT: &str = "one-1-0";

/// Versions of nft on other hosts, besides this system's.
const VERSIONS: [&str; 2] = ["0.9.8", "1.1.3"];

pub fn guarded(how: Guarded) -> Guard {
    let addresses = Addresses {
        v4: OWN_V4.to_vec(),
        v6: vec![OWN_V6],
        link_local: LinkLocal::Eui64,
    };
    let (by_address, by_role) = match how {
        Guarded::Addresses => (true, false),
        Guarded::Roles => (false, true),
        Guarded::All => (true, true),
    };
    Guard {
        addresses: by_address.then_some(addresses),
        dhcp_guard: by_role,
        ra_guard: by_role,
        ..Guard::new(PORT.parse().unwrap(), OWN_MAC, Hears::All)
    }
}

pub fn fence(guard: Guard) -> Fence {
    Fence {
        vm: "one-1".parse().unwrap(),
        guards: vec![guard],
    }
}

/// Fences through the library. Returns whether anything changed.
fn enforce(host: &Host, fence: &Fence) -> bool {
    let fences = std::slice::from_ref(fence);
    let enforced = host.run(|| Nft.enforce(fences, &Keep::nothing()));
    enforced.unwrap_or_else(|e| panic!("{e:#}")).changed
}

/// Creates a host with another Debian's nft, or with this system's.
fn host_with(version: Option<&str>) -> Host {
    let host = Host::new();
    if let Some(version) = version {
        let nft: PathBuf = fetched(&format!("nft/{version}/nft"));
        host.instead_of("nft", &nft);
        let said = host.ok("nft", &["--version"]);
        assert!(said.contains(&format!("v{version} ")), "{said}");
    }
    host
}

/// A guarded VM, and a listener that hears everything that the VM may send.
pub struct Scene {
    pub host: Host,
    pub vm: Tap,
    pub listener: Tap,
}

impl Scene {
    pub fn new(host: Host) -> Self {
        host.bridge("br0");
        let vm = host.tap("br0", PORT);
        let listener = host.tap("br0", "eth0");
        Self { host, vm, listener }
    }

    pub fn hears(&self, frame: &[u8]) -> bool {
        self.listener.heard();
        self.vm.send(frame);
        self.listener.heard().iter().any(|heard| heard == frame)
    }
}

/// Checks that a firewall comes to the verdicts of the table. Where a row says so, ebtables must
/// come to another verdict. `fence` enforces a guard.
pub fn check_table(host: Host, is_ebtables: bool, fence: impl Fn(&Host, Guard)) {
    let scene = Scene::new(host);
    let rows = rows();
    assert!(rows.len() > 100, "{}", rows.len());
    let differs = |row: &&Row| is_ebtables && row.ebtables.is_some();
    let mut agrees: BTreeSet<_> = rows.iter().filter(differs).map(|row| row.name).collect();
    for how in [Guarded::Addresses, Guarded::Roles, Guarded::All] {
        fence(&scene.host, guarded(how));
        let mut wrong = Vec::new();
        for row in &rows {
            let why = row.drop_reason(how);
            let is_heard = scene.hears(&row.frame);
            if is_heard == why.is_none() {
                continue;
            }
            agrees.remove(row.name);
            if !differs(&row) {
                wrong.push((row.name, is_heard, why));
            }
        }
        assert!(
            wrong.is_empty(),
            "{how:?}: frame, heard, why not: {wrong:#?}"
        );
    }
    assert!(
        agrees.is_empty(),
        "ebtables gives the verdict that its row says it cannot: {agrees:#?}"
    );
}

#[test]
fn without_a_guard_every_frame_of_the_table_is_heard() {
    let scene = Scene::new(Host::new());
    for row in rows() {
        assert!(scene.hears(&row.frame), "{}", row.name);
    }
}

/// Checks the table with nft.
pub fn check_nft(host: Host) {
    check_table(host, false, |host, guard| {
        assert!(enforce(host, &fence(guard)));
    });
}

#[test]
fn only_honest_frames_of_a_guarded_vm_are_heard() {
    for version in [None].into_iter().chain(VERSIONS.map(Some)) {
        check_nft(host_with(version));
    }
}

#[test]
fn a_listing_of_nft_that_is_loaded_again_lets_the_same_frames_pass() {
    for version in [None].into_iter().chain(VERSIONS.map(Some)) {
        check_table(host_with(version), false, |host, guard| {
            enforce(host, &fence(guard));
            let listed = host.ok("nft", &["list", "table", "bridge", "macfence"]);
            host.ok("nft", &["delete", "table", "bridge", "macfence"]);
            host.exec(Command::new("nft").args(["-f", "-"]), &listed)
                .ok();
        });
    }
}
