//! Who may pass: whoever has the token. Only its digest is known here.

use hyper::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use theazo_guest_protocol::forwarder::PORT_TOKEN_HEADER;

/// The digest of the one token that is good.
#[derive(Clone)]
pub struct Admission([u8; 32]);

/// The digest of the token that a request carries.
pub(crate) struct Presented([u8; 32]);

impl Presented {
    /// Of a request that carries one token.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut tokens = headers.get_all(PORT_TOKEN_HEADER).iter();
        let (Some(token), None) = (tokens.next(), tokens.next()) else { return None };
        Some(Self(Sha256::digest(token.as_bytes()).into()))
    }
}

impl Admission {
    /// The token with that SHA-256, as 64 hexadecimal digits.
    pub fn parse(digest: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(digest, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Whether that is the token. How long this takes says nothing of it.
    pub(crate) fn admits(&self, presented: &Presented) -> bool {
        presented.0.ct_eq(&self.0).into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn the_token_is_taken_once_and_nothing_else_is() {
        let admission = Admission::parse(&hex::encode(Sha256::digest(b"the token"))).unwrap();
        let admits = |tokens: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for token in tokens {
                headers.append(PORT_TOKEN_HEADER, HeaderValue::from_static(token));
            }
            Presented::of(&headers).is_some_and(|presented| admission.admits(&presented))
        };
        assert!(admits(&["the token"]));
        for bad in [&[][..], &[""], &["the toke"], &["the token "], &["THE TOKEN"], &["the token", "the token"]] {
            assert!(!admits(bad), "{bad:?}");
        }
        assert!(!admits(&["x", "the token"]) && !admits(&["the token", "x"]));
    }
}
