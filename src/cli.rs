//! Every subcommand and flag. The comments are the help text and the man pages' descriptions; the files in
//! `help/` follow them as examples and exit statuses.

mod hook;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, Error};
use clap::{Args, Parser, Subcommand, ValueHint};

pub use self::hook::{Caller, Entry, VifCommand};
use crate::backend;
use crate::mac::{MacAddr, MacPrefix, PrefixLen};
use crate::quote::beginning;
use crate::vm::VmName;

/// Keep the virtual machines of different virtual networks apart on shared Linux bridges
///
/// macfence puts a fence in front of each VM's port. The VM can send only under its own MAC address, and
/// receives only frames from its own network: senders whose MAC address begins like its own.
/// The rules are in the nftables table "bridge macfence", one chain for each VM, or in ebtables on hosts
/// where nftables does not work.
#[derive(Debug, Parser)]
#[command(name = "macfence", version, max_term_width = 100, after_long_help = include_str!("help/macfence.txt"))]
pub struct Cli {
    /// Flags of all subcommands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line. Ends the process if it is wrong or asks for help.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self::try_parse_from(arguments).unwrap_or_else(|e| short(e).exit())
    }
}

/// Quotes only the beginning of a long argument: the kernel allows 128 KiB.
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

/// Flags of all subcommands. They override the configuration file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file [default: /etc/macfence.toml, if it exists]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub config: Option<PathBuf>,

    /// Firewall to use [default: auto]
    #[arg(long, value_enum, global = true)]
    pub backend: Option<backend::Choice>,

    /// Act only on this bridge. May be given several times [default: all bridges]
    #[arg(long = "bridge", value_name = "NAME", value_hint = ValueHint::Other, global = true)]
    pub bridges: Vec<String>,

    /// How many leading bits of a MAC address name its network, 8 to 48 [default: 40]
    #[arg(long, value_name = "N", value_hint = ValueHint::Other, global = true)]
    pub prefix_len: Option<PrefixLen>,

    /// Sender that every fenced VM may hear, such as the router. May be given several times
    #[arg(long, value_name = "MAC[/LEN]", value_hint = ValueHint::Other, global = true)]
    pub trusted: Vec<MacPrefix>,

    /// Where libvirt is asked about VMs [default: qemu:///system]
    #[arg(long, value_name = "URI", value_hint = ValueHint::Other, global = true)]
    pub connect: Option<String>,

    /// Say on standard error what is done
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fence these VMs
    ///
    /// Reads each VM's NICs from its libvirt domain, and puts fences in front of their ports. All of
    /// them change in one transaction, or none. What is right already is not touched, and keeps its
    /// counters.
    #[command(after_long_help = include_str!("help/apply.txt"))]
    Apply(Vms),
    /// Remove the fences of these VMs
    ///
    /// A VM that still runs is open afterwards, until something fences it again. The service does so at
    /// once. To open a VM for good, leave its bridge out of "bridges".
    #[command(after_long_help = include_str!("help/remove.txt"))]
    Remove {
        /// Name of a VM
        #[arg(value_name = "VM", value_hint = ValueHint::Other, required = true)]
        vms: Vec<VmName>,
    },
    /// Delete rules of ports that are no longer on any bridge
    #[command(after_long_help = include_str!("help/flush.txt"))]
    Flush,
    /// Fence every running VM, and delete rules of ports that are gone
    ///
    /// Compares the running VMs with the kernel's rules and loads the difference in one transaction.
    /// Prints a line for each change. A fence whose port is on a bridge and belongs to no running VM is
    /// kept: it may be a container's, or that of a VM that is just starting.
    #[command(after_long_help = include_str!("help/sync.txt"))]
    Sync,
    /// Keep every running VM fenced, as a service
    ///
    /// Does what sync does, now and whenever a port or a rule changes. Before that, it reads the
    /// configuration again if the file has changed. If libvirt is down, it logs that once and keeps all
    /// fences. If somebody flushes the rules meanwhile, it fences the VMs that it knows again.
    #[command(after_long_help = include_str!("help/watch.txt"))]
    Watch,
    /// Show each VM's ports, whom they hear, and what was dropped
    ///
    /// Prints one line for each port of a running VM, fenced or not, and for each other fence that the
    /// kernel holds. Changes nothing. If no hypervisor answers, it shows what the kernel holds, and
    /// says so.
    #[command(after_long_help = include_str!("help/list.txt"))]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print who hears whom as a graph for Graphviz' dot
        #[arg(long, conflicts_with = "json")]
        graph: bool,
    },
    /// Show who was dropped in the last 10 minutes, where and why
    ///
    /// Prints one line for each port and source address: whose address it is, how many frames, and when
    /// the last one came. Changes nothing. Only with nft.
    #[command(after_long_help = include_str!("help/drops.txt"))]
    Drops {
        /// Only at the ports of this VM. May be given several times
        #[arg(value_name = "VM", value_hint = ValueHint::Other)]
        vms: Vec<VmName>,
        /// Print further ones as they come, until interrupted
        #[arg(long)]
        follow: bool,
        /// Print JSON; with --follow one object a line
        #[arg(long)]
        json: bool,
    },
    /// Compare the kernel's rules with what the running VMs should have
    ///
    /// Prints a line for each difference, and what to run. Changes nothing.
    #[command(after_long_help = include_str!("help/check.txt"))]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Compare the libvirt domain in this file instead of the running VMs; - reads standard input. May be
        /// given several times
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        xml: Vec<PathBuf>,
    },
    /// Tell whether one VM would hear another, and which rule decides
    ///
    /// Follows a frame from FROM to TO through the bridge and the rules that the kernel holds now. Prints
    /// each step with the rule that decides and what that rule has dropped so far, then the settings and
    /// the lines of the configuration file that they come from. The last line is the answer, and what
    /// would change it. Rules of other programs are pointed out, but not evaluated.
    #[command(after_long_help = include_str!("help/explain.txt"))]
    Explain(Explain),
    /// Print counters and findings for Prometheus
    #[command(after_long_help = include_str!("help/metrics.txt"))]
    Metrics {
        /// Write to this file, replacing it as a whole, for node_exporter's textfile collector
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
    /// Print the ruleset that apply would load, as nft's JSON
    ///
    /// Changes nothing. It needs no rights, no nft and, with --xml, no hypervisor. It fences every NIC,
    /// whether or not its port is on this host. The output loads into an empty kernel, or over the same
    /// VMs' fences. If a port has another VM's fence, nft refuses all of it. With --backend ebtables it
    /// prints calls of ebtables instead.
    #[command(after_long_help = include_str!("help/export.txt"))]
    Export(Vms),
    /// Move from the rules of OpenNebula's ebtables scripts to nft
    ///
    /// Replaces each pair of the scripts' rules whose port belongs to a running VM by a fence in nft. No VM
    /// is open for a moment. Other rules, and pairs with another MAC address, are listed and left alone.
    #[command(after_long_help = include_str!("help/migrate.txt"))]
    Migrate {
        /// Only print what would be loaded, and which rules would be deleted
        #[arg(long)]
        dry_run: bool,
    },
    /// Look whether this host is set up well, and say what to set right
    ///
    /// Checks that nft works, that something fences VMs when they start, that the configuration makes
    /// sense on this host, and that all running VMs are fenced. Prints a line for each finding, with its
    /// fix. Changes nothing.
    #[command(after_long_help = include_str!("help/doctor.txt"))]
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Install a hook, so that another program has VMs fenced when they start
    ///
    /// Installs nothing that the other program could not run: that would keep its VMs from starting.
    #[command(after_long_help = include_str!("help/install-hook.txt"))]
    InstallHook {
        /// Who calls macfence
        #[command(subcommand)]
        caller: Caller,
    },
    /// Entry points for libvirt, OpenNebula and Xen
    ///
    /// The entry points ebtables-* and one-* also work as links to macfence with these names.
    #[command(after_long_help = include_str!("help/hook.txt"))]
    Hook {
        /// Who calls
        #[command(subcommand)]
        entry: Entry,
    },
}

