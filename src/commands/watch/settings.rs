//! The settings of `watch`, and whether their file has changed since it was read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cli::Global;
use crate::config::{Config, DEFAULT_FILE};

/// How long after a change to look at the file again: whoever writes it may not have finished.
pub const WRITING: Duration = Duration::from_secs(1);

/// What tells one state of a file from another: device, inode, size, and the time of the last change in
/// seconds and nanoseconds. `None`: it is not there, or nobody can say.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The settings, and where they come from.
pub struct Settings {
    /// What counts now.
    pub config: Config,
    flags: Global,
    /// The file when it was read last.
    read: Stamp,
    /// Since when the file is missing or empty.
    bare: Option<Instant>,
}

/// The state of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As when it was read.
    Same,
    /// It must be read again.
    Changed,
    /// It is missing or empty, perhaps only until an editor has written the new one. Look again soon.
    Unfinished,
}

impl Settings {
    /// Merges these flags and the file that they name.
    ///
    /// # Errors
    /// If the file cannot be read, or has a mistake.
    pub fn new(flags: Global) -> Result<Self> {
        // Before reading: a change while we read is then noticed later.
        let read = stamp(file(&flags));
        Ok(Self {
            config: Config::new(flags.clone())?,
            flags,
            read,
            bare: None,
        })
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// If it cannot be read, or has a mistake. The old settings then stay.
    pub fn read_again(&mut self) -> Result<()> {
        self.read = stamp(file(&self.flags));
        self.bare = None;
        self.config = Config::new(self.flags.clone())?;
        Ok(())
    }

    /// Tells whether the file has changed since it was read last.
    pub fn state(&mut self, now: Instant) -> State {
        let stamp = stamp(file(&self.flags));
        if stamp == self.read {
            self.bare = None;
            return State::Same;
        }
        if stamp.is_some_and(|(_, _, size, _, _)| size > 0) {
            return State::Changed;
        }
        // Without a file the defaults count, and VMs would not hear their router meanwhile.
        let since = *self.bare.get_or_insert(now);
        if now.saturating_duration_since(since) < WRITING {
            State::Unfinished
        } else {
            State::Changed
        }
    }
}

fn file(flags: &Global) -> &Path {
    flags.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
}

fn stamp(file: &Path) -> Stamp {
    let data = fs::metadata(file).ok()?;
    let (seconds, nanoseconds) = (data.mtime(), data.mtime_nsec());
    Some((data.dev(), data.ino(), data.size(), seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_or_empty_one_only_if_it_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("macfence.toml");
        let flags = Global {
            config: Some(path.clone()),
            ..Global::default()
        };
        assert!(Settings::new(flags.clone()).is_err());
        fs::write(&path, "prefix-len = 24\n").unwrap();
        let mut settings = Settings::new(flags).unwrap();
        let now = Instant::now();
        assert_eq!(settings.state(now), State::Same);

        // Another file of the same size takes its place, as `sed -i` does it.
        let next = dir.path().join("next");
        fs::write(&next, "prefix-len = 32\n").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(settings.state(now), State::Changed);
        let before = settings.config.clone();
        settings.read_again().unwrap();
        assert_ne!(settings.config, before);
        assert_eq!(settings.state(now), State::Same);

        // A wrong file is read once.
        let before = settings.config.clone();
        fs::write(&path, "prefix-len = 64 # wrong\n").unwrap();
        assert_eq!(settings.state(now), State::Changed);
        assert!(settings.read_again().is_err());
        assert_eq!(settings.config, before);
        assert_eq!(settings.state(now), State::Same);

        // An editor truncates it, or moves it away, and writes it anew.
        for empty in [true, false] {
            if empty {
                fs::write(&path, "").unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            assert_eq!(settings.state(now), State::Unfinished);
            assert_eq!(settings.state(now + WRITING / 2), State::Unfinished);
            assert_eq!(settings.state(now + WRITING), State::Changed);
            fs::write(&path, "prefix-len = 16\n").unwrap();
            assert_eq!(settings.state(now), State::Changed);
            settings.read_again().unwrap();
            assert_eq!(settings.state(now), State::Same);
        }
        fs::remove_file(&path).unwrap();
        assert!(settings.read_again().is_err());
        assert_eq!(settings.state(now), State::Same);
    }
}
