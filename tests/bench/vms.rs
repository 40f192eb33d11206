//! Made-up VMs: their XML for a hypervisor, and their rules for each firewall.

use std::path::PathBuf;
use std::process::Command;

use macfence::mac::MacAddr;
use tempfile::TempDir;

use crate::lab::{Host, MACFENCE, macfence_with, path_with, script};

/// Number of bridges on a host. A Linux bridge takes at most 1,023 ports.
pub const BRIDGES: usize = 5;

/// A captured domain of libvirt, and the metadata and devices that libvirt adds for a VM of
/// OpenNebula.
const DOMAIN: &str = include_str!("../captures/virsh-9.0-dumpxml-one-1.xml");
const METADATA: &str = include_str!("metadata.xml");
const DEVICES: &str = include_str!("devices.xml");

/// A VM, by its number from 1.
#[derive(Clone, Copy, Debug)]
pub struct Vm(pub usize);

impl Vm {
    pub fn name(self) -> String {
        format!("one-{}", self.0)
    }

    pub fn port(self) -> String {
        format!("one-{}-0", self.0)
    }

    /// Puts 250 VMs in each network.
    pub fn mac(self) -> MacAddr {
        let (network, station) = ((self.0 - 1) / 250, (self.0 - 1) % 250 + 1);
        MacAddr::new([2, 0, 0xc0, 0xa8, network as u8, station as u8])
    }

    pub fn bridge(self) -> String {
        format!("br{}", self.0 % BRIDGES)
    }

    /// Returns the two rules that the seed's script appends for the VM.
    pub fn of_the_seed(self) -> [String; 2] {
        let (port, mac) = (self.port(), self.mac());
        let [a, b, c, d, e, _] = mac.bytes();
        let network = MacAddr::new([a, b, c, d, e, 0]);
        [
            format!("FORWARD -s ! {network}/ff:ff:ff:ff:ff:00 -o {port} -j DROP"),
            format!("FORWARD -s ! {mac} -i {port} -j DROP"),
        ]
    }

    /// Returns its XML, about 5 KB.
    pub fn xml(self) -> String {
        self.xml_with(self.mac())
    }

    /// Returns its XML with another MAC address.
    pub fn xml_with(self, mac: MacAddr) -> String {
        DOMAIN
            .replace("id='1'>\n  <name>", &format!("id='{}'>\n  <name>", self.0))
            .replace("<name>one-1<", &format!("<name>{}<", self.name()))
            .replace("02:00:c0:a8:00:05", &mac.to_string())
            .replace("beth0", &self.bridge())
            .replace("one-1-0", &self.port())
            .replace("  <memory ", &format!("{METADATA}  <memory "))
            .replace("    <interface ", &format!("{DEVICES}    <interface "))
    }
}

/// A number of VMs, and a stand-in for a hypervisor that only describes them.
pub struct Vms {
    pub count: usize,
    dir: TempDir,
}

