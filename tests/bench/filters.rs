//! The filters between two VMs, and how each is loaded.
//!
//! Both VMs are the first ones in every list of rules. Their place makes no difference to ebtables:
//! a frame that passes matches no rule, so ebtables compares it with all of them. If there is only
//! one VM, it is the sender, and the hearer has no rules.

use crate::lab::Host;
use crate::layout;
use crate::vms::{Vm, Vms, load_ebtables, load_nft, load_nft_text};

pub const NOBODY: &str = "no filter";
pub const NFT: &str = "macfence on nft";
/// As [`NFT`], with the sender's IP addresses guarded.
pub const GUARDED: &str = "macfence on nft guarding addresses";
pub const EBTABLES: &str = "macfence on ebtables";
pub const SEED: &str = "the ebtables scripts' rules";
pub const LAYOUT_0_1: &str = "version 0.1's layout";
/// The comparisons.
pub const TIMES_NOBODY: &str = "times no filter";
pub const TIMES_NFT: &str = "times macfence on nft";
pub const TIMES_LAYOUT_0_1: &str = "times version 0.1's layout";

/// The VM that sends and the VM that hears it. They share a network, so frames pass.
pub const SENDER: Vm = Vm(1);
pub const HEARER: Vm = Vm(2);
/// A VM whose address the sender must not use.
pub const OTHER: Vm = Vm(3);

/// Loads one of the filters, with rules for these VMs.
pub fn load(way: &str, host: &Host, vms: &Vms) {
    match way {
        NOBODY => {}
        NFT => load_nft(host, &vms.for_nft(host)),
        GUARDED => load_nft(host, &vms.for_nft_guarding(host, SENDER)),
        EBTABLES => load_ebtables(host, &vms.for_ebtables(host)),
        SEED => load_ebtables(host, &vms.of_the_seed()),
        LAYOUT_0_1 => {
            let nics = vms.all().map(|vm| (vm.name(), vm.port(), vm.mac()));
            load_nft_text(host, &layout::version_0_1(nics));
        }
        _ => unreachable!("{way}"),
    }
}
