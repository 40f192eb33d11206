//! docs/CONTRIBUTING.md: the commands cannot run inside of themselves, but what they name is there.

use std::path::Path;
use std::process::Command;

use super::followed::can_be_made;
use crate::lab::pages::text;
use crate::lab::source;

const PAGE: &str = "CONTRIBUTING.md";

/// What stands in back quotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The part below a heading.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, part) = page.split_once(&format!("## {heading}\n")).expect(heading);
    part.split("\n## ").next().expect("a part")
}

/// The text of every file in `src/`, with its path.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![source("src")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("src") {
            let path = entry.expect("src").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).expect("a source");
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

/// Whether some file in `src/` names this as a word of its own.
fn is_in(sources: &[(String, String)], word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    sources
        .iter()
        .any(|(_, text)| text.split(|c| !is_word(c)).any(|found| found == word))
}

#[test]
fn each_target_and_each_filter_of_tests_is_there() {
    let page = text(PAGE);
    let commands: Vec<_> = quoted(&page)
        .into_iter()
        .filter(|text| text.contains("make") || text.contains("cargo "))
        .collect();
    let targets = commands
        .iter()
        .filter(|text| text.split(' ').next() == Some("make"));
    let targets: Vec<_> = targets.collect();
    assert!(targets.len() > 4, "{targets:?}");
    targets.iter().for_each(|target| can_be_made(target));
    let filters: Vec<_> = commands
        .iter()
        .filter_map(|text| text.split_once("cargo test --test it -- "))
        .map(|(_, filter)| filter)
        .collect();
    assert!(!filters.is_empty());
    for filter in filters {
        let mut this = Command::new(std::env::current_exe().expect("this program"));
        let output = this
            .args([filter, "--list"])
            .output()
            .expect("this program");
        let listed = String::from_utf8_lossy(&output.stdout);
        assert!(listed.contains(": test\n"), "{filter}: {listed}");
    }
}

/// Names that a reader is to fill in.
fn is_new(path: &str) -> bool {
    path.contains("NEW")
}

#[test]
fn each_file_and_each_name_of_the_code_in_the_walks_is_there() {
    let page = text(PAGE);
    let sources = sources();
    let mut checked = 0;
    for heading in [
        "Build, test, measure",
        "The map of the code",
        "Add a source of VMs",
        "Add a backend",
        "Add a guard",
    ] {
        for name in quoted(part(&page, heading)) {
            // A file or folder, by its whole path or by its end.
            let is_path = name.contains('/') || name.ends_with(".rs") || name.ends_with(".toml");
            if is_new(name) || name.contains(' ') || name.starts_with("[[") || name.contains("::") {
                if let Some((owner, item)) = name.split_once("::").filter(|_| !name.contains(' ')) {
                    assert!(
                        is_in(&sources, owner) && is_in(&sources, item.trim_end_matches("()")),
                        "{heading}: {name}"
                    );
                }
                continue;
            }
            checked += 1;
            if is_path {
                let path = name.replace("*.service", "macfence.service");
                let is_there = source(&path).exists()
                    || sources
                        .iter()
                        .any(|(file, _)| file.ends_with(&format!("/{path}")))
                    || ["tests/fuzz", "share"]
                        .iter()
                        .any(|folder| Path::new(&source(folder)).join(&path).exists());
                assert!(is_there, "{heading}: {name}");
            } else {
                let word = name.trim_end_matches("()");
                let is_there = is_in(&sources, word)
                    || source(word).exists()
                    || ["make", "cargo"].contains(&word);
                assert!(is_there, "{heading}: {name} is not in src/");
            }
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn the_walk_of_a_guard_names_each_file_that_its_example_is_in() {
    let page = text(PAGE);
    let named = quoted(part(&page, "Add a guard"));
    for (file, text) in sources() {
        let is_test = file.contains("/tests/") || file.ends_with("tests.rs");
        if text.contains("ra_guard") && !is_test {
            let is_named = named.iter().any(|name| file.ends_with(&format!("/{name}")));
            assert!(is_named, "{file}");
        }
    }
}

/// The methods that a trait wants from who implements it: those without a body.
fn wanted(file: &str, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(source(file)).expect(file);
    let (_, rest) = text.split_once(&format!("trait {name} {{\n")).expect(name);
    let (body, _) = rest.split_once("\n}\n").expect("an end");
    let methods = body.split("\n    fn ").skip(1);
    let bare = methods.filter(|method| {
        let end = method.find([';', '{']).expect("an end");
        method[end..].starts_with(';')
    });
    bare.map(|method| method.split('(').next().expect("a name").to_owned())
        .collect()
}

#[test]
fn the_walks_name_each_method_of_the_traits() {
    let page = text(PAGE);
    for (heading, file, name) in [
        ("Add a source of VMs", "src/source/mod.rs", "Hypervisor"),
        ("Add a backend", "src/backend/mod.rs", "Backend"),
        ("Add a backend", "src/backend/mod.rs", "Snapshot"),
    ] {
        let named = quoted(part(&page, heading));
        let wanted = wanted(file, name);
        assert!(wanted.len() > 1, "{wanted:?}");
        for method in wanted {
            assert!(
                named.contains(&&*method),
                "{heading}: {name} wants {method}"
            );
        }
    }
}
