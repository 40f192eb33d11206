//! `macfence hook xen`, for Xen's vif scripts, and `macfence hook ebtables-xen`.

use std::slice;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};

use crate::bridge;
use crate::cli::VifCommand;
use crate::commands::enforce::{Told, fence_vms};
use crate::commands::shared::warn_of_skipped;
use crate::config::Config;
use crate::fence::{Keep, Taken};
use crate::lock;
use crate::quote::quoted;
use crate::source::xen::Coming;
use crate::source::{Hypervisors, Kind};
use crate::vm::{Vm, VmName};

/// How long to wait for other macfence processes. libxl kills the script after 40 s
/// (`LIBXL_HOTPLUG_TIMEOUT`), and nobody would read why.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fences a running domain.
pub fn by_name(config: &Config, name: &VmName) -> Result<()> {
    let hypervisors = Hypervisors::ask_only(Kind::Xen, &config.connect)?;
    fence(
        config,
        hypervisors.named(slice::from_ref(name))?,
        &Keep::nothing(),
    )
}

/// Fences the domain that has this port. It may have others by now, or get them later: the script comes
/// for each. With `before`, the script with this process number is about to put the port on its bridge.
pub fn by_path(config: &Config, path: &str, before: Option<(VifCommand, u32)>) -> Result<()> {
    lock::wait_at_most(PATIENCE);
    let (domain, index) = numbers(path)?;
    // Whoever comes for another port of the domain waits here, and sees more of them than we do.
    let hypervisors = Hypervisors::ask_only(Kind::Xen, &config.connect)?;
    if domain == 0 {
        // The host's own has no port here. This is how install-hook tries the hook.
        hypervisors.running()?;
        return Ok(());
    }
    if let Some((command, script)) = before {
        let ending = match command {
            VifCommand::Online => "",
            VifCommand::Add => "-emu",
        };
        announce(&hypervisors.coming(domain, index, ending)?, script)?;
    }
    // Another domain's configuration may have the same vifname.
    let keep = Keep {
        others_ports: true,
        ..Keep::nothing()
    };
    match fence(config, vec![hypervisors.domain(domain)?], &keep) {
        Err(e) if e.is::<Taken>() => {
            drop(hypervisors);
            take_over(config, domain, e)
        }
        fenced => fenced,
    }
}

/// Fences a domain with a port that is fenced for another VM, if no other running VM has that port. The
/// other one may have ended, or be this one under an earlier name, as after a migration.
fn take_over(config: &Config, domain: u32, taken: Error) -> Result<()> {
    let hypervisors = Hypervisors::ask(&config.connect)?;
    let running = hypervisors.running()?;
    let vm = hypervisors.domain(domain)?;
    let others = running.vms.iter().filter(|other| other.name != vm.name);
    let mut ports = others.flat_map(|other| &other.nics).map(|nic| &nic.port);
    let is_anothers = ports.any(|port| vm.nics.iter().any(|nic| nic.port == *port));
    // One that we know nothing about may have it.
    let is_unknown = running.failed.iter().any(|(other, _)| *other != vm.name);
    if is_anothers || is_unknown {
        return Err(taken.context(format!("cannot fence VM {:?}", vm.name.as_str())));
    }
    fence(config, vec![vm], &Keep::nothing())
}

/// Announces a port that has not come to its bridge yet. It must not be there under its new name: that one
/// is another VM's, or the host's, and its fence would be replaced by this domain's.
fn announce(coming: &Coming, script: u32) -> Result<()> {
    ensure!(
        coming.port == coming.now || !bridge::is_there(&coming.port),
        "vifname: there is a device \"{}\" already",
        coming.port
    );
    bridge::announce(&coming.port, &coming.bridge, script)
}

fn fence(config: &Config, vms: Vec<Vm>, keep: &Keep) -> Result<()> {
    vms.iter().for_each(warn_of_skipped);
    fence_vms(config, vms, keep, Told::OfRunning).map(|_| ())
}

/// The numbers of the domain and of its interface in a path like `/local/domain/0/backend/vif/7/0`.
fn numbers(path: &str) -> Result<(u32, u32)> {
    let mut keys = path.rsplit('/');
    let mut number = || keys.next()?.parse().ok();
    let index = number();
    let numbers = number().zip(index);
    numbers.with_context(|| format!("{} is not the path of a port in xenstore", quoted(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_domain_and_its_interface() {
        for (path, index) in [
            ("/local/domain/0/backend/vif/7/0", 0),
            ("backend/vif/7/12", 12),
        ] {
            assert_eq!(numbers(path).unwrap(), (7, index));
        }
        for path in [
            "", "/", "7", "7/", "/vif/7/", "vif/x/0", "vif/7/x", "vif/-1/0",
        ] {
            let error = numbers(path).unwrap_err().to_string();
            assert!(error.contains(&format!("{path:?}")), "{error}");
        }
    }
}
