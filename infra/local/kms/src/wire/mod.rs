//! The JSON of the KMS protocol as types, and bytes in base64.
//!
//! Every member of a request is optional here: what is missing or out of range is answered by `check` in AWS's words.
//! Members the emulator gives no effect (grant tokens, policies, tags) are not declared and so ignored.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

pub(crate) mod answers;
pub(crate) mod requests;

/// Bytes that travel and rest as base64.
///
/// Plaintext, key material and ciphertext share this type, so all are wiped when dropped and none can be printed:
/// nobody has to decide case by case. (The HTTP stack's own buffers are beyond reach.)
#[derive(Clone)]
pub(crate) struct Blob(Zeroizing<Vec<u8>>);

impl Blob {
    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for Blob {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(STANDARD.encode(self.bytes()));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(BlobVisitor)
    }
}

struct BlobVisitor;

impl Visitor<'_> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64 text")
    }

    // The room is taken once, at its upper bound: a vector that grew would leave a copy behind unwiped.
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Blob, E> {
        let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let length = STANDARD.decode_slice(text, &mut bytes).map_err(|_| E::custom("not base64"))?;
        bytes.truncate(length);
        Ok(Blob(bytes))
    }
}
