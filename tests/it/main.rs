//! Tests against the real kernel, the real nft, the real libvirt. Each name is a claim.

#[path = "../lab/mod.rs"]
mod lab;

mod address_guard;
mod attacks;
mod bad_input;
mod bridge_settings;
mod busy_host;
mod changes;
mod command_line;
mod crash;
mod damage;
mod dice;
mod doctor;
mod drift;
mod ebtables;
mod explain;
mod export;
mod faults;
mod fuzzed;
mod guest;
mod hypervisor;
mod install;
mod legacy;
mod libvirt_hook;
mod list;
mod locks;
mod memory;
mod metrics;
mod migrate;
mod monitoring;
mod names;
mod networks;
mod nft_versions;
mod old_host;
mod old_kernel;
mod opennebula;
mod packages;
mod privileges;
mod same_verdict;
mod seed_hooks;
mod semantics;
mod storm;
mod two_hosts;
mod watch;
mod xen;
