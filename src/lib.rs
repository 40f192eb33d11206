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
//!   bridge.
//! - [`fence`] computes what to enforce. It is pure: no process, no file.
//! - [`compare`] sets what should be beside what is; pure as well.
//! - [`backend`] brings it into the kernel, and what the kernel holds back out. It knows no
//!   hypervisor.
//! - [`commands`] has one file for each subcommand; [`cli`] every flag; [`config`] what they mean
//!   together with the configuration file.
//! - [`process`] and [`lock`] are where other programs and other processes are dealt with,
//!   [`events`] where the kernel tells of changes.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod backend;
pub mod bridge;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod config;
pub mod events;
pub mod fence;
pub mod lock;
pub mod mac;
pub mod process;
pub mod report;
pub mod source;
pub mod vm;
