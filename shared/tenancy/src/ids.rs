//! Ids: a prefix that tells the kind, then 26 characters that sort by creation time.
//!
//! The 26 characters are lowercase Crockford base32 of 48 bits of Unix milliseconds and 80 random bits, most
//! significant first (the layout of a ULID, <https://github.com/ulid/spec>).

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BODY_CHARS: usize = 26;

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id")]
pub struct IdError;

/// Bytes from the operating system's generator.
///
/// # Panics
/// When the operating system has no randomness to give; nothing sensible can go on then.
pub fn make_random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}

fn make_body() -> String {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    encode(millis, make_random_bytes())
}

fn millis(at_ms: i64) -> u64 {
    u64::try_from(at_ms).unwrap_or(0).min(0xffff_ffff_ffff)
}

fn encode(millis: u64, random: [u8; 10]) -> String {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&random);
    let value = u128::from_be_bytes(bytes);
    (0..BODY_CHARS).map(|index| char::from(ALPHABET[(value >> (5 * (BODY_CHARS - 1 - index))) as usize & 31])).collect()
}

fn decode(body: &str) -> u128 {
    let digit = |letter: u8| ALPHABET.iter().position(|known| *known == letter).unwrap_or(0) as u128;
    body.bytes().fold(0, |value, letter| value * 32 + digit(letter))
}

fn is_body(text: &str) -> bool {
    // The first character carries only three bits: 130 bits of text hold 128 bits of id.
    text.len() == BODY_CHARS
        && text.bytes().all(|byte| ALPHABET.contains(&byte))
        && text.bytes().next().is_some_and(|first| first < b'8')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;
            /// Characters of every id of this kind.
            pub const LEN: usize = $prefix.len() + BODY_CHARS;

            /// A new, random id that sorts after all made in earlier milliseconds.
            pub fn make() -> Self {
                Self(format!("{}{}", $prefix, make_body()))
            }

            /// A new, random id that sorts by that moment, Unix milliseconds.
            pub fn make_at(at_ms: i64) -> Self {
                Self(format!("{}{}", $prefix, encode(millis(at_ms), make_random_bytes())))
            }

            /// The lowest id of that moment, Unix milliseconds: where a range of times begins or ends.
            pub fn first_at(at_ms: i64) -> Self {
                Self(format!("{}{}", $prefix, encode(millis(at_ms), [0; 10])))
            }

            /// The moment it sorts by, Unix milliseconds: when it was made, by the clock of whoever made it.
            pub fn at_ms(&self) -> i64 {
                i64::try_from(self.value() >> 80).unwrap_or(i64::MAX)
            }

            /// The id that sorts directly after this one.
            #[must_use]
            pub fn successor(&self) -> Self {
                let value = self.value().saturating_add(1);
                let [_, _, _, _, _, _, random @ ..] = value.to_be_bytes();
                Self(format!("{}{}", $prefix, encode((value >> 80) as u64, random)))
            }

            fn value(&self) -> u128 {
                decode(self.0.strip_prefix($prefix).unwrap_or_default())
            }

            /// The id in a text.
            ///
            /// # Errors
            /// [`IdError`] for anything that [`Self::make`] could not have made.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                match text.strip_prefix($prefix) {
                    Some(body) if is_body(body) => Ok(Self(text.to_owned())),
                    _ => Err(IdError),
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// An entry of the audit trail.
    AuditId, "aud_");
id!(
    /// A platform: a company that runs agents for its end users.
    PlatformId, "plt_");
id!(
    /// An API key's public name; never the key itself.
    KeyId, "key_");
id!(
    /// A session: one end user of a platform.
    SessionId, "ses_");
id!(
    /// An agent.
    AgentId, "agt_");
id!(
    /// A file-system snapshot of an agent.
    SnapshotId, "snap_");
id!(
    /// A checkpoint of an agent.
    CheckpointId, "ckpt_");
id!(
    /// A log entry.
    LogId, "log_");
id!(
    /// A request, as in `x-request-id`.
    RequestId, "req_");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_creation_time() {
        let early = encode(1_000, [0xff; 10]);
        let late = encode(1_001, [0; 10]);
        assert!(early < late);
        assert_eq!(encode(0, [0; 10]), "0".repeat(26));
        assert_eq!(encode(0xffff_ffff_ffff, [0xff; 10]), format!("7{}", "z".repeat(25)));
    }

    #[test]
    fn an_id_tells_its_moment_and_has_a_successor_that_sorts_directly_after_it() {
        let id = LogId::make_at(1_790_000_000_123);
        assert_eq!(id.at_ms(), 1_790_000_000_123);
        let next = id.successor();
        assert!(next > id && LogId::parse(next.as_str()) == Ok(next.clone()));
        assert_eq!(decode(&next.as_str()[4..]), decode(&id.as_str()[4..]) + 1);
        let last_of_ms = LogId(format!("log_{}", encode(5, [0xff; 10])));
        assert_eq!(last_of_ms.successor(), LogId::first_at(6));
        let last = LogId(format!("log_7{}", "z".repeat(25)));
        assert_eq!(last.successor(), last);
    }

    #[test]
    fn a_made_id_parses_and_two_differ() {
        let id = SessionId::make();
        assert_eq!(id.as_str().len(), SessionId::LEN);
        assert_eq!(SessionId::parse(id.as_str()), Ok(id.clone()));
        assert_ne!(SessionId::make(), id);
    }

    #[test]
    fn anything_that_was_not_made_here_is_refused() {
        let good = "0123456789abcdefghjkmnpqrs";
        assert!(AgentId::parse(&format!("agt_{good}")).is_ok());
        for bad in [
            "",
            "agt_",
            "agt_0123",
            &format!("ses_{good}"),
            &format!("agt_{}", good.to_uppercase()),
            &format!("agt_8{}", &good[1..]),
            &format!("agt_{}u", &good[..25]),
            &format!("agt_{good}0"),
            &format!(" agt_{good}"),
            &format!("agt_{}\u{fc}", &good[..24]),
        ] {
            assert_eq!(AgentId::parse(bad), Err(IdError), "{bad}");
        }
    }
}
