//! What we write into a file of the operator's, between two lines that mark it. Nothing else there is ours.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

/// The marks of what was written for this caller.
#[derive(Clone, Copy, Debug)]
pub struct Marks(pub &'static str);

const END: &str = "# macfence: end";

impl Marks {
    fn begin(self) -> String {
        let Self(caller) = self;
        format!("# macfence: begin. \"macfence install-hook {caller} --remove\" takes this away.")
    }

    /// The same first line in a file that was not there before.
    fn begin_new(self) -> String {
        let Self(caller) = self;
        format!(
            "# macfence: begin. \"macfence install-hook {caller} --remove\" takes this file away."
        )
    }

    /// Whether there is something of ours in this text.
    pub fn are_in(self, text: &str) -> bool {
        text.contains(&self.begin()) || text.contains(&self.begin_new())
    }

    /// This text with our line at its end. `None`: there is no such file.
    pub fn with(self, before: Option<&str>, line: &str) -> String {
        let kept = before.and_then(|before| self.without(before));
        let (begin, kept) = match kept {
            Some(kept) => (self.begin(), kept),
            None => (self.begin_new(), String::new()),
        };
        let end = if kept.is_empty() || kept.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        format!("{kept}{end}{begin}\n{line}\n{END}\n")
    }

    /// This text without our lines; `None`: the file is there for them only.
    pub fn without(self, text: &str) -> Option<String> {
        let (begin, begin_new) = (self.begin(), self.begin_new());
        let mut kept = String::new();
        let (mut is_ours, mut is_new) = (false, false);
        for line in text.split_inclusive('\n') {
            let word = line.trim_end();
            if word == begin || word == begin_new {
                is_ours = true;
                is_new |= word == begin_new;
            } else if is_ours {
                is_ours = word != END;
            } else {
                kept += line;
            }
        }
        (!is_new || !kept.is_empty()).then_some(kept)
    }
}

/// The text of a file, if it is there.
///
/// # Errors
/// If it cannot be read.
pub fn existing(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks("libvirt");
    const RULE: &str = "/usr/local/sbin/macfence PUx,";

    #[test]
    fn what_is_added_to_a_file_can_be_taken_out_again() {
        for before in [
            "",
            "# Site-specific additions\n",
            "/opt/x Ux,\n\n/opt/y Ux,\n",
        ] {
            let added = MARKS.with(Some(before), RULE);
            assert!(added.starts_with(before) && added.contains(RULE), "{added}");
            assert_eq!(MARKS.without(&added).as_deref(), Some(before));
            // Again, for another program.
            let again = MARKS.with(Some(&added), "/opt/macfence PUx,");
            assert!(!again.contains(RULE) && again.contains("/opt/macfence PUx,"));
            assert_eq!(MARKS.without(&again).as_deref(), Some(before));
        }
    }

    #[test]
    fn a_file_that_was_made_for_the_addition_goes_with_it_unless_others_wrote_into_it() {
        let added = MARKS.with(None, RULE);
        assert_eq!(MARKS.without(&added), None);
        assert_eq!(MARKS.with(Some(&added), RULE), added);
        let others = format!("{added}/opt/x Ux,\n");
        assert_eq!(MARKS.without(&others).as_deref(), Some("/opt/x Ux,\n"));
    }
}
