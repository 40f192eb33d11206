//! The commands of a page below `docs/`, taken from its code blocks, so that a test does what the page
//! says.

use super::source;

/// The commands below a heading of a page, block by block: what is in its ```sh and ```console blocks. In
/// a console block only what follows a prompt is a command; the rest is what programs print.
pub fn commands(page: &str, heading: &str) -> Vec<String> {
    let path = source(&format!("docs/{page}"));
    let text = std::fs::read_to_string(&path).expect(page);
    let mut blocks = Vec::new();
    let mut kind = None;
    let mut is_below = false;
    for line in text.lines() {
        match (kind, line.strip_prefix("```")) {
            (None, Some(name)) => {
                kind = Some(name);
                if is_below && matches!(name, "sh" | "console") {
                    blocks.push(String::new());
                }
            }
            (Some(_), Some(_)) => kind = None,
            (Some(kind), None) if is_below => {
                let command = match kind {
                    "sh" => Some(line),
                    "console" => line.strip_prefix("# ").or(line.strip_prefix("$ ")),
                    _ => None,
                };
                if let (Some(command), Some(block)) = (command, blocks.last_mut()) {
                    *block += command;
                    *block += "\n";
                }
            }
            (None, None) if line.starts_with('#') => {
                is_below = line.trim_start_matches('#').trim() == heading;
            }
            _ => {}
        }
    }
    assert!(
        !blocks.is_empty(),
        "{page} has no commands below {heading:?}"
    );
    blocks
}
