//! A value to look for, and how it looks in the encodings in which it could get out.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use memchr::memmem::Finder;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeSet;

/// A secret value that cannot occur by accident.
///
/// It begins and ends with characters that differ under every encoding. Its middle, the core, is long, random and
/// the same under escaping, so that a cut or partly escaped value is found too.
pub struct Canary {
    value: String,
    /// Every look of the core: whoever has the whole value has one of these.
    core: Vec<Look>,
    /// Looks of the whole value, and of the core's quarters.
    more: Vec<Look>,
}

struct Look {
    how: &'static str,
    bytes: Vec<u8>,
    finder: Finder<'static>,
}

impl Look {
    fn new(how: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let finder = Finder::new(&bytes).into_owned();
        Self { how, bytes, finder }
    }
}

impl Canary {
    /// Makes one.
    pub fn make() -> Self {
        let core = hex::encode(theazo_tenancy::make_random_bytes::<32>()).to_ascii_uppercase();
        // Letters of both cases beside the digits, so that lower- and uppercasing change it.
        let core: String = core.chars().zip("kzqxwvkzqx".chars().cycle()).flat_map(|(a, b)| [a, b]).collect();
        let value = format!("c\u{e4}n+/ary=?&%\"\\~>>\u{1f980}{core}\u{ff}\u{ff}<<~?>/+\t\n'}}");
        let mut more = looks(&value);
        for quarter in core.as_bytes().chunks(core.len() / 4) {
            more.extend(looks(std::str::from_utf8(quarter).unwrap()));
        }
        Self { core: looks(&core), more, value }
    }

    /// An API key or a token, whose random part is what it begins with after its kind.
    pub fn of_credential(text: &str) -> Self {
        let random = text.get(8..40).expect("a credential is longer");
        let mut more = looks(text);
        for half in random.as_bytes().chunks(random.len() / 2) {
            more.extend(looks(std::str::from_utf8(half).unwrap()));
        }
        Self { core: looks(random), more, value: text.to_owned() }
    }

    /// The value.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// How the value looks in these bytes, if it is in them.
    pub fn find_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let found = self.core.iter().chain(&self.more).find(|look| look.finder.find(bytes).is_some());
        found.map(|look| look.how)
    }

    /// Fails if the value is in these bytes in any encoding. `place` says where that was.
    #[track_caller]
    pub fn is_not_in(&self, place: &str, bytes: impl AsRef<[u8]>) {
        if let Some(how) = self.find_in(bytes.as_ref()) {
            panic!("{place} has the value ({how})");
        }
    }

    /// Searches a stream, also across the borders of its pieces. Gives how the value looks and how much was read.
    pub async fn find_in_stream<E: std::fmt::Debug>(
        &self,
        pieces: impl Stream<Item = Result<Bytes, E>>,
    ) -> (Option<&'static str>, usize) {
        let longest = self.core.iter().map(|look| look.bytes.len()).max().unwrap_or(0);
        let (mut window, mut total) = (Vec::new(), 0);
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            let piece = piece.unwrap();
            total += piece.len();
            window.extend_from_slice(&piece);
            if window.len() < 1024 * 1024 {
                continue;
            }
            if let Some(look) = self.core.iter().find(|look| look.finder.find(&window).is_some()) {
                return (Some(look.how), total);
            }
            window.drain(..window.len() - longest);
        }
        (self.core.iter().find(|look| look.finder.find(&window).is_some()).map(|look| look.how), total)
    }
}

