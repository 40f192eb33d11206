//! Every subcommand and flag; the comments are the help text.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, Error};
use clap::{Args, Parser, Subcommand};

use crate::backend;
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::quote::beginning;
use crate::vm::VmName;

/// Keep the virtual machines of different virtual networks apart on shared Linux bridges
#[derive(Debug, Parser)]
#[command(name = "macfence", version, max_term_width = 100)]
pub struct Cli {
    /// The flags that go with any subcommand.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line. Ends the process where it is wrong, and where it asks for help.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self::try_parse_from(arguments).unwrap_or_else(|e| short(e).exit())
    }
}

/// An argument may be as long as the kernel lets it be, 128 KiB: only its beginning is quoted.
fn short(mut error: Error) -> Error {
    for kind in [
        ContextKind::InvalidValue,
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
    ] {
        if let Some(ContextValue::String(value)) = error.get(kind) {
            let value = ContextValue::String(beginning(value));
            error.insert(kind, value);
        }
    }
    error
}

/// Flags that go with any subcommand; they override the configuration file.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file [default: /etc/macfence.toml, if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Firewall to use [default: auto]
    #[arg(long, value_enum, global = true)]
    pub backend: Option<backend::Choice>,

    /// Act only on this bridge; may be given several times [default: all bridges]
    #[arg(long = "bridge", value_name = "NAME", global = true)]
    pub bridges: Vec<String>,

    /// Leading bits of a MAC address that name its network, 8 to 48 [default: 40]
    #[arg(long, value_name = "N", global = true)]
    pub prefix_len: Option<PrefixLen>,

    /// Address or prefix that every fenced VM may hear; may be given several times
    #[arg(long, value_name = "MAC[/LEN]", global = true)]
    pub trusted: Vec<MacPrefix>,

    /// libvirt to ask about VMs [default: qemu:///system]
    #[arg(long, value_name = "URI", global = true)]
    pub connect: Option<String>,

    /// Tell what is done, on standard error
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fence these VMs
    Apply(Vms),
    /// Remove the fences of these VMs
    Remove {
        /// Names of the VMs
        #[arg(value_name = "VM", required = true)]
        vms: Vec<VmName>,
    },
    /// Delete what refers to ports that no bridge has any more
    Flush,
    /// Fence every running VM, and delete what refers to ports that are gone, in one transaction
    Sync,
    /// Keep every running VM fenced: sync now, and whenever a port or a rule has changed; SIGHUP makes
    /// it read the configuration again
    Watch,
    /// Show each port of the running VMs and each fence: what it hears, and what was dropped. With
    /// --bridge, only those on these bridges
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print who hears whom as a graph, in the language of Graphviz' dot
        #[arg(long, conflicts_with = "json")]
        graph: bool,
    },
    /// Compare what the kernel holds with what the running VMs should have: 0 all is well, 1 it is
    /// not, 2 it could not be found out, or the configuration names a bridge that does not exist
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// File with a libvirt domain to compare instead of the running VMs, - for standard input; may be
        /// given several times
        #[arg(long, value_name = "FILE")]
        xml: Vec<PathBuf>,
    },
    /// Tell whether one VM would hear another, and which rule decides
    ///
    /// Would TO hear a frame of FROM that is addressed to it? Judged by the rules that the kernel holds
    /// now. Prints each step of the frame's way with the rule that decides and how often that rule has
    /// dropped, then the settings with the lines of the configuration file that they come from, and
    /// last in one sentence the answer and what would change it.
    ///
    /// Exit status: 0 heard, 1 not heard, 2 cannot be known. Rules of others are pointed out, but not
    /// evaluated.
    ///
    /// Examples, of which the second asks about a router:
    ///   macfence explain one-1 one-2
    ///   macfence explain 52:54:00:aa:bb:01 one-2
    ///   macfence explain one-1 one-2 --as 02:00:c0:a8:00:09
    ///   macfence explain one-1 one-2 --arp 192.168.0.1
    #[command(verbatim_doc_comment)]
    Explain(Explain),
    /// Print counters and findings in Prometheus' text format
    Metrics {
        /// File to write instead, as a whole, for node_exporter's textfile collector
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the JSON that apply would load, for nft -j -f -; touches nothing
    Export(Vms),
    /// Replace the rules of OpenNebula's ebtables scripts by fences in nft, without a gap
    Migrate {
        /// Only print what would be loaded, and which rules would be deleted
        #[arg(long)]
        dry_run: bool,
    },
    /// Look whether this host is set up so that fences work and come by themselves, a line with its fix
    /// for each finding: 0 all is well, 1 it is not, 2 it could not be found out
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Entry points for other programs; ebtables-* and one-* also through links of these names
    Hook {
        /// Who calls
        #[command(subcommand)]
        entry: Entry,
    },
}

