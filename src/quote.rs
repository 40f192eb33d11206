//! Quotes foreign text in messages. Users of VMs write text of any length into templates and domain
//! XML; a message quotes only enough of it to find the place.

/// How many characters of a text are quoted. Every port, address and path of a real VM is shorter.
const MOST: usize = 100;

/// Returns a text in double quotes, with its control characters escaped. A long text is cut and ends
/// with `...`.
pub fn quoted(text: &str) -> String {
    let (start, dots) = cut(text);
    format!("{start:?}{dots}")
}

/// Returns a text as it is, for callers that quote it themselves. A long text is cut and ends with
/// `...`.
pub fn beginning(text: &str) -> String {
    let (start, dots) = cut(text);
    format!("{start}{dots}")
}

fn cut(text: &str) -> (&str, &'static str) {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => (text.get(..end).unwrap_or_default(), "..."),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters_and_short_text_is_not() {
        assert_eq!(quoted("a\"\n"), r#""a\"\n""#);
        assert_eq!(beginning("a\""), "a\"");
        let hundred = "é".repeat(100);
        assert_eq!(quoted(&hundred), format!("{hundred:?}"));
        let longer = hundred.clone() + "x";
        assert_eq!(quoted(&longer), format!("{hundred:?}..."));
        assert_eq!(beginning(&longer), format!("{hundred}..."));
    }
}