impl Vms {
    pub fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let vms = Self { count, dir };
        let (mut names, mut domains) = (String::new(), String::new());
        for vm in vms.all() {
            let xml = vm.xml();
            std::fs::write(vms.xml(vm), &xml).expect("XML");
            names += &format!("{}\n", vm.name());
            domains += &xml;
        }
        vms.write("names", &names);
        vms.write("all", &domains);
        let mac = Vm(count + 1).mac();
        let changed = domains.replacen(&Vm(1).xml(), &Vm(1).xml_with(mac), 1);
        assert_ne!(changed, domains);
        vms.write("changed", &changed);
        vms.tell("all");
        // `exec` saves a process, because the cost of the stand-in is subtracted and should be
        // small.
        let says =
            "case $4 in 'list --name') exec cat ${0%/*}/names;; *) exec cat ${0%/*}/now; esac";
        script(&vms.dir, "virsh", says);
        vms
    }

    pub fn all(&self) -> impl Iterator<Item = Vm> + use<> {
        (1..=self.count).map(Vm)
    }

    /// Returns the file with a VM's XML.
    pub fn xml(&self, vm: Vm) -> PathBuf {
        self.dir.path().join(vm.name())
    }

    /// Makes the hypervisor describe `all` VMs as they are, or the first one as `changed`.
    pub fn tell(&self, which: &str) {
        let now = self.dir.path().join("now");
        let _ = std::fs::remove_file(&now);
        std::os::unix::fs::symlink(which, now).expect("a link");
    }

    /// Returns a command that runs macfence with this hypervisor.
    pub fn macfence(&self, args: &[&str]) -> Command {
        let mut command = macfence_with(&self.dir);
        command.args(args);
        command
    }

    pub fn path(&self) -> String {
        path_with(&self.dir)
    }

    /// Returns macfence's export of their fences for a firewall.
    fn export(&self, host: &Host, args: &[&str]) -> String {
        let mut command = Command::new(MACFENCE);
        command.args(args).arg("export");
        for vm in self.all() {
            command.arg("--xml").arg(self.xml(vm));
        }
        host.exec(&mut command, "").ok()
    }

    /// Returns their fences in nft's JSON.
    pub fn for_nft(&self, host: &Host) -> String {
        self.export(host, &["--backend", "nft"])
    }

    /// Returns their fences in nft's JSON, where one VM may use only its own IP address.
    pub fn for_nft_guarding(&self, host: &Host, vm: Vm) -> String {
        let section = format!("[[network]]\nmac = '{}/48'\naddresses = 'mac'\n", vm.mac());
        self.write("guarding.toml", &section);
        let file = self.dir.path().join("guarding.toml");
        let file = file.to_str().expect("UTF-8");
        self.export(host, &["--backend", "nft", "--config", file])
    }

    /// Returns their fences for ebtables-restore.
    pub fn for_ebtables(&self, host: &Host) -> String {
        let calls = self.export(host, &["--backend", "ebtables"]);
        let mut rules = String::new();
        let mut table = "";
        for call in calls.lines() {
            let call = call.strip_prefix("ebtables -t ").expect("a call");
            let (of, words) = call.split_once(' ').expect("words");
            if of != table {
                table = of;
                rules += &format!("*{table}\n");
            }
            rules += &match words.strip_prefix("-N ") {
                // In this format the line of a chain's policy creates the chain.
                Some(chain) => format!(":{}\n", chain.replace("-P ", "")),
                None => format!("{words}\n"),
            };
        }
        rules
    }

    /// Returns the rules that the seed's script would have appended, for ebtables-restore.
    pub fn of_the_seed(&self) -> String {
        let append = |vm: Vm| vm.of_the_seed().map(|rule| format!("-A {rule}\n")).concat();
        format!("*filter\n{}", self.all().map(append).collect::<String>())
    }

    /// Creates their bridges and ports on a host.
    pub fn plug_into(&self, host: &Host) {
        for bridge in 0..BRIDGES {
            host.bridge(&format!("br{bridge}"));
        }
        let plug = |vm: Vm| {
            let (port, bridge) = (vm.port(), vm.bridge());
            format!("tuntap add {port} mode tap\nlink set {port} master {bridge} up\n")
        };
        host.ip(&self.all().map(plug).collect::<String>());
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).expect(name);
    }
}

/// Loads rules in nft's JSON.
pub fn load_nft(host: &Host, json: &str) {
    host.exec(Command::new("nft").args(["-j", "-f", "-"]), json)
        .ok();
}

/// Loads rules in nft's own language.
pub fn load_nft_text(host: &Host, text: &str) {
    host.exec(Command::new("nft").args(["-f", "-"]), text).ok();
}

/// Loads rules of ebtables.
pub fn load_ebtables(host: &Host, rules: &str) {
    for table in rules
        .split_inclusive('\n')
        .collect::<Vec<_>>()
        .chunk_by(|_, line| !line.starts_with('*'))
    {
        host.exec(
            Command::new("ebtables-restore").arg("--noflush"),
            &table.concat(),
        )
        .ok();
    }
}
