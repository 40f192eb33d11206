//! The one place that runs nft and reads its error messages.

use anyhow::{Error, Result};

use super::plan::Plan;
use super::transaction::Transaction;
use crate::backend::Enforced;
use crate::process::{self, Output};

/// nft's options for loading, and for listing with all elements of maps.
const PLAIN: [&str; 3] = ["-j", "-f", "-"];
/// nft's options for listing chains without reading the maps beside them.
const TERSE: [&str; 4] = ["-j", "-t", "-f", "-"];

/// How much nft reads in order to list something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// All that was asked for.
    Whole,
    /// Not the elements of maps.
    Terse,
}

impl Detail {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Whole => &PLAIN,
            Self::Terse => &TERSE,
        }
    }
}

/// What nft answered. What it printed before it failed is true as well.
#[derive(Debug)]
pub struct Answer {
    /// What it printed to its standard output.
    pub listing: String,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// Why nft failed.
#[derive(Debug)]
pub struct Failure {
    /// What kind of failure it is.
    pub problem: Problem,
    output: Output,
}

/// The failures that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// An object does not exist.
    NotThere,
    /// An object exists already as something else.
    Exists,
    /// Somebody changed the ruleset meanwhile.
    Changed,
    /// We lack the rights, as root in a container may.
    NoRights,
    /// nft speaks no JSON, or the kernel has no tables of the bridge family.
    Incapable,
    /// Anything else.
    Other,
}

/// nft's words, the first that matches counts. With `Error: ` in front it has found the problem
/// itself or heard of it from the kernel as the cause of the whole failure.
const WORDS: [(&str, Problem); 8] = [
    ("Operation not permitted", Problem::NoRights),
    ("JSON support not compiled", Problem::Incapable),
    ("not supported", Problem::Incapable),
    ("Invalid argument", Problem::Incapable),
    ("Error: No such file or directory", Problem::NotThere),
    (
        "Error: Could not process rule: No such file or directory",
        Problem::NotThere,
    ),
    // nft lists again by itself what changed while it listed. It does not ask again for an element.
    (
        "Error: Could not process rule: Interrupted system call",
        Problem::Changed,
    ),
    ("File exists", Problem::Exists),
];

impl Problem {
    fn of(output: &Output) -> Self {
        let said = WORDS.iter().find(|(words, _)| output.says(words));
        said.map_or(Self::Other, |(_, problem)| *problem)
    }
}

impl Failure {
    /// Whether nft blames a command that starts like this: it quotes the command.
    pub fn blames(&self, command: &str) -> bool {
        self.output.says(command)
    }

    /// The failure with nft's own words.
    pub fn error(&self) -> Error {
        self.output.failure()
    }
}

impl Answer {
    fn of(output: Output) -> Self {
        let failure = (!output.success()).then(|| Failure {
            problem: Problem::of(&output),
            output: output.clone(),
        });
        Self {
            listing: output.stdout,
            failure,
        }
    }

    /// Whether nft did all that it was told.
    pub fn success(&self) -> bool {
        self.failure.is_none()
    }

    /// Passes the answer on if nft did all that it was told, or failed with one of these problems.
    ///
    /// # Errors
    /// If it failed otherwise.
    pub fn expecting(self, problems: &[Problem]) -> Result<Self> {
        match &self.failure {
            Some(failure) if !problems.contains(&failure.problem) => Err(failure.error()),
            _ => Ok(self),
        }
    }
}

/// Asks nft something in its own language; it answers in JSON.
///
/// # Errors
/// If nft cannot be run.
pub fn ask(question: &str, detail: Detail) -> Result<Answer> {
    let output = process::run("nft", detail.options(), question)?;
    // An answer has nft's version at least. Silence must not count as "nothing is there".
    if output.success() && output.stdout.is_empty() {
        return Err(output.failure());
    }
    Ok(Answer::of(output))
}

/// Loads a transaction, as a whole or not at all.
///
/// # Errors
/// If nft cannot be run. Of an nft that did not end nobody knows what it has done.
pub fn load(transaction: &Transaction, detail: Detail) -> Result<Answer> {
    process::run("nft", detail.options(), &transaction.to_json()?).map(Answer::of)
}

/// Loads a plan, if there is any.
///
/// # Errors
/// If the kernel refuses it; nothing has changed then.
pub fn commit(plan: Option<Plan>) -> Result<Enforced> {
    let Some(plan) = plan else {
        return Ok(Enforced::default());
    };
    if let Some(failure) = load(&plan.changes, Detail::Whole)?.failure {
        return Err(failure.error().context(match failure.problem {
            Problem::Exists => {
                "nothing was changed, as something in table bridge macfence is not macfence's"
            }
            _ => "nothing was changed",
        }));
    }
    if let Some(afterwards) = &plan.afterwards {
        load(afterwards, Detail::Whole)?.expecting(&[])?;
    }
    Ok(plan.into())
}

/// Why nft cannot be used on this host at all: it is not there, speaks no JSON, or the kernel has no
/// tables of the bridge family. `None` if it can be used, or if nobody can say: lacking rights or
/// memory is no incapacity. (Else fences that are in force would be left alone, and doubled.)
pub fn incapacity() -> Option<Error> {
    if let Err(missing) = process::find("nft") {
        return Some(missing);
    }
    let failure = probe().ok()?.failure?;
    (failure.problem == Problem::Incapable).then(|| failure.error())
}

/// Whether nft and the kernel can do what we need, whatever rules are there: adds and lists a table
/// that nobody has, in a transaction that is checked and thrown away.
///
/// # Errors
/// If nft cannot be run.
pub fn probe() -> Result<Answer> {
    const PROBE: &str = r#"{"nftables": [
        {"add": {"table": {"family": "bridge", "name": "macfence-probe"}}},
        {"list": {"table": {"family": "bridge", "name": "macfence-probe"}}}]}"#;
    let options = [&["-c"], &PLAIN[..]].concat();
    process::run("nft", &options, PROBE).map(Answer::of)
}
