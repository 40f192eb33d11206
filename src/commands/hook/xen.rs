//! `macfence hook xen`, for Xen's vif scripts, and `macfence hook ebtables-xen`.

use std::slice;

use anyhow::{Context, Result, ensure};

use crate::bridge;
use crate::cli::VifCommand;
use crate::commands::enforce::{Told, fence_vms};
use crate::commands::shared::warn_of_skipped;
use crate::config::Config;
use crate::fence::Keep;
use crate::quote::quoted;
use crate::source::xen::Coming;
use crate::source::{Hypervisors, Kind};
use crate::vm::{Vm, VmName};

/// Fences a running domain.
pub fn by_name(config: &Config, name: &VmName) -> Result<()> {
    let hypervisors = Hypervisors::ask_only(Kind::Xen, &config.connect)?;
    fence(config, hypervisors.named(slice::from_ref(name))?)
}

/// Fences the domain that has this port. It may have others by now, or get them later: the script comes
/// for each. With `before`, the script is about to put the port on its bridge.
pub fn by_path(config: &Config, path: &str, before: Option<VifCommand>) -> Result<()> {
    let (domain, index) = numbers(path)?;
    // Whoever comes for another port of the domain waits here, and sees more of them than we do.
    let hypervisors = Hypervisors::ask_only(Kind::Xen, &config.connect)?;
    if domain == 0 {
        // The host's own has no port here. This is how install-hook tries the hook.
        hypervisors.running()?;
        return Ok(());
    }
    if let Some(command) = before {
        let ending = match command {
            VifCommand::Online => "",
            VifCommand::Add => "-emu",
        };
        announce(&hypervisors.coming(domain, index, ending)?)?;
    }
    fence(config, vec![hypervisors.domain(domain)?])
}

/// Announces a port that has not come to its bridge yet. It must not be there under its new name: that one
/// is another VM's, or the host's, and its fence would be replaced by this domain's.
fn announce(coming: &Coming) -> Result<()> {
    ensure!(
        coming.port == coming.now || !bridge::is_there(&coming.port),
        "vifname: there is a device \"{}\" already",
        coming.port
    );
    bridge::announce(&coming.port, &coming.bridge)
}

fn fence(config: &Config, vms: Vec<Vm>) -> Result<()> {
    vms.iter().for_each(warn_of_skipped);
    fence_vms(config, vms, &Keep::nothing(), Told::OfRunning).map(|_| ())
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
