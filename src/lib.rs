//! macfence keeps the virtual machines of different virtual networks apart on a host whose Linux
//! bridges carry several networks at once.
//!
//! The *seed* in these pages is the pair of scripts in OpenNebula 2.0's networking guide,
//! `ebtables-kvm` and `ebtables-flush`, whose isolation this is.
//!
//! Data flows one way:
//!
//! ```text
//! source  ->  Vm { name, nics: [Nic { port, mac }] }  ->  fence  ->  backend  ->  kernel
//! ```
//!
//! - [`source`] asks a hypervisor, or reads what it wrote, and knows no rules.
//! - [`vm`] and [`mac`] are the checked values in between; [`bridge`] tells which port is on which
//!   bridge, and changes settings of both.
//! - [`memory`] is what only OpenNebula's template told, kept until the VM ends.
//! - [`policy`] is what the operator chose, and what follows from it for a NIC.
//! - [`fence`] is what to enforce: a guard in front of each port of a VM.
//! - [`compare`] compares what should be with what is, [`survey`] for all running VMs.
//! - [`explain`] tells whether a port would hear a frame, and which rule decides.
//! - [`backend`] brings fences into the kernel, and what the kernel holds back out. It knows no
//!   hypervisor.
//! - [`commands`] has one file for each subcommand; [`cli`] has every flag; [`config`] what they
//!   mean together with the configuration file; [`exit`] the exit statuses.
//! - [`privilege`] has other users' calls made as root, or refuses them.
//! - [`graph`] draws who hears whom.
//! - [`quote`] shortens foreign text for messages.
//! - [`process`] and [`lock`] deal with other programs and other processes, [`events`] with what the
//!   kernel tells of changes.
//!
//! [`policy`], [`fence`], [`compare`], [`survey`], [`graph`], [`explain`] and both backends' planners are pure: they start no
//! process and read no file.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod backend;
pub mod bridge;
pub mod cli;
pub mod commands;
pub mod compare;
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