/// Who sends what to whom.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// Who sends: a VM, a port, or a MAC address. An address of no VM here is taken to come in by a port
    /// without a fence
    #[arg(value_name = "FROM", value_hint = ValueHint::Other)]
    pub from: String,
    /// Who may hear it: a VM or a port. If a VM and a port have the same name, the VM is meant
    #[arg(value_name = "TO", value_hint = ValueHint::Other)]
    pub to: String,
    /// Ask about a frame under this source address
    #[arg(long = "as", value_name = "MAC", value_hint = ValueHint::Other)]
    pub source: Option<MacAddr>,
    /// Ask about an ARP packet that says its sender has this address
    #[arg(long, value_name = "IP", value_hint = ValueHint::Other, conflicts_with = "ip")]
    pub arp: Option<Ipv4Addr>,
    /// Ask about an IPv4 or IPv6 packet from this address
    #[arg(long, value_name = "IP", value_hint = ValueHint::Other)]
    pub ip: Option<IpAddr>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// VMs, by name or by their XML.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Vms {
    /// Name of a running VM
    #[arg(value_name = "VM", value_hint = ValueHint::Other)]
    pub vms: Vec<VmName>,
    /// Read this libvirt domain instead of asking for it; - reads standard input. May be given several times
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub xml: Vec<PathBuf>,
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
mod tests;
