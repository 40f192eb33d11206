//! What we write into a file of the operator's, between two lines that mark it. Nothing else there is ours.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The marks of what was written for this caller.
#[derive(Clone, Copy, Debug)]
pub struct Marks(pub &'static str);

const BEGIN: &str = "# macfence: begin.";
const END: &str = "# macfence: end";

impl Marks {
    fn begin(self) -> String {
        let Self(caller) = self;
        format!("{BEGIN} \"macfence install-hook {caller} --remove\" takes this away.")
    }

    /// The same first line in a file that was not there before.
    fn begin_new(self) -> String {
        let Self(caller) = self;
        format!("{BEGIN} \"macfence install-hook {caller} --remove\" takes this file away.")
    }

    /// Whether there is something of ours in this text.
    pub fn are_in(self, text: &str) -> bool {
        text.contains(&self.begin()) || text.contains(&self.begin_new())
    }

    /// The text of a file with our line at its end. `None`: there is no such file.
    ///
    /// # Errors
    /// Like [`Self::without`].
    pub fn with(self, file: &Path, before: Option<&str>, line: &str) -> Result<String> {
        let kept = before
            .map(|before| self.without(file, before))
            .transpose()?;
        let (begin, kept) = match kept.flatten() {
            Some(kept) => (self.begin(), kept),
            None => (self.begin_new(), String::new()),
        };
        let end = if kept.is_empty() || kept.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        Ok(format!("{kept}{end}{begin}\n{line}\n{END}\n"))
    }

    /// The text of a file without what we wrote there: a mark, one line and a mark. `None`: the file is there
    /// for them only.
    ///
    /// # Errors
    /// If the three do not follow each other. It is then unknown which lines are the operator's.
    pub fn without(self, file: &Path, text: &str) -> Result<Option<String>> {
        let (begin, begin_new) = (self.begin(), self.begin_new());
        let mut kept = String::new();
        let mut is_new = false;
        let mut lines = text.split_inclusive('\n');
        while let Some(line) = lines.next() {
            let word = line.trim_end();
            if word != begin && word != begin_new {
                kept += line;
                continue;
            }
            is_new |= word == begin_new;
            let is_mark = |line: &str| line.trim_end() == END || line.starts_with(BEGIN);
            let has_line = lines.next().is_some_and(|line| !is_mark(line));
            let has_end = lines.next().is_some_and(|line| line.trim_end() == END);
            ensure!(
                has_line && has_end,
                "the marks in {} are damaged: remove the lines by hand",
                file.display()
            );
        }
        Ok((!is_new || !kept.is_empty()).then_some(kept))
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

    fn with(before: Option<&str>, line: &str) -> String {
        MARKS.with(Path::new("x.conf"), before, line).unwrap()
    }

    fn without(text: &str) -> Option<String> {
        MARKS.without(Path::new("x.conf"), text).unwrap()
    }

    #[test]
    fn what_is_added_to_a_file_can_be_taken_out_again() {
        for before in [
            "",
            "# Site-specific additions\n",
            "/opt/x Ux,\n\n/opt/y Ux,\n",
        ] {
            let added = with(Some(before), RULE);
            assert!(added.starts_with(before) && added.contains(RULE), "{added}");
            assert_eq!(without(&added).as_deref(), Some(before));
            // Again, for another program.
            let again = with(Some(&added), "/opt/macfence PUx,");
            assert!(!again.contains(RULE) && again.contains("/opt/macfence PUx,"));
            assert_eq!(without(&again).as_deref(), Some(before));
        }
    }

    #[test]
    fn a_file_that_was_made_for_the_addition_goes_with_it_unless_others_wrote_into_it() {
        let added = with(None, RULE);
        assert_eq!(without(&added), None);
        assert_eq!(with(Some(&added), RULE), added);
        let others = format!("{added}/opt/x Ux,\n");
        assert_eq!(without(&others).as_deref(), Some("/opt/x Ux,\n"));
    }

    #[test]
    fn where_marks_are_damaged_no_line_is_taken_away() {
        let added = with(Some("a\n"), RULE);
        let (begin, rest) = added.split_at(added.find(RULE).unwrap());
        for text in [
            format!("{begin}{RULE}\nb\n"),
            format!("{begin}{RULE}\nb\n{END}\n"),
            format!("{begin}{END}\nb\n"),
            format!("{begin}{RULE}"),
            begin.to_owned(),
            format!("{begin}{begin}{rest}"),
        ] {
            let file = Path::new("x.conf");
            let errors = [
                MARKS.without(file, &text).unwrap_err(),
                MARKS.with(file, Some(&text), RULE).unwrap_err(),
            ];
            for error in errors {
                let words = "the marks in x.conf are damaged: remove the lines by hand";
                assert_eq!(error.to_string(), words, "{text}");
            }
        }
    }
}
