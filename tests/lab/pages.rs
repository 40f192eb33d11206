//! The code blocks of README.md and of the pages below `docs/`, so that a test does what the page says.

use super::source;

/// A code block of a page.
pub struct Block {
    /// The heading above it, without its marks.
    pub heading: String,
    /// What follows the opening marks: `sh` for commands, `console` for commands with what they print.
    pub language: String,
    /// The lines, each with its end.
    pub text: String,
}

impl Block {
    /// The commands, one a line; `None` where the block has none. In a console block only what follows a
    /// prompt is a command; the rest is what programs print.
    pub fn commands(&self) -> Option<String> {
        let command = |line| match &*self.language {
            "sh" => Some(line),
            _ => prompted(line),
        };
        let lines = self.text.lines().filter_map(command);
        matches!(&*self.language, "sh" | "console")
            .then(|| lines.map(|line| format!("{line}\n")).collect())
    }
}

/// The command on a line that begins with a prompt, `# ` for root or `$ ` for another user.
pub fn prompted(line: &str) -> Option<&str> {
    line.strip_prefix("# ").or(line.strip_prefix("$ "))
}

/// The text of README.md or of a page below `docs/`.
pub fn text(page: &str) -> String {
    let path = match page {
        "README.md" => source(page),
        _ => source(&format!("docs/{page}")),
    };
    std::fs::read_to_string(&path).expect(page)
}

/// The code blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let text = text(page);
    let (mut heading, mut blocks, mut is_inside) = ("", Vec::<Block>::new(), false);
    for line in text.lines() {
        match (is_inside, line.strip_prefix("```"), blocks.last_mut()) {
            (false, Some(language), _) => {
                is_inside = true;
                blocks.push(Block {
                    heading: heading.to_owned(),
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
            (true, Some(_), _) => is_inside = false,
            (true, None, Some(block)) => block.text += &format!("{line}\n"),
            (false, None, _) if line.starts_with('#') => {
                heading = line.trim_start_matches('#').trim();
            }
            _ => {}
        }
    }
    blocks
}

/// The commands below a heading of a page, block by block. `tests/it/pages/ledger.rs` looks for this
/// function's two arguments to see which commands are followed.
pub fn commands(page: &str, heading: &str) -> Vec<String> {
    let blocks = blocks(page).into_iter();
    let below = blocks.filter(|block| block.heading == heading);
    let commands: Vec<_> = below.filter_map(|block| block.commands()).collect();
    assert!(
        !commands.is_empty(),
        "{page} has no commands below {heading:?}"
    );
    commands
}
