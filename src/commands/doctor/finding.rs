//! The findings of doctor, and how they are printed. Pure.

use anstyle::AnsiColor;
use anyhow::Error;
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// This host does not have it, and need not.
    Absent,
    /// Worth setting right.
    Warn,
    /// VMs are open, or will be.
    Fail,
    /// It could not be looked at.
    Unknown,
}

/// What was found about one topic: a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about, in a word or two.
    pub topic: &'static str,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Finding {
    fn new(level: Level, topic: &'static str, text: impl Into<String>) -> Self {
        Self {
            level,
            topic,
            text: text.into(),
            fix: None,
        }
    }

    /// Something that is as it should be.
    pub fn ok(topic: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, topic, text)
    }

    /// Something that this host does not have, and need not.
    pub fn absent(topic: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Absent, topic, text)
    }

    /// Something worth setting right.
    pub fn warn(topic: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Warn, topic, text)
    }

    /// Something for which VMs are open, or will be.
    pub fn fail(topic: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Fail, topic, text)
    }

    /// Something that could not be looked at.
    pub fn unknown(topic: &'static str, why: &Error) -> Self {
        Self::new(Level::Unknown, topic, format!("{why:#}"))
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Absent => "-",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Unknown => "?",
        }
    }

    fn colour(self) -> Option<AnsiColor> {
        match self {
            Self::Ok => Some(AnsiColor::Green),
            Self::Absent => None,
            Self::Warn | Self::Unknown => Some(AnsiColor::Yellow),
            Self::Fail => Some(AnsiColor::Red),
        }
    }
}

/// One line for each finding, in columns.
pub fn table(findings: &[Finding], in_colour: bool) -> String {
    const WORD: usize = 4;
    let topics = findings.iter().map(|found| found.topic.len());
    let topic = topics.max().unwrap_or_default();
    let line = |found: &Finding| {
        let word = format!("{:WORD$}", found.level.word());
        let word = match found.level.colour().filter(|_| in_colour) {
            Some(colour) => {
                let style = colour.on_default();
                format!("{style}{word}{style:#}")
            }
            None => word,
        };
        let fix = found.fix.iter().map(|fix| format!("; fix: {fix}"));
        let words = format!("{}{}", found.text, fix.collect::<String>());
        // What others said may have lines, and what a terminal takes for commands.
        let words = words.replace(char::is_control, " ");
        format!("{word}  {:topic$}  {words}\n", found.topic)
    };
    findings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines_in_columns_with_their_fix() {
        let found = [
            Finding::ok("nft", "1.0.6"),
            Finding::fail("libvirt hook", "a\nlink \x1b[2J").fix("run \"cp\""),
        ];
        assert_eq!(
            table(&found, false),
            "ok    nft           1.0.6\nfail  libvirt hook  a link  [2J; fix: run \"cp\"\n"
        );
        let first = table(&found, true);
        assert!(first.starts_with("\x1b[32mok  \x1b[0m  nft"), "{first:?}");
    }

    #[test]
    fn as_json_they_have_these_names() {
        let text = serde_json::to_string(&Finding::warn("nft", "old").fix("newer")).unwrap();
        assert_eq!(
            text,
            r#"{"level":"warn","topic":"nft","text":"old","fix":"newer"}"#
        );
    }
}
