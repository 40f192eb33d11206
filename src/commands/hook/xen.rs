//! `macfence hook xen`, for Xen's vif scripts, and `macfence hook ebtables-xen`.

use std::slice;

use anyhow::{Context, Result};

use crate::commands::enforce::{Told, fence_vms};
use crate::commands::shared::warn_of_skipped;
use crate::config::Config;
use crate::fence::Keep;
use crate::quote::quoted;
use crate::source::{Hypervisors, Kind};
use crate::vm::{Vm, VmName};

/// Fences a running domain.
pub fn by_name(config: &Config, name: &VmName) -> Result<()> {
    let hypervisors = Hypervisors::ask_only(Kind::Xen, &config.connect)?;
    fence(config, hypervisors.named(slice::from_ref(name))?)
}

/// Fences the domain that has this port. It may have others by now, or get them later: the script comes
/// for each.
pub fn by_path(config: &Config, path: &str) -> Result<()> {
    let domain = domain(path)?;
    // Whoever comes for another port of the domain waits here, and sees more of them than we do.
    let hypervisors = Hypervisors::ask_only(Kind::Xen, &config.connect)?;
    if domain == 0 {
        // The host's own has no port here. This is how install-hook tries the hook.
        hypervisors.running()?;
        return Ok(());
    }
    fence(config, vec![hypervisors.domain(domain)?])
}

fn fence(config: &Config, vms: Vec<Vm>) -> Result<()> {
    vms.iter().for_each(warn_of_skipped);
    fence_vms(config, vms, &Keep::nothing(), Told::OfRunning).map(|_| ())
}

/// The domain's number in a path like `/local/domain/0/backend/vif/7/0`.
fn domain(path: &str) -> Result<u32> {
    let mut keys = path.rsplit('/');
    let mut number = || keys.next()?.parse().ok();
    let number = number().and_then(|_: u32| number());
    number.with_context(|| format!("{} is not the path of a port in xenstore", quoted(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_domain() {
        for path in ["/local/domain/0/backend/vif/7/0", "backend/vif/7/12"] {
            assert_eq!(domain(path).unwrap(), 7);
        }
        for path in [
            "", "/", "7", "7/", "/vif/7/", "vif/x/0", "vif/7/x", "vif/-1/0",
        ] {
            let error = domain(path).unwrap_err().to_string();
            assert!(error.contains(&format!("{path:?}")), "{error}");
        }
    }
}
