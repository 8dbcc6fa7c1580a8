//! Texts that operators choose, and their rules.

/// Longest name, bytes of UTF-8.
const MAX_NAME_BYTES: usize = 128;

/// A name for people: of a platform, of a key.
pub(crate) fn name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err("must have 1 to 128 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("must not have control characters");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_128_bytes_and_no_control_characters() {
        for good in ["a", "Acme & S\u{f6}hne", " ", &"x".repeat(128), &"\u{fc}".repeat(64)] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["", "a\nb", "\u{1b}[31mred", "\u{7f}", "\u{85}", &"x".repeat(129), &"\u{fc}".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
