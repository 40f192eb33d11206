//! Measures what one call costs as more and more VMs are fenced on the host, and compares it with
//! the seed's script doing the same work. Both ask one real libvirt.

use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tempfile::NamedTempFile;

use crate::figures::{Figure, Figures};
use crate::lab::libvirt::Libvirt;
use crate::lab::{Host, MACFENCE};
use crate::measure::{WALL, cost_of};
use crate::programs;
use crate::vms::{Vm, Vms, load_ebtables, load_nft};

pub const SIZES: [usize; 3] = [10, 1000, 4000];
const ROUNDS: usize = 9;

pub const PART: &str = "call";
/// The work.
pub const APPLY_NEW: &str = "apply of a new VM";
pub const APPLY_SAME: &str = "apply of a fenced VM";
pub const POST_NEW: &str = "one-post of a new VM";
pub const POST_SAME: &str = "one-post of a fenced VM";
const REMOVE: &str = "remove";
pub const SCRIPT: &str = "a new VM";
/// The programs that do it.
pub const OURS: &str = "macfence";
pub const SEED: &str = "the ebtables script";
/// The comparisons.
pub const TIMES_SEED: &str = "times the ebtables script";
pub const TIMES_SMALL: &str = "times 10 VMs";
pub const NFT_PROCESSES: &str = "nft processes";

/// The VM that comes and goes. Its number is above all others.
const GUEST: Vm = Vm(5000);
const POST: [&str; 3] = ["hook", "one-post", "-"];

pub fn measure(figures: &mut Figures) {
    let hypervisor = Host::new();
    let bridge = GUEST.bridge();
    hypervisor.bridge(&bridge);
    let libvirt = Libvirt::start(&hypervisor);
    libvirt.create(
        &GUEST.name(),
        &format!(
            "<interface type='bridge'><mac address='{}'/><source bridge='{bridge}'/>\
             <target dev='{}'/></interface>",
            GUEST.mac(),
            GUEST.port()
        ),
    );
    let uri = libvirt.uri();
    let hosts = SIZES.map(|size| (size, Pair::new(&Vms::new(size))));
    for _ in 0..ROUNDS {
        for (size, pair) in &hosts {
            pair.round(figures, *size, &uri);
        }
    }
    for (size, pair) in &hosts {
        pair.count_processes(figures, *size);
    }
    compare(figures);
}

/// A host with our fences and a host with the seed's rules.
struct Pair {
    ours: Host,
    seeds: Host,
    /// The VM's template, as OpenNebula passes it.
    template: NamedTempFile,
}

impl Pair {
    fn new(vms: &Vms) -> Self {
        let pair = Self {
            ours: Host::new(),
            seeds: Host::new(),
            template: template(GUEST),
        };
        for host in [&pair.ours, &pair.seeds] {
            host.bridge(&GUEST.bridge());
            host.ports(&GUEST.bridge(), &[&GUEST.port()]);
        }
        load_nft(&pair.ours, &vms.for_nft(&pair.ours));
        load_ebtables(&pair.seeds, &vms.of_the_seed());
        pair
    }

    fn round(&self, figures: &mut Figures, size: usize, uri: &str) {
        let mut script = Command::new("sh");
        script.args(["-c", include_str!("seed.sh"), "sh", &GUEST.name(), uri]);
        let figure = Figure::new(PART, SCRIPT, SEED, size, WALL);
        cost_of(&self.seeds, script, None).add_to(figures, &figure);
        self.take_the_seeds_rules_away();

        let name = GUEST.name();
        let apply = ["--connect", uri, "apply", &name];
        self.ours(figures, APPLY_NEW, size, &apply);
        self.ours(figures, APPLY_SAME, size, &apply);
        self.ours(figures, REMOVE, size, &["remove", &name]);
        self.ours(figures, POST_NEW, size, &POST);
        self.ours(figures, POST_SAME, size, &POST);
        self.unfence();
    }

    fn ours(&self, figures: &mut Figures, what: &str, size: usize, args: &[&str]) {
        let mut command = Command::new(MACFENCE);
        command.args(args);
        let figure = Figure::new(PART, what, OURS, size, WALL);
        cost_of(&self.ours, command, Some(self.template.path())).add_to(figures, &figure);
    }

    fn unfence(&self) {
        self.ours.macfence(["remove", &GUEST.name()]).ok();
    }

    /// Fails if there were no such rules.
    fn take_the_seeds_rules_away(&self) {
        for rule in GUEST.of_the_seed() {
            let words: Vec<_> = ["-D"].into_iter().chain(rule.split(' ')).collect();
            self.seeds.ok("ebtables", &words);
        }
    }

    fn count_processes(&self, figures: &mut Figures, size: usize) {
        for what in [POST_NEW, POST_SAME] {
            let mut command = Command::new(MACFENCE);
            command.args(POST);
            let programs = programs::of(&self.ours, command, Some(self.template.path()));
            let count = programs.iter().filter(|program| program.name == "nft");
            let figure = Figure::new(PART, what, OURS, size, NFT_PROCESSES);
            figures.add(figure, count.count() as f64);
        }
        self.unfence();
    }
}

/// Writes a VM template in base64, as OpenNebula's network drivers get it, with the parts that
/// matter here.
fn template(vm: Vm) -> NamedTempFile {
    let (id, port, mac, bridge) = (vm.0, vm.port(), vm.mac(), vm.bridge());
    let xml = format!(
        "<VM><ID>{id}</ID><DEPLOY_ID>{}</DEPLOY_ID>\
         <TEMPLATE><CONTEXT><NETWORK><![CDATA[YES]]></NETWORK></CONTEXT></TEMPLATE>\
         <HISTORY_RECORDS><HISTORY><VM_MAD><![CDATA[kvm]]></VM_MAD></HISTORY></HISTORY_RECORDS>\
         <TEMPLATE><NIC><BRIDGE><![CDATA[{bridge}]]></BRIDGE><MAC><![CDATA[{mac}]]></MAC>\
         <NIC_ID><![CDATA[0]]></NIC_ID><TARGET><![CDATA[{port}]]></TARGET>\
         <VN_MAD><![CDATA[bridge]]></VN_MAD>\
         <FILTER_MAC_SPOOFING><![CDATA[YES]]></FILTER_MAC_SPOOFING></NIC></TEMPLATE></VM>",
        vm.name()
    );
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), BASE64_STANDARD.encode(xml)).expect("a template");
    file
}

fn compare(figures: &mut Figures) {
    let figure = |what, way, size| Figure::new(PART, what, way, size, WALL);
    let small = SIZES[0];
    for size in SIZES {
        let script = figure(SCRIPT, SEED, size);
        for what in [APPLY_NEW, APPLY_SAME, POST_NEW, POST_SAME] {
            figures.compare(figure(what, OURS, size), &script, TIMES_SEED);
        }
        figures.compare(script, &figure(SCRIPT, SEED, small), TIMES_SMALL);
        for what in [APPLY_NEW, APPLY_SAME, REMOVE, POST_NEW, POST_SAME] {
            let here = figure(what, OURS, size);
            figures.compare(here, &figure(what, OURS, small), TIMES_SMALL);
        }
    }
}
