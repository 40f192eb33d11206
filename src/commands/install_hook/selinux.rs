//! Asks SELinux what libvirt may execute. It asks through the kernel's own files, as SELinux's tools do:
//! see `security_compute_av(3)` and `security_compute_create(3)`. Old policies do not confine libvirt.
//! Those of Fedora 41 and EL 10 do, and label libvirt's hooks `virt_hook_t`.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Where the kernel shows SELinux, if it has it.
const KERNEL: &str = "/sys/fs/selinux";

/// Tells whether SELinux refuses what its policy does not allow.
pub fn is_enforced() -> bool {
    fs::read_to_string(Path::new(KERNEL).join("enforce")).is_ok_and(|on| on.trim() == "1")
}

/// Gives a file the label that the policy has for its path.
///
/// # Errors
/// If SELinux is on and this fails.
pub fn label(file: &Path) -> Result<()> {
    if !Path::new(KERNEL).join("enforce").exists() {
        return Ok(());
    }
    let file = file.to_string_lossy();
    process::run("restorecon", &["-F", &file], "")?
        .checked()
        .map(|_| ())
        .with_context(|| format!("cannot give {file} its SELinux label"))
}

/// Makes sure that a daemon may execute a file.
///
/// # Errors
/// If it may not, or if the daemon does not run, because then SELinux cannot be asked.
pub fn check(daemon: &str, file: &Path) -> Result<()> {
    let source = context_of(daemon)?;
    let mut label = [0; 4096];
    let length = rustix::fs::getxattr(file, "security.selinux", &mut label[..])
        .with_context(|| format!("cannot read the SELinux label of {}", file.display()))?;
    let target = text(label.get(..length).unwrap_or_default());
    let may = allowed(&source, &target)?;
    let fix = "run \"setsebool -P virt_hooks_unconfined on\" if that policy has it, or add a rule of your \
               own with audit2allow, and run this again";
    ensure!(
        may & bit("execute")? != 0,
        "SELinux does not let {daemon} ({source}) execute {} ({target}): {fix}",
        file.display()
    );
    // The daemon executes it either under its own domain, or under the one that the policy names for
    // this pair.
    ensure!(
        may & bit("execute_no_trans")? != 0
            || domain_of(&created(&source, &target)?) != domain_of(&source),
        "SELinux has no domain in which {daemon} ({source}) could execute {} ({target}): {fix}",
        file.display()
    );
    Ok(())
}

/// Returns the context of a running daemon.
fn context_of(daemon: &str) -> Result<String> {
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let dir = entry.path();
        let name = fs::read_to_string(dir.join("comm")).unwrap_or_default();
        if name.trim_end() == daemon {
            let context = fs::read(dir.join("attr/current"));
            return Ok(text(
                &context.with_context(|| format!("the SELinux context of {daemon}"))?,
            ));
        }
    }
    bail!("{daemon} does not run, so SELinux cannot be asked what it may execute: start it first")
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches(['\0', '\n']).to_owned()
}

fn domain_of(context: &str) -> Option<&str> {
    context.split(':').nth(2)
}

/// Returns the number of a class.
fn class(name: &str) -> Result<u32> {
    number(&format!("class/{name}/index"))
}

/// Returns the bit of a permission for a file.
fn bit(permission: &str) -> Result<u32> {
    let number = number(&format!("class/file/perms/{permission}"))?;
    1u32.checked_shl(number.wrapping_sub(1)).with_context(|| {
        format!("SELinux gives the permission {permission} the unexpected number {number}")
    })
}

fn number(file: &str) -> Result<u32> {
    let path = Path::new(KERNEL).join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.trim()
        .parse()
        .with_context(|| path.display().to_string())
}

fn allowed(source: &str, target: &str) -> Result<u32> {
    let answer = ask("access", &format!("{source} {target} {}", class("file")?))?;
    parse_allowed(&answer)
}

/// Returns the context that a process gets when it executes such a file.
fn created(source: &str, target: &str) -> Result<String> {
    ask(
        "create",
        &format!("{source} {target} {}", class("process")?),
    )
}

/// Reads the first number of the answer: hexadecimal, with a bit for each permission.
fn parse_allowed(answer: &str) -> Result<u32> {
    let first = answer.split(' ').next().unwrap_or_default();
    u32::from_str_radix(first, 16).with_context(|| format!("SELinux answers {answer:?}"))
}

/// Writes a question and reads the answer through one open file.
fn ask(file: &str, question: &str) -> Result<String> {
    let path = Path::new(KERNEL).join(file);
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::options().read(true).write(true).open(&path)?;
        file.write_all(question.as_bytes())?;
        let mut answer = vec![0; 4096];
        let length = file.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    };
    let answer = ask().with_context(|| format!("cannot ask SELinux by {}", path.display()))?;
    Ok(text(&answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_kernel_writes_them() {
        assert_eq!(
            parse_allowed("ff0 ffffffff 0 ffffffff 12 0").unwrap(),
            0xff0
        );
        assert!(parse_allowed("").is_err());
        let context = text(b"system_u:system_r:virtqemud_t:s0-s0:c0.c1023\0");
        assert_eq!(domain_of(&context), Some("virtqemud_t"));
    }
}
