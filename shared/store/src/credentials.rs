//! Credentials, found by their hash.

use crate::{StoreError, Table};
use serde::{Deserialize, Serialize};
use theazo_tenancy::{Claim, CredentialKind, CredentialRecord, KeyId, Mode, PlatformId};

/// Looking a credential up. Every function holds this; it reads one row by a hash that the caller presented.
#[derive(Clone)]
pub struct Credentials(pub(crate) Table);

/// A credential's row.
#[derive(Serialize, Deserialize)]
pub(crate) struct CredentialRow {
    pub(crate) id: KeyId,
    pub(crate) kind: String,
    pub(crate) platform: PlatformId,
    pub(crate) mode: String,
    #[serde(with = "hex_bytes")]
    pub(crate) hash: [u8; 32],
    #[serde(with = "hex_bytes")]
    pub(crate) cursor_key: [u8; 32],
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) expires_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) revoked_at_ms: Option<i64>,
}

/// The `kind` of an API key's row.
pub(crate) const KIND_API_KEY: &str = "api_key";

impl Credentials {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// The stored credential that a claim names, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn find(&self, claim: &Claim) -> Result<Option<CredentialRecord>, StoreError> {
        let Some(row) = self.0.get::<CredentialRow>(&claim.credential_key()).await? else { return Ok(None) };
        let kind = match row.kind.as_str() {
            KIND_API_KEY => CredentialKind::ApiKey,
            _ => return Err(StoreError::Corrupt("a credential of unknown kind")),
        };
        let mode = Mode::parse(&row.mode).ok_or(StoreError::Corrupt("a credential of unknown mode"))?;
        Ok(Some(CredentialRecord {
            hash: row.hash,
            id: row.id,
            kind,
            platform: row.platform,
            mode,
            expires_at_ms: row.expires_at_ms,
            revoked_at_ms: row.revoked_at_ms,
            cursor_key: row.cursor_key,
        }))
    }
}

/// 32 bytes as hexadecimal text.
pub(crate) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| D::Error::custom("not 32 bytes of hexadecimal"))?;
        Ok(bytes)
    }
}
