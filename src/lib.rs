//! macfence keeps the virtual machines of different virtual networks apart on a host whose Linux
//! bridges carry several networks at once.
//!
//! The *seed* in these pages is the pair of scripts in OpenNebula 2.0's networking guide,
//! `ebtables-kvm` and `ebtables-flush`. macfence enforces the same isolation.
//!
//! Data flows one way:
//!
//! ```text
//! source  ->  Vm { name, nics: [Nic { port, mac }] }  ->  fence  ->  backend  ->  kernel
//! ```
//!
//! - [`source`] asks a hypervisor, or reads what it wrote. It knows no rules.
//! - [`vm`] and [`mac`] are the checked values in between. [`bridge`] tells which port is on which
//!   bridge, and changes settings of both.
//! - [`memory`] keeps, until the VM ends, what only OpenNebula's template asks for.
//! - [`policy`] holds what the operator chose, and derives each NIC's guard from it.
//! - [`fence`] is what to enforce: a guard in front of each port of a VM.
//! - [`compare`] compares the fence that a VM should have with the one in the kernel; [`survey`] does
//!   so for all running VMs.
//! - [`explain`] tells whether a port would hear a frame, and which rule decides.
//! - [`backend`] loads fences into the kernel, and reads back what the kernel holds. It knows no
//!   hypervisor.
//! - [`commands`] has one file for each subcommand, [`cli`] has every flag, and [`exit`] has the exit
//!   statuses. [`config`] merges the flags with the configuration file.
//! - [`completions`] answers a shell whose user presses the tab key.
//! - [`privilege`] repeats another user's call as root, or refuses it.
//! - [`graph`] draws who hears whom.
//! - [`quote`] shortens foreign text for messages.
//! - [`process`] runs other programs, [`lock`] excludes other processes, and [`events`] waits for
//!   changes that the kernel reports.
//!
//! [`policy`], [`fence`], [`compare`], [`survey`], [`graph`], [`explain`] and both backends' planners
//! are pure: they start no process and read no file.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod backend;
pub mod bridge;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod completions;
pub mod config;
pub mod events;
pub mod exit;
pub mod explain;
pub mod fence;
pub mod graph;
pub mod heartbeat;
pub mod lock;
pub mod mac;
pub mod memory;
pub mod policy;
pub mod privilege;
pub mod process;
pub mod quote;
pub mod report;
pub mod source;
pub mod survey;
pub mod vm;
