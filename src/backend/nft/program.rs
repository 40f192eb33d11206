//! Runs nft and reads its error messages. Nothing else does.

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
    /// Everything that was asked for.
    Whole,
    /// Everything except elements of maps.
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

/// An answer of nft. Even if nft failed, its output up to then is true.
#[derive(Debug)]
pub struct Answer {
    /// Its standard output.
    pub listing: String,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// Why nft failed.
#[derive(Debug)]
pub struct Failure {
    /// The kind of failure.
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
    /// Somebody changed the ruleset in the meantime.
    Changed,
    /// We lack the rights, as root does in some containers.
    NoRights,
    /// nft speaks no JSON, or the kernel has no tables of the bridge family.
    Incapable,
    /// Anything else.
    Other,
}

/// nft's error messages. The first that matches counts. After `Error: `, nft names the cause of the
/// whole failure, which it found itself or got from the kernel.
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
    // If the ruleset changes while nft lists it, nft lists it again. But nft does not repeat a query
    // for an element.
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
    /// Tells whether nft blames a command that starts like this. nft quotes the command.
    pub fn blames(&self, command: &str) -> bool {
        self.output.says(command)
    }

    /// The failure as an error, in nft's own words.
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

    /// Tells whether nft executed all commands.
    pub fn success(&self) -> bool {
        self.failure.is_none()
    }

    /// Passes the answer on if nft succeeded, or failed with one of these problems.
    ///
    /// # Errors
    /// If it failed with another problem.
    pub fn expecting(self, problems: &[Problem]) -> Result<Self> {
        match &self.failure {
            Some(failure) if !problems.contains(&failure.problem) => Err(failure.error()),
            _ => Ok(self),
        }
    }
}

/// Asks nft a question in its own language. It answers in JSON.
///
/// # Errors
/// If nft cannot be run.
pub fn ask(question: &str, detail: Detail) -> Result<Answer> {
    let output = process::run("nft", detail.options(), question)?;
    // Every answer has at least nft's version. No output must not count as an empty ruleset.
    if output.success() && output.stdout.is_empty() {
        return Err(output.failure());
    }
    Ok(Answer::of(output))
}

/// Loads a transaction, as a whole or not at all.
///
/// # Errors
/// If nft cannot be run. If nft was stopped, nobody knows whether it loaded the transaction.
pub fn load(transaction: &Transaction, detail: Detail) -> Result<Answer> {
    process::run("nft", detail.options(), &transaction.to_json()?).map(Answer::of)
}

/// Loads a plan, if there is one.
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

/// Says why this host cannot use nft at all: it is not installed, speaks no JSON, or the kernel has no
/// tables of the bridge family. `None` if nft works, or if that cannot be found out. A lack of rights
/// or memory does not count: otherwise we would ignore nft's fences that are in force, and make a
/// second set in ebtables.
pub fn incapacity() -> Option<Error> {
    if let Err(missing) = process::find("nft") {
        return Some(missing);
    }
    let failure = probe().ok()?.failure?;
    (failure.problem == Problem::Incapable).then(|| failure.error())
}

/// Tries out whether nft and the kernel can do what we need, independently of existing rules. It adds
/// and lists an unused table in a transaction that is checked and discarded.
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
