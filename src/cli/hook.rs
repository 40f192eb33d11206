//! Subcommands for programs that call macfence.

use clap::{Subcommand, ValueEnum, ValueHint};

use crate::vm::VmName;

/// A program that can be made to call macfence.
#[derive(Debug, Subcommand)]
pub enum Caller {
    /// Have libvirt fence every domain before its guest runs
    ///
    /// Copies a hook below /etc/libvirt/hooks, and writes what AppArmor and SELinux need to let libvirt run
    /// it. Tries the hook first, the way libvirt would call it. If libvirt could not run it, nothing is
    /// changed.
    #[command(after_long_help = include_str!("../help/install-hook.txt"))]
    Libvirt {
        /// Remove the hook, and what was written for it
        #[arg(long)]
        remove: bool,
    },
    /// Have OpenNebula's network drivers or state hooks call macfence
    ///
    /// Copies files below /var/lib/one/remotes on a front-end, or /var/tmp/one on a host, as oneadmin.
    #[command(after_long_help = include_str!("../help/install-hook.txt"))]
    Opennebula {
        /// Network driver that is to call macfence. May be given several times [default: bridge]
        #[arg(long = "driver", value_name = "NAME", value_hint = ValueHint::Other)]
        drivers: Vec<String>,
        /// Have state hooks call macfence instead
        #[arg(long, conflicts_with = "drivers")]
        state_hooks: bool,
        /// Remove the files
        #[arg(long)]
        remove: bool,
    },
    /// Have Xen's vif scripts fence every domain before its guest runs
    ///
    /// Writes a script and a hook below /etc/xen/scripts, after it has tried them, and sets
    /// vif.default.script in /etc/xen/xl.conf. If another script is set there, nothing is changed.
    #[command(after_long_help = include_str!("../help/install-hook.txt"))]
    Xen {
        /// Remove the hook and the setting. The script remains, and only calls vif-bridge
        #[arg(long)]
        remove: bool,
    },
}

/// What Xen calls a vif script with, when there is a port for it to put on a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VifCommand {
    /// A vif
    Online,
    /// An HVM guest's emulated interface
    Add,
}

/// Who calls, and with what.
#[derive(Debug, Subcommand)]
pub enum Entry {
    /// Fence a VM that started on KVM, for a VM_HOOK in oned.conf
    #[command(after_long_help = include_str!("../help/hook.txt"))]
    EbtablesKvm {
        /// Name of the VM, as in one-$VMID
        vm: VmName,
    },
    /// Fence a VM that started on Xen, for a VM_HOOK in oned.conf
    #[command(after_long_help = include_str!("../help/hook.txt"))]
    EbtablesXen {
        /// Name of the VM, as in one-$VMID
        vm: VmName,
    },
    /// Delete rules of ports that are gone, for a VM_HOOK in oned.conf
    ///
    /// Waits a moment first, until the port of the VM that ended has left its bridge.
    #[command(after_long_help = include_str!("../help/hook.txt"))]
    EbtablesFlush,
    /// Fence a VM, or the NIC being attached, for OpenNebula's network drivers and state hooks
    ///
    /// Reads the VM's template in base64 on standard input. It belongs in post.d/ of a network driver.
    #[command(after_long_help = include_str!("../help/hook.txt"))]
    OnePost {
        /// Only NICs of this network driver (VN_MAD)
        #[arg(long, value_name = "NAME")]
        driver: Option<String>,
        /// The hypervisor's name for the VM; - for none [default: one-ID]
        deploy_id: Option<String>,
        /// Ignored: drivers append the name of the host
        #[arg(value_name = "HOST", hide = true)]
        rest: Vec<String>,
    },
    /// Remove the fence of a VM, or of the NIC that was detached, for OpenNebula's network drivers
    ///
    /// Reads the VM's template in base64 on standard input. It belongs in clean.d/ of a network driver.
    #[command(after_long_help = include_str!("../help/hook.txt"))]
    OneClean {
        /// Only NICs of this network driver (VN_MAD)
        #[arg(long, value_name = "NAME")]
        driver: Option<String>,
        /// Ignored: drivers append the name of the host
        #[arg(value_name = "HOST", hide = true)]
        rest: Vec<String>,
    },
    /// What sudo runs for one-post --driver NAME. A link accepts no flags
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
    /// Fence a domain before its guest runs, for Xen's vif scripts
    ///
    /// They call it for each port that has come to its bridge, or with --before for one that is about to.
    #[command(after_long_help = include_str!("../help/hook.txt"))]
    Xen {
        /// The calling process is about to put the port on its bridge: for a vif (online), or for an HVM
        /// guest's emulated interface (add)
        #[arg(long, value_name = "COMMAND", requires = "script")]
        before: Option<VifCommand>,
        /// Number of the calling process. Ends with an error if that has ended
        #[arg(long, value_name = "PID", requires = "before")]
        script: Option<u32>,
        /// Path of the port in xenstore, as in $XENBUS_PATH: it ends in the numbers of the domain and its
        /// interface
        #[arg(value_name = "PATH")]
        path: String,
    },
    /// Fence a domain before its guest runs, and remove its fence when it has ended, for libvirt's hook
    ///
    /// Reads the domain's XML on standard input.
    #[command(after_long_help = include_str!("../help/hook.txt"))]
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
