//! Checks README and `docs/`: links lead somewhere, sentences are short, and what a page shows of
//! the program is what the program does.

mod contributing;
mod figures;
mod followed;
mod keys;
mod ledger;
mod transcripts;

pub use self::transcripts::is_or_becomes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::source;

/// The longest allowed sentence, in words.
const LONGEST: usize = 30;

/// Reads a page.
pub fn page(name: &str) -> String {
    fs::read_to_string(source(name)).expect(name)
}

/// Returns every page, by its path.
fn pages() -> BTreeMap<PathBuf, String> {
    let docs = fs::read_dir(source("docs")).expect("docs");
    let files = docs.map(|entry| entry.expect("docs").path());
    let pages = files.filter(|file| file.extension().is_some_and(|end| end == "md"));
    let pages = pages.chain([source("README.md")]);
    let text = |file: PathBuf| (file.clone(), fs::read_to_string(file).expect("a page"));
    pages.map(text).collect()
}

/// Returns a page's lines outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Returns the targets of a page's links and pictures, also those in footnotes.
fn links(text: &str) -> Vec<&str> {
    let lines = prose(text).flat_map(|line| line.split("](").skip(1));
    lines
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        .collect()
}

/// Returns the anchors that GitHub makes of a page's headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_to_something() {
    let pages = pages();
    for (page, text) in &pages {
        for link in links(text) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                _ => page.parent().unwrap_or(Path::new("/")).join(file),
            };
            let target = target.canonicalize();
            let target = target.unwrap_or_else(|e| panic!("{}: {link}: {e}", page.display()));
            if !anchor.is_empty() {
                let anchors = anchors(&pages[&target]);
                let is_there = anchors.iter().any(|heading| heading == anchor);
                assert!(is_there, "{}: {link}: {anchors:?}", page.display());
            }
        }
    }
}

#[test]
fn every_footnote_is_used_and_every_reference_has_a_footnote() {
    for (page, text) in pages() {
        let mut made = Vec::new();
        let mut used = Vec::new();
        for (start, _) in text.match_indices("[^") {
            let (name, rest) = text[start + 2..].split_once(']').expect("a footnote");
            let is_made = rest.starts_with(':') && text[..start].ends_with('\n');
            if is_made { &mut made } else { &mut used }.push(name);
        }
        used.sort_unstable();
        used.dedup();
        made.sort_unstable();
        assert_eq!(made, used, "{}", page.display());
    }
}

/// Returns the sentences of a page: of each paragraph, list item and table cell.
fn sentences(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in prose(text) {
        let begins_anew = line.trim_start().starts_with(['-', '*', '|', '#', '['])
            || line.starts_with(|c: char| c.is_ascii_digit())
            || line.is_empty();
        if begins_anew {
            blocks.extend(line.split('|').map(str::to_owned));
        } else if let Some(block) = blocks.last_mut() {
            *block += " ";
            *block += line;
        }
    }
    let blocks = blocks.iter();
    let ends = |c: char| matches!(c, '.' | '?' | '!' | ':');
    let mut sentences = Vec::new();
    for block in blocks {
        let mut sentence = String::new();
        for word in block.split_whitespace() {
            sentence += word;
            sentence += " ";
            if word.trim_end_matches(['*', ')', '"', '`']).ends_with(ends) {
                sentences.push(std::mem::take(&mut sentence));
            }
        }
        sentences.push(sentence);
    }
    sentences
}

#[test]
fn no_sentence_is_longer_than_thirty_words() {
    let mut long = Vec::new();
    for (path, text) in pages() {
        let name = path.file_name().unwrap().to_string_lossy();
        let is_word = |word: &&str| word.contains(char::is_alphanumeric);
        let words = |sentence: &str| sentence.split_whitespace().filter(is_word).count();
        let found = sentences(&text).into_iter();
        let found = found.filter(|sentence| words(sentence) > LONGEST);
        long.extend(
            found.map(|sentence| format!("{name}: {} words: {sentence}", words(&sentence))),
        );
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}