/// Who sends what to whom.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// Who sends: a VM, a port, or a MAC address. One that is nobody's here comes in by a port
    /// without a fence
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Who may hear it: a VM or a port. The name of a VM goes before that of a port
    #[arg(value_name = "TO")]
    pub to: String,
    /// Ask about a frame under this source address
    #[arg(long = "as", value_name = "MAC")]
    pub source: Option<MacAddr>,
    /// Ask about an ARP packet that says its sender has this address
    #[arg(long, value_name = "IP", conflicts_with = "ip")]
    pub arp: Option<Ipv4Addr>,
    /// Ask about an IPv4 or IPv6 packet from this address
    #[arg(long, value_name = "IP")]
    pub ip: Option<IpAddr>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// VMs, by name or by their XML.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Vms {
    /// Names of VMs that libvirt knows
    #[arg(value_name = "VM")]
    pub vms: Vec<VmName>,
    /// File with a libvirt domain, - for standard input; may be given several times
    #[arg(long, value_name = "FILE")]
    pub xml: Vec<PathBuf>,
}

/// Who calls, and with what.
#[derive(Debug, Subcommand)]
pub enum Entry {
    /// OpenNebula's VM_HOOK for a VM that started on KVM: fence it
    EbtablesKvm {
        /// Name of the VM, as in one-$VMID
        vm: VmName,
    },
    /// OpenNebula's VM_HOOK for a VM that started on Xen: fence it
    EbtablesXen {
        /// Name of the VM, as in one-$VMID
        vm: VmName,
    },
    /// OpenNebula's VM_HOOK for a VM that is done: flush, after its port has left the bridge
    EbtablesFlush,
    /// For post.d/ of OpenNebula's network drivers and for its state hooks, with the VM template
    /// in base64 on standard input: fence the VM, or the NIC that is being attached
    OnePost {
        /// Only NICs of this network driver (VN_MAD)
        #[arg(long, value_name = "NAME")]
        driver: Option<String>,
        /// What the hypervisor calls the VM, if not one- and its ID; - for nothing
        deploy_id: Option<String>,
        /// Ignored: drivers append the name of the host
        #[arg(value_name = "HOST", hide = true)]
        rest: Vec<String>,
    },
    /// For clean.d/ of OpenNebula's network drivers, with the VM template in base64 on standard
    /// input: remove the VM's fence, or that of the NIC that was detached
    OneClean {
        /// Only NICs of this network driver (VN_MAD)
        #[arg(long, value_name = "NAME")]
        driver: Option<String>,
        /// Ignored: drivers append the name of the host
        #[arg(value_name = "HOST", hide = true)]
        rest: Vec<String>,
    },
    /// What sudo runs for one-post --driver NAME, as behind a link nothing is a flag
    #[command(hide = true)]
    DriverPost {
        /// The network driver
        driver: String,
        /// What one-post takes
        rest: Vec<String>,
    },
    /// What sudo runs for one-clean --driver NAME
    #[command(hide = true)]
    DriverClean {
        /// The network driver
        driver: String,
        /// What one-clean takes
        rest: Vec<String>,
    },
    /// libvirt's hook for QEMU domains, with the domain's XML on standard input: fence a domain
    /// before its guest runs, remove its fence after it has ended
    Libvirt {
        /// Name of the domain
        #[arg(value_name = "VM", allow_hyphen_values = true)]
        vm: VmName,
        /// What happens to it: start and reconnect fence it, stopped and release remove its fence
        operation: String,
        /// Ignored: begin or end
        #[arg(value_name = "SUB")]
        sub_operation: String,
        /// Ignored
        extra: String,
    },
}

/// The names under which the program is an entry point itself.
pub const LINKS: [&str; 7] = [
    "ebtables-kvm",
    "ebtables-xen",
    "ebtables-flush",
    "one-post",
    "one-clean",
    "driver-post",
    "driver-clean",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_argument_is_not_quoted_as_a_whole() {
        let long = "x".repeat(100_000);
        for words in [
            &["apply", &long][..],
            &["hook", "ebtables-kvm", &long],
            &["hook", "ebtables-flush", &long],
            &["--prefix-len", &long, "sync"],
            &["--trusted", &long, "sync"],
            &["--backend", &long, "sync"],
            &[&long],
        ] {
            let words = ["macfence"].iter().chain(words);
            let error = short(Cli::try_parse_from(words).unwrap_err()).to_string();
            assert!(error.contains("xxx...") && error.len() < 1_000, "{error}");
        }
    }
}
