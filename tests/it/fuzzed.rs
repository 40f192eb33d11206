//! No text that fuzzing has found worth keeping makes a parser panic.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use crate::lab::source;

/// Tries every target with its seeds, and with the texts that fuzzing has kept: those that reach
/// code that no shorter text reaches.
#[test]
fn no_text_of_the_corpus_makes_a_parser_panic() {
    let fuzz = source("tests/fuzz");
    for (name, target) in [
        ("domain", targets::domain as fn(&str)),
        ("virsh", targets::virsh),
        ("template", targets::template),
        ("xen", targets::xen),
        ("ebtables", targets::ebtables),
        ("nft", targets::nft),
        ("memory", targets::memory),
        ("config", targets::config),
    ] {
        for seed in std::fs::read_dir(fuzz.join("corpus").join(name)).unwrap() {
            target(&std::fs::read_to_string(seed.unwrap().path()).unwrap());
        }
        let found = fuzz.join("found").join(format!("{name}.jsonl"));
        let found = std::fs::read_to_string(found).unwrap();
        assert!(found.lines().count() > 100, "{name}");
        for text in found.lines() {
            target(&serde_json::from_str::<String>(text).unwrap());
        }
    }
}
