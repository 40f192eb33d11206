//! Recognizes MAC addresses that are written in another form, for messages.

use super::MacAddr;

/// Reads an address in a form that other programs print, such as `52-54-00-aa-bb-01`, `5254.00aa.bb01`
/// and `525400aabb01`, so that a message can say how it is written here.
pub fn in_any_form(text: &str) -> Option<MacAddr> {
    let groups: Vec<_> = text.split([':', '-', '.']).collect();
    // How long a group is: only in the usual form may zeros in front be missing.
    let (least, most) = match groups.len() {
        1 => (12, 12),
        3 => (4, 4),
        6 => (1, 2),
        _ => return None,
    };
    let is_right = |group: &&str| {
        (least..=most).contains(&group.len()) && group.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if !groups.iter().all(is_right) {
        return None;
    }
    let groups = groups.iter().map(|group| format!("{group:0>most$}"));
    let digits: String = groups.collect();
    let number = u64::from_str_radix(&digits, 16).ok()?;
    let [_, _, bytes @ ..] = number.to_be_bytes();
    Some(MacAddr(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_another_form_is_recognized_for_the_message() {
        let usual = "52:54:00:aa:bb:01";
        for other in [
            usual,
            "52-54-00-AA-BB-01",
            "5254.00aa.bb01",
            "525400aabb01",
            "52:54:0:aa:bb:1",
        ] {
            assert_eq!(in_any_form(other).unwrap().to_string(), usual, "{other}");
        }
        for none in [
            "",
            "040",
            "1.2.3",
            "52:54:00:aa:bb",
            "52:54:00:aa:bb:",
            "52-54-00-aa-bb-0g",
        ] {
            assert_eq!(in_any_form(none), None, "{none}");
        }
        let error = "5254.00aa.bb01".parse::<MacAddr>().unwrap_err().to_string();
        assert!(
            error.ends_with("is not a MAC address: write it as 52:54:00:aa:bb:01"),
            "{error}"
        );
    }
}