/// A text in every encoding. Around it may be other bytes, so the base64 forms are those of its middle, for each of
/// the three alignments.
fn looks(text: &str) -> Vec<Look> {
    let bytes = text.as_bytes();
    let quoted = serde_json::Value::from(text).to_string();
    let decimals: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let every_byte = |prefix: &str, upper: bool| -> String {
        bytes
            .iter()
            .map(|byte| if upper { format!("{prefix}{byte:02X}") } else { format!("{prefix}{byte:02x}") })
            .collect()
    };
    let mut looks = vec![
        Look::new("raw", bytes),
        Look::new("raw, lowercase", text.to_lowercase()),
        Look::new("hex", hex::encode(bytes)),
        Look::new("HEX", hex::encode_upper(bytes)),
        Look::new("percent", utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()),
        Look::new("percent, every byte", every_byte("%", true)),
        Look::new("percent, every byte, lowercase", every_byte("%", false)),
        Look::new("escaped bytes", every_byte("\\x", false)),
        Look::new("JSON", quoted.trim_matches('"')),
        Look::new("JSON, ASCII only", escape_to_ascii(text)),
        Look::new("Rust's Debug", format!("{text:?}").trim_matches('"')),
        Look::new("a list of numbers", decimals.join(",")),
        Look::new("a list of numbers with spaces", decimals.join(", ")),
    ];
    for skip in 0..3 {
        let groups = bytes.get(skip..).unwrap_or_default();
        let groups = groups.get(..groups.len() / 3 * 3).unwrap_or_default();
        looks.push(Look::new("base64", STANDARD_NO_PAD.encode(groups)));
        looks.push(Look::new("base64url", URL_SAFE_NO_PAD.encode(groups)));
    }
    let mut seen = BTreeSet::new();
    looks.retain(|look| seen.insert(look.bytes.clone()));
    looks
}

fn escape_to_ascii(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '"' | '\\' => escaped.extend(['\\', letter]),
            ' '..='~' => escaped.push(letter),
            _ => letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    #[test]
    fn a_credential_is_found_by_half_of_its_random_part_and_not_by_what_is_shown_of_it() {
        let text = format!("th_live_{}plt_01arz3ndektsv4rrffq69g5favAbCdEf", "Ab3".repeat(11).get(..32).unwrap());
        let canary = Canary::of_credential(&text);
        assert_eq!(canary.find_in(&text.as_bytes()[..12]), None);
        assert_eq!(canary.find_in(&text.as_bytes()[40..]), None);
        for part in [&text[..], &text[8..24], &text[24..40]] {
            assert_eq!(canary.find_in(part.as_bytes()), Some("raw"));
            assert!(canary.find_in(STANDARD.encode(format!("xy{part}")).as_bytes()).is_some());
        }
    }

    #[tokio::test]
    async fn a_value_is_found_in_every_encoding_at_every_alignment_and_no_other_value_is() {
        let (canary, other) = (Canary::make(), Canary::make());
        for around in ["", "x", "xy", "xyz", "\u{fc}xyz", "NAME="] {
            let text = format!("{around}{}{around}", canary.value());
            let percent = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
            let json = serde_json::to_string(&[&text]).unwrap();
            for hidden in [
                text.clone(),
                STANDARD.encode(&text),
                STANDARD_NO_PAD.encode(&text),
                URL_SAFE.encode(&text),
                URL_SAFE_NO_PAD.encode(&text),
                hex::encode(&text),
                hex::encode_upper(&text),
                percent.to_lowercase(),
                percent,
                serde_json::to_string(&json).unwrap(),
                json,
                format!("{text:?}"),
                format!("{:?}", text.as_bytes()),
                format!("{:?}", Bytes::from(text.clone())),
                text.to_uppercase().to_lowercase(),
                text.chars().take(text.chars().count() / 2).collect(),
            ] {
                assert!(canary.find_in(hidden.as_bytes()).is_some(), "{hidden}");
                assert_eq!(other.find_in(hidden.as_bytes()), None);
            }
            for size in [1, 7, 4096] {
                let hidden = format!("{}{}{}", " ".repeat(1024 * 1024), STANDARD.encode(&text), " ".repeat(99));
                let pieces: Vec<_> = hidden.as_bytes().chunks(size * 500).map(Bytes::copy_from_slice).collect();
                let stream = || futures_util::stream::iter(pieces.clone().into_iter().map(Ok::<_, ()>));
                assert!(canary.find_in_stream(stream()).await.0.is_some());
                assert_eq!(other.find_in_stream(stream()).await, (None, hidden.len()));
            }
        }
    }
}
