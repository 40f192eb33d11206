//! What fuzzing has found worth keeping makes no parser panic, and neither does it cut anywhere.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

#[test]
fn no_text_of_the_corpus_makes_a_parser_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in [
        ("domain", targets::domain as fn(&str)),
        ("virsh", targets::virsh),
        ("template", targets::template),
        ("xen", targets::xen),
        ("ebtables", targets::ebtables),
        ("nft", targets::nft),
        ("config", targets::config),
    ] {
        let files: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().collect();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            let text = std::fs::read(file.unwrap().path()).unwrap();
            // Others' text is read as it is, or not at all where it is no UTF-8.
            let Ok(text) = String::from_utf8(text) else {
                continue;
            };
            target(&text);
        }
    }
}
