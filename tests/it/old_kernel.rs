//! nft on older kernels. The tests run here, and again in [`super::legacy`] on kernels whose
//! bridges and nftables can do less.

use crate::address_guard;
use crate::attacks::{Firewall, before_fence, bridge_table, host, multicast, overheard};
use crate::lab::Host;

#[test]
fn no_frame_of_a_vm_changes_an_old_kernels_bridge_table() {
    bridge_table::check_a_few(Firewall::Nft);
}

#[test]
fn an_old_kernels_bridge_forgets_what_it_learned_before_the_fence() {
    before_fence::check_apply(Firewall::Nft);
}

#[test]
fn no_other_vm_hears_what_a_router_sends_to_one_vm_on_an_old_kernel() {
    overheard::check(Firewall::Nft);
}

#[test]
fn an_old_kernels_bridge_ignores_queries_of_vms_and_vms_hear_those_of_others() {
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
#[ignore = "needs VLAN devices, which the kernels that `legacy` boots have"]
fn false_addresses_do_not_reach_a_vlan_device_of_an_old_kernel() {
    host::check_vlan(Firewall::Nft);
}
