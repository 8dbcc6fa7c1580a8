//! Key identifiers (UUIDs) and ARNs.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::EmulatorError;
use crate::random;

/// The account every emulated key belongs to, the placeholder account of AWS's own local tools.
pub(crate) const ACCOUNT: &str = "000000000000";

/// What all ARNs of this emulator start with. The region is fixed: a client may sign for any other.
pub(crate) const ARN_PREFIX: &str = "arn:aws:kms:us-east-1:000000000000:";

/// Bytes of a key identifier inside a ciphertext.
pub(crate) const KEY_ID_LEN: usize = 16;

/// The identifier of a key: a version 4 UUID, written in lower case with hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyId([u8; KEY_ID_LEN]);

impl KeyId {
    /// A fresh random identifier.
    pub(crate) fn make() -> Result<Self, EmulatorError> {
        let mut bytes = random::make_public::<KEY_ID_LEN>()?;
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Ok(Self(bytes))
    }

    /// The identifier as it stands in a ciphertext.
    pub(crate) fn from_bytes(bytes: [u8; KEY_ID_LEN]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes for a ciphertext.
    pub(crate) fn as_bytes(&self) -> &[u8; KEY_ID_LEN] {
        &self.0
    }

    /// Reads the one accepted spelling; anything else (upper case, braces, no hyphens) is `None`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; KEY_ID_LEN];
        hex::decode_to_slice(text.replace('-', ""), &mut bytes).ok()?;
        let id = Self(bytes);
        (id.to_string() == text).then_some(id)
    }

    /// The key's ARN.
    pub(crate) fn arn(&self) -> String {
        format!("{ARN_PREFIX}key/{self}")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a key identifier"))
    }
}

/// The ARN of an alias whose name includes `alias/`.
pub(crate) fn alias_arn(name: &str) -> String {
    format!("{ARN_PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_reads_back_in_its_one_spelling_only() {
        let id = KeyId::make().unwrap();
        let text = id.to_string();
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'4');
        assert_eq!(KeyId::parse(&text), Some(id));
        assert_eq!(KeyId::parse(&text.replace('-', "")), None);
        assert_eq!(KeyId::parse(&format!("{text}0")), None);
        assert_eq!(KeyId::parse("é"), None);
        let spelled = KeyId::from_bytes([0xab; KEY_ID_LEN]).to_string();
        assert_eq!(KeyId::parse(&spelled.to_uppercase()), None);
    }
}
