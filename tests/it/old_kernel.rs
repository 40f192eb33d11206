//! nft on older kernels. These run here as well, and once more in [`super::legacy`] on kernels whose
//! bridges and nftables know less.

use crate::address_guard;
use crate::attacks::{Firewall, before_fence, bridge_table, host, multicast, overheard};
use crate::lab::Host;

#[test]
fn no_frame_of_a_vm_changes_the_bridges_table_of_an_old_kernel() {
    bridge_table::check_a_few(Firewall::Nft);
}

#[test]
fn what_an_old_kernels_bridge_learned_before_a_fence_is_forgotten() {
    before_fence::check_apply(Firewall::Nft);
}

#[test]
fn what_a_router_sends_to_one_vm_nobody_else_hears_on_an_old_kernel() {
    overheard::check(Firewall::Nft);
}

#[test]
fn queries_of_vms_are_not_believed_by_an_old_kernel_and_those_of_others_are_heard() {
    multicast::check_queries_of_vms(Firewall::Nft);
    multicast::check_queries_of_others(Firewall::Nft);
}

#[test]
fn false_addresses_do_not_reach_the_host_on_an_old_kernel() {
    host::check(Firewall::Nft, 5_000);
}

#[test]
fn only_honest_frames_of_a_guarded_vm_are_heard_on_an_old_kernel() {
    address_guard::check_nft(Host::new());
}

#[test]
fn a_guard_is_read_back_whole_from_an_old_kernel() {
    address_guard::repair::check_whole(Host::new());
}

#[test]
fn without_a_fence_attacks_work_on_an_old_kernel() {
    bridge_table::check_harm_of_a_few();
}

#[test]
#[ignore = "not every kernel has VLAN devices: those that `legacy` boots have"]
fn false_addresses_do_not_reach_a_vlan_device_of_an_old_kernel() {
    host::check_vlan(Firewall::Nft);
}
