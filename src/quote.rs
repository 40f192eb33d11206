//! Foreign text in messages. Users of VMs write text of any length into templates and domain XML; a
//! message quotes as much of it as it takes to find the place.

/// How much of a text is quoted, in characters. Every port, address and path of a real VM is shorter.
const MOST: usize = 100;

/// A text in double quotes, with its control characters escaped; only its beginning, and `...`, if
/// it is long.
pub fn quoted(text: &str) -> String {
    let (start, dots) = cut(text);
    format!("{start:?}{dots}")
}

/// A text as it is, for what quotes itself; only its beginning, and `...`, if it is long.
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
