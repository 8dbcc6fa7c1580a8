//! The platform's own name for an end user.

use std::fmt;

/// Longest user id, in bytes of UTF-8.
pub const MAX_USER_ID_BYTES: usize = 512;

/// A platform's own name for an end user: any text of 1 to 512 bytes without control characters. It may look like a
/// path or a route; it is never interpreted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId(String);

impl UserId {
    /// The user id in a text, or nothing when it is empty, too long or has a control character.
    pub fn parse(text: &str) -> Option<Self> {
        let good = !text.is_empty() && text.len() <= MAX_USER_ID_BYTES && !text.chars().any(char::is_control);
        good.then(|| Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_that_look_like_paths_are_user_ids() {
        for text in ["secrets", "a/b", "\u{fc}", "..", "%2f", " ", &"x".repeat(512)] {
            let id = UserId::parse(text).unwrap();
            assert_eq!((id.as_str(), id.to_string().as_str()), (text, text));
        }
        for text in ["", "a\0b", "a\nb", "\u{7f}", &"x".repeat(513)] {
            assert!(UserId::parse(text).is_none(), "{text:?}");
        }
    }
}
