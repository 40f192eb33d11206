//! Writes files, and remembers how they were before, so that all can be put back if a later step
//! fails.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use tempfile::NamedTempFile;

/// The changes so far, in order.
#[derive(Debug, Default)]
pub struct Changes {
    done: Vec<(PathBuf, Before)>,
    /// AppArmor profiles to load again after the files were put back.
    profiles: Vec<PathBuf>,
}

/// What a path was before.
#[derive(Debug)]
enum Before {
    Nothing,
    NoDirectory,
    Link(PathBuf),
    File {
        content: Vec<u8>,
        mode: u32,
        owner: (u32, u32),
    },
}

impl Changes {
    /// Creates a directory and its parents.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
        self.done.push((path.to_owned(), Before::NoDirectory));
        // Set the mode whatever the umask is, because other programs read the directory.
        fs::set_permissions(path, Permissions::from_mode(0o755))
            .with_context(|| format!("cannot create {}", path.display()))
    }

    /// Writes a file in one step. An existing file keeps its owner and mode; a link is replaced.
    ///
    /// # Errors
    /// If the file cannot be written. It is then unchanged.
    pub fn write(&mut self, path: &Path, text: &str, mode: u32) -> Result<()> {
        let dir = path.parent().context("it is in no directory")?;
        self.write_through(dir, path, text, mode)
    }

    /// Like [`Self::write`], but prepares the file in `dir`. For a directory whose files are all
    /// executed.
    ///
    /// # Errors
    /// Like [`Self::write`].
    pub fn write_through(&mut self, dir: &Path, path: &Path, text: &str, mode: u32) -> Result<()> {
        let before = Before::at(path)?;
        replace(dir, path, text.as_bytes(), &before, mode)?;
        self.done.push((path.to_owned(), before));
        Ok(())
    }

    /// Deletes a file.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn delete(&mut self, path: &Path) -> Result<()> {
        let before = Before::at(path)?;
        fs::remove_file(path).with_context(|| format!("cannot delete {}", path.display()))?;
        self.done.push((path.to_owned(), before));
        Ok(())
    }

    /// Notes that a profile was or will be loaded with a changed file, so that undoing loads it
    /// again.
    pub fn before_undone(&mut self, profile: PathBuf) {
        if !self.profiles.contains(&profile) {
            self.profiles.push(profile);
        }
    }

    /// Puts everything back because of this error. Returns the error, and adds what could not be
    /// put back.
    pub fn undo(self, error: Error) -> Error {
        let mut trouble = Vec::new();
        for (path, before) in self.done.into_iter().rev() {
            if let Err(e) = before.restore(&path) {
                trouble.push(format!("{e:#}"));
            }
        }
        for profile in &self.profiles {
            if let Err(e) = super::apparmor::load(profile) {
                trouble.push(format!("{e:#}"));
            }
        }
        if trouble.is_empty() {
            error.context("nothing was changed")
        } else {
            anyhow!(
                "{error:#}; and not all could be put back: {}",
                trouble.join("; ")
            )
        }
    }
}

impl Before {
    fn at(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let metadata = match path.symlink_metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::Nothing),
            found => found.with_context(cannot)?,
        };
        if metadata.is_symlink() {
            return Ok(Self::Link(fs::read_link(path).with_context(cannot)?));
        }
        Ok(Self::File {
            content: fs::read(path).with_context(cannot)?,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
        })
    }

    fn restore(self, path: &Path) -> Result<()> {
        match &self {
            Self::File { content, mode, .. } => {
                let dir = path.parent().context("it is in no directory")?;
                replace(dir, path, content, &self, *mode)
            }
            Self::Link(target) => fs::remove_file(path)
                .or_else(absent)
                .and_then(|()| symlink(target, path))
                .with_context(|| format!("cannot put back the link {}", path.display())),
            Self::Nothing => fs::remove_file(path)
                .or_else(absent)
                .with_context(|| format!("cannot delete {}", path.display())),
            // Another program may have put a file there.
            Self::NoDirectory => {
                let _ = fs::remove_dir(path);
                Ok(())
            }
        }
    }
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// Puts a file at a path in one step, with the owner and mode of the existing one.
fn replace(dir: &Path, path: &Path, content: &[u8], before: &Before, mode: u32) -> Result<()> {
    let write = || -> Result<()> {
        // This name keeps other programs from using the unfinished file.
        let mut file = NamedTempFile::with_prefix_in(".macfence-", dir)?;
        file.write_all(content)?;
        let mode = match before {
            Before::File { mode, owner, .. } => {
                chown(file.path(), Some(owner.0), Some(owner.1))?;
                *mode
            }
            _ => mode,
        };
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("old"), "as it was").unwrap();
        fs::set_permissions(at("old"), Permissions::from_mode(0o640)).unwrap();
        symlink("old", at("link")).unwrap();
        fs::write(at("gone"), "gone").unwrap();
        let mut changes = Changes::default();
        changes.directory(&at("a/b")).unwrap();
        changes.write(&at("a/b/new"), "new", 0o755).unwrap();
        changes.write(&at("old"), "new", 0o755).unwrap();
        changes.write(&at("link"), "a file", 0o755).unwrap();
        changes.delete(&at("gone")).unwrap();
        let mode = |name: &str| at(name).symlink_metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode("a/b/new"), mode("old")), (0o755, 0o640));
        assert_eq!(fs::read_to_string(at("old")).unwrap(), "new");
        assert!(!at("link").is_symlink() && !at("gone").exists());

        let error = changes.undo(anyhow!("because"));
        assert_eq!(format!("{error:#}"), "nothing was changed: because");
        assert!(!at("a").exists() && at("link").is_symlink());
        let text = |name: &str| fs::read_to_string(at(name)).unwrap();
        assert_eq!(
            (text("old"), text("gone")),
            ("as it was".to_owned(), "gone".to_owned())
        );
        assert_eq!(mode("old"), 0o640);
    }
}
