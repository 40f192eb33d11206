//! Says in plain words what is wrong with the syntax of the configuration file.

use std::ops::Range;

use super::section::line;
use crate::mac;
use crate::quote::beginning;

/// Says in plain words what is wrong with the syntax, where the parser's words mislead.
pub fn plain(text: &str, span: &Range<usize>, message: &str) -> String {
    if message == "duplicate key" {
        return twice(text, span);
    }
    if let Some(address) = bare_address(text, span.start) {
        return format!("a MAC address is not in quotes: write \"{address}\"");
    }
    let plain = match message {
        "string values must be quoted, expected literal string" => {
            "a value is missing, or a text is not in quotes"
        }
        "invalid literal string, expected `'`" | "invalid basic string, expected `\"`" => {
            "a text has no closing quote"
        }
        "invalid boolean, expected `true`" | "invalid boolean, expected `false`" => {
            "true and false are written in lower case"
        }
        "unexpected leading zero, expected nothing" => "a number must not begin with 0",
        "unclosed array table, expected `]`" => "a section begins with [[ and ends with ]]",
        // No value is a date or a time.
        message if message.starts_with("invalid date") || message.starts_with("invalid time") => {
            "a text is not in quotes"
        }
        message => message,
    };
    plain.to_owned()
}

/// Says where a key or section was before. The span is the second one's.
fn twice(text: &str, span: &Range<usize>) -> String {
    let key = text.get(span.clone()).unwrap_or_default();
    let key = key.trim_matches(['"', '\'']);
    let name = beginning(key).escape_debug().to_string();
    let before = text.get(..span.start).unwrap_or_default();
    let here = line(text, span.start);
    // The nearest one is in the same section.
    let first = before
        .lines()
        .enumerate()
        .take(here - 1)
        .collect::<Vec<_>>();
    let first = first.into_iter().rev().find_map(|(index, line)| {
        let rest = line.trim_start().trim_start_matches(['"', '\'', '[']);
        let rest = rest
            .strip_prefix(key)?
            .trim_start_matches(['"', '\''])
            .trim_start();
        rest.starts_with(['=', ']']).then_some((index + 1, rest))
    });
    let Some((first, rest)) = first else {
        return format!("{name} occurs twice");
    };
    let is_section = before.trim_end_matches([' ', '\t']).ends_with('[') || rest.starts_with(']');
    let advice = if is_section {
        format!("write each such section as [[{name}]]")
    } else if rest.trim_start_matches(['=', ' ', '\t']).starts_with('[') {
        "write both values in one list".to_owned()
    } else {
        "delete one of the two".to_owned()
    };
    format!("{name} is already in line {first}: {advice}")
}

/// The MAC address or prefix without quotes that contains this byte, as it should be written.
fn bare_address(text: &str, start: usize) -> Option<String> {
    let ends = |c: char| c.is_whitespace() || "=,[]\"'#".contains(c);
    let (before, after) = (text.get(..start)?, text.get(start..)?);
    let from = before.rfind(ends).map_or(0, |end| end + 1);
    let to = after.find(ends).map_or(text.len(), |end| start + end);
    let word = text.get(from..to)?;
    let (address, len) = word.split_once('/').unwrap_or((word, ""));
    let address = mac::in_any_form(address)?;
    Some(match len.parse::<u8>() {
        Ok(len) => format!("{address}/{len}"),
        Err(_) => address.to_string(),
    })
}
