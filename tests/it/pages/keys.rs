//! The keys of the configuration file are the same in the code, in the manual page and in
//! `docs/configuration.md`.

use std::collections::{BTreeMap, BTreeSet};

use macfence::config::File;

use super::{page, pages};
use crate::lab::pages::{Block, blocks};

/// Returns the keys that the code accepts at the top of the file and in each kind of section. The
/// error about an unknown key lists them.
fn known() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut known = BTreeMap::<_, BTreeSet<_>>::new();
    for (place, before) in [
        ("top", ""),
        ("network", "[[network]]\nbridge = 'b'\n"),
        ("nic", "[[nic]]\nmac = '02:00:00:00:00:01'\n"),
    ] {
        let error = File::parse(&format!("{before}no-such-key = 1\n")).unwrap_err();
        let error = error.to_string();
        let (_, keys) = error.split_once("the keys are ").expect("the keys");
        for key in keys.split(", ") {
            let key = key.trim_matches('`').to_owned();
            known.entry(key).or_default().insert(place);
        }
    }
    known
}

/// Returns the cells of the table of all keys.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines = page.lines().filter(|line| line.starts_with("| [`"));
    let cells = lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect());
    cells.collect()
}

#[test]
fn the_page_has_every_key_and_says_where_it_is_known() {
    let page = page("docs/configuration.md");
    let mut said = BTreeMap::new();
    for cells in rows(&page) {
        let key = cells[0].split('`').nth(1).unwrap();
        said.insert(key.to_owned(), cells[3].split(", ").collect());
    }
    assert_eq!(said, known());
}

#[test]
fn the_page_has_the_defaults_of_the_shipped_file() {
    // Other tests compare the shipped file with the code.
    let shipped = page("share/macfence.toml");
    let shipped = shipped.lines().filter_map(|line| line.strip_prefix('#'));
    let shipped: BTreeMap<_, _> = shipped.filter_map(|line| line.split_once(" = ")).collect();
    let page = page("docs/configuration.md");
    for cells in rows(&page) {
        let (key, default) = (cells[0].split('`').nth(1).unwrap(), cells[2]);
        if cells[3].contains("top") {
            let default = match default {
                "none" | "all bridges" => "[]",
                value => value.trim_matches('`'),
            };
            assert_eq!(shipped[key], default, "{key}");
        }
    }
}

#[test]
fn the_manual_page_has_every_key_and_no_other() {
    let page = page("share/man/macfence.toml.5").replace("\\-", "-");
    let headings = page.lines().filter(|line| line.starts_with("\\fB"));
    let keys = headings.flat_map(|line| line.split("\\fB").skip(1));
    let said: BTreeSet<_> = keys
        .filter_map(|key| Some(key.split_once("\\fR")?.0))
        .collect();
    let known = known();
    // The keys extra-macs and extra-ips of `[[nic]]` have headings, too.
    assert_eq!(said, known.keys().map(String::as_str).collect());
}

#[test]
fn every_example_is_a_configuration() {
    for path in pages().keys() {
        let name = path.file_name().unwrap().to_str().unwrap();
        for Block { text, .. } in blocks(name).iter().filter(|block| block.language == "toml") {
            File::parse(text).unwrap_or_else(|e| panic!("{name}: {e:#}\n{text}"));
        }
    }
}
