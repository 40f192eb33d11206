//! The licences of everything that is linked into the program, as `share/packages/copyright` names them.
//! `INSTA_UPDATE=always` writes that file anew, from `Cargo.lock` and the crates' own files. No network is
//! asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

use crate::lab::source;
use crate::pages::is_or_becomes;

/// The platform of the packages.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The licences that we take, the first one where a crate leaves a choice. Debian has the text of Apache-2.0;
/// the others follow below.
const TAKEN: [&str; 4] = ["Apache-2.0", "MIT", "Zlib", "Unicode-3.0"];

/// What no crate says.
const HEAD: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: macfence

Files: *
Copyright: 2026 the authors of macfence
License: Apache-2.0
 On Debian the text is in /usr/share/common-licenses/Apache-2.0. Elsewhere it is in the
 file LICENSE beside this one.

Files: rust/library/*
Copyright: The Rust Project Developers (see https://thanks.rust-lang.org)
License: Apache-2.0
Comment: Rust's standard library is linked statically into the program macfence.
 It may also be used under the MIT licence.

Files: rust/library/core/src/unicode/unicode_data.rs
Copyright: 1991-2024 Unicode, Inc.
License: Unicode-3.0
Comment: A part of Rust's standard library.

Files: glibc/*
Copyright: The Free Software Foundation and other contributors
License: LGPL-2.1+
 On Debian the text is in /usr/share/common-licenses/LGPL-2.1. Elsewhere it is in the
 file LGPL-2.1 beside this one.
Comment: The GNU C library is linked statically into the program macfence. To link it
 with another version of the library, build macfence anew: its sources and its Makefile
 are free. The Debian package libc6 lists all of the library's authors and licences.

Files: gcc/libgcc/*
Copyright: The Free Software Foundation, Inc.
License: GPL-3+ with GCC-exception-3.1
 On Debian the text of the GPL is in /usr/share/common-licenses/GPL-3. The GCC Runtime
 Library Exception allows to distribute a program that is compiled with GCC, and so linked
 with this library, under terms of one's own choice.
Comment: A few functions for unwinding the stack are linked into the program macfence.
";

/// A crate that is linked into the program.
struct Crate {
    name: String,
    version: String,
    /// Who wrote it, as its manifest says.
    authors: Vec<String>,
    /// The licences that we take.
    licenses: Vec<String>,
    folder: PathBuf,
}

fn cargo(args: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(args).args(["--locked", "--offline"]);
    let output = cargo.current_dir(source("")).output().expect("cargo");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// What cargo knows of every crate.
fn metadata() -> Value {
    let told = cargo(&[
        "metadata",
        "--format-version=1",
        "--filter-platform",
        PLATFORM,
    ]);
    serde_json::from_str(&told).expect("JSON")
}

/// The licences that we take of those that an expression offers.
fn taken(expression: &str) -> Vec<String> {
    let parsed = Expression::parse_mode(expression, ParseMode::LAX).expect(expression);
    let ours = TAKEN.map(|name| Licensee::parse(name).expect(name));
    let needed = parsed.minimized_requirements(&ours).expect(expression);
    needed.iter().map(ToString::to_string).collect()
}

/// Every linked crate but ours. Macros run in the compiler, and are not linked.
fn linked() -> Vec<Crate> {
    let edges = ["tree", "-e", "normal,no-proc-macro", "--target", PLATFORM];
    let tree = cargo(&[&edges[..], &["--prefix", "none", "-f", "{p}"]].concat());
    let names: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .filter(|(name, _)| *name != env!("CARGO_PKG_NAME"))
        .collect();
    let metadata = metadata();
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let known: BTreeMap<_, _> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| ((text(&package["name"]), text(&package["version"])), package))
        .collect();
    let describe = |(name, version): (&str, &str)| {
        let (name, version) = (name.to_owned(), version.to_owned());
        let package = known[&(name.clone(), version.clone())];
        let authors = package["authors"].as_array().expect("authors").iter();
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        Crate {
            name,
            version,
            authors: authors.map(text).collect(),
            licenses: taken(&text(&package["license"])),
            folder: manifest.parent().expect("a folder").to_owned(),
        }
    };
    names.into_iter().map(describe).collect()
}

/// The files of a crate that tell its licences.
fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = folder.read_dir().expect("a folder");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.to_uppercase();
            path.is_file()
                && ["LICEN", "COPY", "NOTICE"]
                    .iter()
                    .any(|start| name.starts_with(start))
        })
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        (name.into_owned(), fs::read_to_string(&path).expect("text"))
    };
    files.into_iter().map(read).collect()
}

/// Who holds the copyright: what the licence files say, or else who wrote it.
fn holders(of: &Crate) -> Vec<String> {
    let files = files(&of.folder);
    let mut holders = Vec::new();
    for line in files.iter().flat_map(|(_, text)| text.lines()) {
        let line = line.trim();
        let rest = line.strip_prefix("Copyright ").unwrap_or_default();
        let rest = rest.trim_start_matches("(c) ").trim_start_matches("(C) ");
        let rest = rest.trim_start_matches("© ");
        // Not the words of a licence, nor a form that nobody has filled in.
        let is_notice = line.starts_with("Copyright (c) ")
            || rest.starts_with("The ")
            || rest.starts_with(|c: char| c.is_ascii_digit());
        if is_notice && !holders.iter().any(|known| known == rest) {
            holders.push(rest.to_owned());
        }
    }
    if holders.is_empty() {
        holders = of.authors.clone();
    }
    if holders.is_empty() {
        holders.push(format!("The authors of {}", of.name));
    }
    holders
}

/// A text with blanks instead of line ends, so that lines of other lengths are the same.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The terms of Unicode's data, which a crate has that runs in the compiler.
fn unicode() -> String {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|package| package["name"] == "unicode-ident");
    let manifest = package.expect("unicode-ident")["manifest_path"].as_str();
    let folder = Path::new(manifest.expect("a path"))
        .parent()
        .expect("a folder");
    let path = folder.join("LICENSE-UNICODE");
    let text = fs::read_to_string(path).expect("LICENSE-UNICODE");
    let (_, terms) = text.split_once("Unicode, Inc.\n\n").expect("a notice");
    terms.to_owned()
}

/// What stands in a crate's file between its copyright and the end.
fn terms(of: &Crate, first: &str) -> String {
    let files = files(&of.folder);
    let text = files.iter().find_map(|(_, text)| text.split_once(first));
    let (_, rest) = text.unwrap_or_else(|| panic!("{}: no file says {first:?}", of.name));
    format!("{first}{rest}")
}

/// A licence's text, as the copyright file wants it: indented, with dots in empty lines.
fn indented(text: &str) -> String {
    let line = |line: &str| match line.trim_end() {
        "" => " .\n".to_owned(),
        line => format!(" {line}\n"),
    };
    text.trim_end().lines().map(line).collect()
}

/// What the terms of these licences start with. Their texts have to be passed on.
const FIRST_WORDS: [(&str, &str); 2] = [
    ("MIT", "Permission is hereby granted, free of charge"),
    ("Zlib", "This software is provided 'as-is'"),
];

/// The terms of the crates under a licence, each with a name. Who has added a clause has terms of his own.
struct Terms(BTreeMap<String, String>);

impl Terms {
    /// The terms that these crates have, by name.
    fn of(crates: &[Crate]) -> Self {
        let mut all = BTreeMap::new();
        for (license, first) in FIRST_WORDS {
            let is_under = |of: &&Crate| of.licenses.iter().any(|name| name == license);
            let terms = crates.iter().filter(is_under).map(|of| terms(of, first));
            // The plain text is the shortest one.
            let plain = terms.min_by_key(|text| words(text).len());
            all.extend(plain.map(|text| (license.to_owned(), text)));
        }
        Self(all)
    }

    /// The name of a crate's terms.
    fn name(&mut self, of: &Crate, license: &str) -> String {
        let Some((_, first)) = FIRST_WORDS.iter().find(|(name, _)| *name == license) else {
            return license.to_owned();
        };
        let own = terms(of, first);
        let same = self.0.iter().find(|(_, text)| words(text) == words(&own));
        let name = same.map_or_else(
            || format!("{license}-{}", of.name),
            |(name, _)| name.clone(),
        );
        self.0.insert(name.clone(), own);
        name
    }
}

fn copyright() -> String {
    let crates = linked();
    let mut terms = Terms::of(&crates);
    let mut text = HEAD.to_owned();
    for of in &crates {
        for (name, _) in files(&of.folder) {
            assert!(!name.starts_with("NOTICE"), "{}: pass on {name}", of.name);
        }
        let licenses = of.licenses.iter();
        let licenses: Vec<_> = licenses.map(|name| terms.name(of, name)).collect();
        text += &format!(
            "\nFiles: vendor/{}-{}/*\nCopyright: {}\nLicense: {}\n",
            of.name,
            of.version,
            holders(of).join("\n           "),
            licenses.join(" and ")
        );
    }
    terms.0.insert("Unicode-3.0".to_owned(), unicode());
    for (name, terms) in terms.0 {
        text += &format!("\nLicense: {name}\n{}", indented(&terms));
    }
    text
}

#[test]
fn the_packages_name_the_licence_of_every_crate_that_is_linked_into_the_program() {
    let path = "share/packages/copyright";
    let shipped = fs::read_to_string(source(path)).expect(path);
    is_or_becomes(path, &shipped, &copyright());
}
