//! Each command in README.md and below `docs/` is run by a test. A test takes commands from a page with
//! [`commands`](crate::lab::pages::commands), or plays the transcripts of a whole page with
//! [`played`](crate::explain::played). This test searches the tests for the names of page and heading.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap::error::ErrorKind;
use macfence::cli::Cli;

use super::{pages, prose};
use crate::lab::pages::{Block, blocks, prompted};
use crate::lab::source;

/// The languages that a code block may have. `sh` is for commands, `console` for commands with what they
/// print. The others hold no commands.
const LANGUAGES: [&str; 5] = ["sh", "console", "toml", "ini", "text"];

/// Commands that no test takes from their page: page, heading (empty: every one) and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "performance.md",
    "Measure it yourself",
    "it takes six minutes on an idle machine, and builds what is running this test",
)];

/// The text of every test, without white space.
fn tests() -> Vec<String> {
    let mut texts = Vec::new();
    let mut folders = vec![source("tests/it")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("tests/it") {
            let path = entry.expect("tests/it").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !is_this(&path) {
                let text = fs::read_to_string(&path).expect("a test");
                texts.push(compact(&text));
            }
        }
    }
    texts
}

fn is_this(path: &Path) -> bool {
    path.ends_with("pages/ledger.rs")
}

fn compact(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Whether a test runs the commands of this block.
fn is_taken(page: &str, block: &Block, tests: &[String]) -> bool {
    let pair = compact(&format!("{page:?},{:?}", block.heading));
    let whole = format!("played({page:?}");
    // Only root's commands are played.
    let is_roots = !block.text.lines().any(|line| line.starts_with("$ "));
    let is_transcript = block.language == "console" && is_roots;
    let is_played = |text: &String| is_transcript && text.contains(&whole);
    tests
        .iter()
        .any(|text| text.contains(&pair) || is_played(text))
}

#[test]
fn every_command_of_the_pages_is_run_by_a_test() {
    let tests = tests();
    let mut is_needed = [false; EXCEPTIONS.len()];
    let mut left = Vec::new();
    for path in pages().keys() {
        let page = path.file_name().unwrap().to_str().unwrap();
        for block in blocks(page) {
            if block.commands().is_none() || is_taken(page, &block, &tests) {
                continue;
            }
            let excepts = |(of, heading, _): &(&str, &str, &str)| {
                *of == page && (heading.is_empty() || *heading == block.heading)
            };
            match EXCEPTIONS.iter().position(excepts) {
                Some(exception) => is_needed[exception] = true,
                None => left.push(format!("{page}: {}:\n{}", block.heading, block.text)),
            }
        }
    }
    assert!(left.is_empty(), "no test runs:\n{}", left.join("\n"));
    let idle = EXCEPTIONS.iter().zip(is_needed).filter(|(_, is)| !is);
    let idle: Vec<_> = idle.map(|(exception, _)| exception).collect();
    assert!(idle.is_empty(), "no exception is needed for {idle:?}");
}

/// The macfence commands in a page's text: what stands in backticks and begins with its name.
fn mentioned(text: &str) -> Vec<String> {
    let text = prose(text).collect::<Vec<_>>().join(" ");
    let spans = text.split('`').skip(1).step_by(2);
    // What ends with a blank is the beginning of a line in a log.
    let commands = spans.filter(|span| span.starts_with("macfence ") && !span.ends_with(' '));
    commands.map(str::to_owned).collect()
}

#[test]
fn every_macfence_command_of_the_pages_is_one_that_there_is() {
    let mut seen = 0;
    for (path, text) in pages() {
        let page = path.file_name().unwrap().to_str().unwrap();
        let blocks = blocks(page).into_iter();
        let run = blocks
            .filter_map(|block| block.commands())
            .collect::<String>();
        let run = run.lines().filter(|line| line.starts_with("macfence "));
        let run = run.map(|line| (line.to_owned(), false));
        let mentioned = mentioned(&text).into_iter().map(|line| (line, true));
        for (line, is_mentioned) in run.chain(mentioned) {
            // Behind these the shell goes on.
            let (command, _) = line.split_once(['|', '&', '>', '#']).unwrap_or((&line, ""));
            let parsed = Cli::command().try_get_matches_from(command.split_whitespace());
            if let Err(e) = parsed {
                // A mention may leave out what the command acts on.
                let is_short = e.kind() == ErrorKind::MissingRequiredArgument;
                assert!(is_mentioned && is_short, "{page}: {line}: {e}");
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn every_code_block_says_what_it_holds() {
    for path in pages().keys() {
        let page = path.file_name().unwrap().to_str().unwrap();
        for Block {
            heading,
            language,
            text,
        } in blocks(page)
        {
            let shown = format!("{page}: {heading}: ```{language}\n{text}");
            assert!(LANGUAGES.contains(&&*language), "{shown}");
            let has_prompt = text.lines().any(|line| prompted(line).is_some());
            match &*language {
                "console" => assert!(has_prompt, "a transcript without a command: {shown}"),
                "sh" | "text" => assert!(!has_prompt, "a prompt is for transcripts: {shown}"),
                _ => {}
            }
        }
    }
}
