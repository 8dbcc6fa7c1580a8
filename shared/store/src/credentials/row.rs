//! A credential's row: what it says, and the tag by which it counts.

use crate::table::{Item, TTL, from_item, number, to_item, ttl_seconds};
use crate::transaction::Expression;
use crate::{StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use theazo_tenancy::{
    AgentId, CredentialKind, CredentialRecord, KeyId, Mode, Permissions, PlatformId, SessionId, TableKey,
};

/// A credential's row. `window` and `hits`, which count its requests, change without it.
#[derive(Serialize, Deserialize)]
struct CredentialRow {
    id: KeyId,
    kind: String,
    platform: PlatformId,
    mode: String,
    #[serde(with = "hex_bytes")]
    hash: [u8; 32],
    #[serde(with = "hex_bytes")]
    cursor_key: [u8; 32],
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    revoked_at_ms: Option<i64>,
    /// The session of a token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    session: Option<SessionId>,
    /// The agent of an agent's token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    agent: Option<AgentId>,
    #[serde(default)]
    epoch: u64,
    /// Whether it may do more than read.
    may_exec: bool,
    /// The tag of all that, under the deployment's own key. A revoked credential has none any more.
    #[serde(default)]
    mac: String,
}

const KIND_API_KEY: &str = "api_key";
const KIND_SESSION: &str = "session";
const KIND_AGENT: &str = "agent";

/// What of a row is covered by its tag, unless it cannot be a credential's.
fn record_of(row: &CredentialRow) -> Option<CredentialRecord> {
    let kind = match (row.kind.as_str(), row.session.clone(), row.agent.clone()) {
        (KIND_API_KEY, None, None) => CredentialKind::ApiKey,
        (KIND_SESSION, Some(session), None) => CredentialKind::Session(session),
        (KIND_AGENT, Some(session), Some(agent)) => CredentialKind::Agent(session, agent),
        _ => return None,
    };
    Some(CredentialRecord {
        hash: row.hash,
        id: row.id.clone(),
        kind,
        platform: row.platform.clone(),
        mode: Mode::parse(&row.mode)?,
        expires_at_ms: row.expires_at_ms,
        cursor_key: row.cursor_key,
        permissions: Permissions { exec: row.may_exec },
        epoch: row.epoch,
    })
}

impl Table {
    /// The row of a credential of ours.
    pub(crate) fn credential_item(&self, key: &TableKey, record: &CredentialRecord) -> Result<Item, StoreError> {
        let kind = match record.kind {
            CredentialKind::ApiKey => KIND_API_KEY,
            CredentialKind::Session(_) => KIND_SESSION,
            CredentialKind::Agent(..) => KIND_AGENT,
        };
        let agent = match &record.kind {
            CredentialKind::Agent(_, agent) => Some(agent.clone()),
            CredentialKind::ApiKey | CredentialKind::Session(_) => None,
        };
        let row = CredentialRow {
            id: record.id.clone(),
            kind: kind.into(),
            platform: record.platform.clone(),
            mode: record.mode.as_str().into(),
            hash: record.hash,
            cursor_key: record.cursor_key,
            expires_at_ms: record.expires_at_ms,
            revoked_at_ms: None,
            session: record.kind.session().cloned(),
            agent,
            epoch: record.epoch,
            may_exec: record.permissions.exec,
            mac: self.credential_mac(record)?,
        };
        to_item(key, &row)
    }

    /// The tag of a credential's row as the row holds it.
    fn credential_mac(&self, record: &CredentialRecord) -> Result<String, StoreError> {
        Ok(hex::encode(self.credential_key()?.seal(record)))
    }

    /// What a credential's row says, if it was not revoked and we wrote it just so. Any other is as good as absent.
    pub(crate) fn verified(&self, row: Item) -> Result<Option<CredentialRecord>, StoreError> {
        let key = self.credential_key()?;
        if is_revoked(&row) {
            return Ok(None);
        }
        let row: Option<CredentialRow> = from_item(row).ok();
        let record = row.and_then(|row| {
            let record = record_of(&row)?;
            let mac = hex::decode(&row.mac).ok()?;
            key.is_sealed(&record, &mac).then_some(record)
        });
        if record.is_none() {
            tracing::error!("a credential's row is not one that this deployment wrote");
        }
        Ok(record)
    }

    /// The change that lets a credential of ours end at that moment, to be made [`AS_READ`].
    pub(crate) fn ending(&self, record: &CredentialRecord, ends_at_ms: i64) -> Result<Expression, StoreError> {
        let ended = CredentialRecord { expires_at_ms: Some(ends_at_ms), ..record.clone() };
        Ok(Expression::new("SET expires_at_ms = :at, mac = :mac")
            .value(":at", number(ends_at_ms))
            .value(":mac", AttributeValue::S(self.credential_mac(&ended)?))
            .value(":was", AttributeValue::S(self.credential_mac(record)?)))
    }

    /// The change that revokes a credential of ours as of that moment, to be made [`AS_READ`].
    pub(crate) fn revoking(
        &self,
        record: &CredentialRecord,
        at_ms: i64,
        kept_ms: i64,
    ) -> Result<Expression, StoreError> {
        Ok(revocation(at_ms, kept_ms).value(":was", AttributeValue::S(self.credential_mac(record)?)))
    }

    /// A credential of ours that was not revoked.
    pub(crate) async fn credential(&self, key: &TableKey) -> Result<Option<CredentialRecord>, StoreError> {
        let row = self.get_raw(key).await?;
        Ok(row.map(|row| self.verified(row)).transpose()?.flatten())
    }
}

/// Holds while a credential is what was read, so that no row of anybody else's is sealed.
pub(crate) const AS_READ: &str = "attribute_exists(pk) AND mac = :was";

/// The attribute of a revoked credential.
const REVOKED_AT: &str = "revoked_at_ms";

/// Whether it is a revoked credential's.
pub(super) fn is_revoked(row: &Item) -> bool {
    row.contains_key(REVOKED_AT)
}

/// The change that revokes a credential as of that moment, to be made with a `:at` of the same time in its condition if it
/// has one. Without its tag the row stays refused even if somebody takes the rest of it back.
pub(crate) fn revocation(at_ms: i64, kept_ms: i64) -> Expression {
    Expression::new("SET revoked_at_ms = :at, #ttl = :ttl REMOVE mac")
        .name("#ttl", TTL)
        .value(":at", number(at_ms))
        .value(":ttl", number(ttl_seconds(at_ms.saturating_add(kept_ms))))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::support::{issued, keyed, unkeyed};

    #[test]
    fn a_row_says_what_it_was_written_from_and_nothing_once_it_is_revoked_or_another_tables() {
        let table = keyed();
        for (claim, record) in issued() {
            let item = table.credential_item(&claim.credential_key(), &record).unwrap();
            let read = table.verified(item.clone()).unwrap().unwrap();
            assert_eq!((read.hash, &read.id, &read.kind), (record.hash, &record.id, &record.kind));
            assert_eq!((&read.platform, read.mode, read.expires_at_ms), (&record.platform, record.mode, Some(7)));
            assert_eq!((read.cursor_key, read.permissions, read.epoch), ([1; 32], record.permissions, 3));
            assert!(claim.prove(Some(&read), 6).is_ok());

            assert!(keyed().verified(item.clone()).unwrap().is_none(), "another deployment's");
            let mut revoked = item.clone();
            revoked.insert(REVOKED_AT.into(), number(i64::MAX));
            assert!(table.verified(revoked).unwrap().is_none(), "revoked, whenever that is");
            let mut unsealed = item;
            unsealed.remove("mac");
            assert!(table.verified(unsealed).unwrap().is_none());
        }
        let unkeyed = unkeyed();
        let (claim, record) = &issued()[0];
        let made = unkeyed.credential_item(&claim.credential_key(), record);
        assert!(matches!(made, Err(StoreError::NoCredentialKey)));
        assert!(matches!(unkeyed.verified(Item::new()), Err(StoreError::NoCredentialKey)));
    }
}
