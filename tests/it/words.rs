//! Messages, help, documentation and comments in shipped files are in plain English.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::lab::source;

/// Phrases that made readers stumble: nouns left out, inverted sentences, rare words.
const STUMBLED_OVER: [&str; 21] = [
    "of no account",
    "no such pair",
    "takes away",
    "take away",
    "taken away",
    "takes all that away",
    "take their fences away",
    "is let ",
    "are let ",
    "is told to",
    "are told to",
    "told to no",
    "for somebody to",
    "by nobody",
    "libvirt is away",
    "none in number",
    "speak of",
    "speaks of",
    "amiss",
    "in vain",
    "goes before",
];

/// Every file below a folder with this ending.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Adds every string and doc comment of these tokens. Tests are left out.
fn texts(tokens: TokenStream, found: &mut Vec<String>) {
    let mut is_test = false;
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let inside = group.stream().to_string();
                if group.delimiter() == Delimiter::Bracket && inside == "cfg (test)" {
                    is_test = true;
                } else if !(is_test && group.delimiter() == Delimiter::Brace) {
                    texts(group.stream(), found);
                } else {
                    is_test = false;
                }
            }
            TokenTree::Literal(literal) => {
                let literal = literal.to_string();
                if literal.ends_with(['"', '#']) {
                    found.push(literal);
                }
            }
            // `#[cfg(test)] mod tests;` has no body.
            TokenTree::Punct(punct) if punct.as_char() == ';' => is_test = false,
            _ => {}
        }
    }
}

/// Every message and doc comment of the program, with its file.
fn messages() -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for path in files(&source("src"), ".rs") {
        if path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut found = Vec::new();
        texts(text.parse().unwrap(), &mut found);
        all.extend(found.into_iter().map(|text| (path.clone(), text)));
    }
    for path in files(&source("src/help"), ".txt") {
        all.push((path.clone(), fs::read_to_string(&path).unwrap()));
    }
    all
}

/// README, the documentation, and the files that are installed.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = files(&source("docs"), ".md");
    paths.push(source("README.md"));
    paths.extend(files(&source("share"), ""));
    // Licences are not ours to word.
    paths.retain(|path| !path.ends_with("LGPL-2.1"));
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

#[test]
fn nothing_that_people_read_has_the_phrases_that_readers_stumbled_over() {
    let messages = messages();
    assert!(messages.len() > 1_000, "{}", messages.len());
    let stumbling: Vec<_> = messages
        .into_iter()
        .chain(pages())
        .filter_map(|(path, text)| {
            let lower = text.to_lowercase();
            let phrase = STUMBLED_OVER
                .iter()
                .find(|phrase| lower.contains(**phrase))?;
            let line = text
                .lines()
                .find(|line| line.to_lowercase().contains(phrase));
            Some(format!(
                "{}: {phrase:?}: {}",
                path.display(),
                line.unwrap_or(&text)
            ))
        })
        .collect();
    assert!(stumbling.is_empty(), "{:#?}", stumbling);
}
