//! libvirt's drivers that run what can be fenced: where each looks for hooks, and which daemon calls them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use super::super::apparmor::{self, Profile};
use crate::process;

/// A driver of libvirt.
#[derive(Debug, PartialEq, Eq)]
pub struct Driver {
    /// The file that it calls as a hook.
    pub file: &'static str,
    /// The directory, all of whose files it calls since 6.5.
    pub directory: &'static str,
    /// Our file there.
    pub in_directory: &'static str,
    /// The daemons that it runs in: its own first, which is the one that runs where both are there.
    daemons: [&'static str; 2],
    /// A domain without NICs of this driver, to try a hook with.
    pub domain: &'static str,
}

/// The driver of virtual machines.
pub const QEMU: Driver = Driver {
    file: "/etc/libvirt/hooks/qemu",
    directory: "/etc/libvirt/hooks/qemu.d",
    in_directory: "/etc/libvirt/hooks/qemu.d/macfence",
    daemons: ["virtqemud", "libvirtd"],
    domain: "<domain type='kvm'><name>macfence-install-hook</name></domain>",
};

/// The driver of containers.
pub const LXC: Driver = Driver {
    file: "/etc/libvirt/hooks/lxc",
    directory: "/etc/libvirt/hooks/lxc.d",
    in_directory: "/etc/libvirt/hooks/lxc.d/macfence",
    daemons: ["virtlxcd", "libvirtd"],
    domain: "<domain type='lxc'><name>macfence-install-hook</name></domain>",
};

/// All of them.
pub const DRIVERS: [&Driver; 2] = [&QEMU, &LXC];

/// The first version that looks into the directory.
pub const WITH_DIRECTORY: (u32, u32) = (6, 5);

/// Where libraries are, except for what Debian has in a directory for each kind of processor.
const LIBRARIES: [&str; 4] = [
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
];

/// The LXC driver, below one of those: the daemon loads it when it starts, and has no LXC without it.
const MODULE: &str = "libvirt/connection-driver/libvirt_driver_lxc.so";

impl Driver {
    /// Whether this host has it. A hook that no driver calls does no harm, so both signs of LXC count: its
    /// module, and its daemon, which may have been built for other directories.
    pub fn is_there(&self) -> bool {
        let mut daemons = self.daemons.iter();
        let has_daemon = daemons.any(|name| process::find(name).is_ok());
        has_daemon && (*self != LXC || process::find("virtlxcd").is_ok() || has_module())
    }

    /// Our file, for this version of libvirt.
    pub fn target(&self, version: &str) -> &'static Path {
        Path::new(if is_older(version, WITH_DIRECTORY) {
            self.file
        } else {
            self.in_directory
        })
    }

    /// The profiles of its daemons that AppArmor enforces.
    ///
    /// # Errors
    /// If AppArmor is on and its profiles cannot be read.
    pub fn profiles(&self) -> Result<Vec<Profile>> {
        apparmor::enforced(&self.daemons)
    }

    /// The daemon that calls its hooks here: the one that runs, or else the one that is there.
    pub fn daemon(&self) -> &'static str {
        let mut all = self.daemons.into_iter();
        all.clone()
            .find(|name| is_running(name))
            .or_else(|| all.rfind(|name| process::find(name).is_ok()))
            .unwrap_or("libvirtd")
    }

    /// Whether that daemon runs.
    pub fn runs(&self) -> bool {
        is_running(self.daemon())
    }
}

fn has_module() -> bool {
    let below = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<PathBuf>>()
    };
    let mut dirs = LIBRARIES.iter().map(PathBuf::from).collect::<Vec<_>>();
    dirs.extend(below("/usr/lib"));
    dirs.iter().any(|dir| dir.join(MODULE).is_file())
}

fn is_running(name: &str) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .any(|comm| comm.trim_end() == name)
}

/// What version of libvirt is installed.
///
/// # Errors
/// If none is, or it does not tell.
pub fn version() -> Result<String> {
    for program in ["libvirtd", "virtqemud", "virtlxcd"] {
        if process::find(program).is_ok() {
            let said = process::run(program, &["--version"], "")?.checked()?;
            return parse_version(&said);
        }
    }
    bail!("libvirt is not installed here: there is neither libvirtd nor virtqemud nor virtlxcd");
}

/// Of `libvirtd (libvirt) 9.0.0`.
fn parse_version(said: &str) -> Result<String> {
    let version = said.split_whitespace().last().unwrap_or_default();
    ensure!(
        version.starts_with(|c: char| c.is_ascii_digit()),
        "libvirt does not tell its version: {said:?}"
    );
    Ok(version.to_owned())
}

/// Whether a version is older than this one.
pub fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < than
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::libvirt;

    #[test]
    fn a_version_is_what_the_daemon_says_last() {
        assert_eq!(
            parse_version("/usr/sbin/libvirtd (libvirt) 9.0.0\n").unwrap(),
            "9.0.0"
        );
        assert!(parse_version("no\n").is_err() && parse_version("").is_err());
        assert!(is_older("6.4.0", WITH_DIRECTORY) && is_older("4.5", WITH_DIRECTORY));
        assert!(!is_older("6.5.0", WITH_DIRECTORY) && !is_older("10.0.0", WITH_DIRECTORY));
    }

    #[test]
    fn each_driver_has_a_file_a_directory_and_a_domain_of_its_own() {
        for driver in DRIVERS {
            assert_eq!(driver.directory, format!("{}.d", driver.file));
            assert_eq!(driver.target("6.4.0"), Path::new(driver.file));
            let target = driver.target("6.5.0");
            assert_eq!(target, Path::new(driver.directory).join("macfence"));
            assert_eq!(libvirt::is_container(driver.domain), *driver == LXC);
            let vm = libvirt::domain(driver.domain).unwrap();
            assert_eq!(vm.name.as_str(), super::super::TRIED_AS);
        }
    }
}
