//! Credentials, found by their hash, and the counting of their requests.
//!
//! One conditional update finds a credential and counts the request against its limit. A credential that is not there
//! is not written to. A row counts only with a tag of the deployment's own key over all that it says, so that write
//! access to the table makes no credential and changes none. Whether it is good is decided by
//! [`theazo_tenancy::Claim::prove`], from what was found now: nothing of it is kept from one request to the next, so a
//! revoked credential is refused at once everywhere.

use crate::agents::AgentStatus;
use crate::error::table_error;
use crate::sessions::SessionStatus;
use crate::suspension::Standing;
use crate::table::{Item, TTL, from_item, number, to_item, ttl_seconds};
use crate::transaction::{Expression, back_off};
use crate::{StoreError, Table, now_ms};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use futures_util::future::try_join4;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use theazo_tenancy::{
    AgentId, Claim, CredentialKind, CredentialRecord, KeyId, Mode, Permissions, PlatformId, SessionId, TableKey,
};

/// Requests are counted over windows of this length: a second.
const WINDOW_MS: i64 = 1000;
/// Credentials whose window this process remembers; a wrong guess costs one more round trip and nothing else.
const REMEMBERED: usize = 1024;
/// How often a count is tried while other processes count the same credential.
const ATTEMPTS: u32 = 8;

/// How many requests a credential may make in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// An API key.
    pub key: u32,
    /// A session's token.
    pub token: u32,
    /// An agent's token. Each of its reports is up to two log entries' worth of writes, and its holder may be hostile.
    pub agent: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { key: 1000, token: 100, agent: 20 }
    }
}

/// Looking a credential up and counting its requests. Every function holds this; it reaches the one row of a hash that
/// the caller presented, and the session and agent that the credential names.
#[derive(Clone)]
pub struct Credentials {
    table: Table,
    limits: RateLimits,
    /// Which window of a credential's this process counted in last, by the row's key.
    windows: Arc<Mutex<HashMap<TableKey, i64>>>,
}

/// What was found for a claim.
pub struct Admission {
    /// The stored credential, if there is one.
    pub record: Option<CredentialRecord>,
    /// Whether it has used up what it may do now. To be told only to a credential that proves good.
    pub over_limit: bool,
    /// Whether its platform is suspended. To be told only to a credential that proves good.
    pub suspended: bool,
    /// Whether the session of a token is paused.
    pub session_is_paused: bool,
}

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

/// What a token's validity depends on in its session's row.
#[derive(Deserialize)]
struct SessionGuard {
    status: SessionStatus,
    #[serde(default)]
    token_epoch: u64,
}

/// What a token's validity depends on in its agent's row.
#[derive(Deserialize)]
struct AgentGuard {
    status: AgentStatus,
    #[serde(default)]
    token: Option<KeyId>,
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
        if row.contains_key(REVOKED_AT) {
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

/// The change that revokes a credential as of that moment, to be made with a `:at` of the same time in its condition if it
/// has one. Without its tag the row stays refused even if somebody takes the rest of it back.
pub(crate) fn revocation(at_ms: i64, kept_ms: i64) -> Expression {
    Expression::new("SET revoked_at_ms = :at, #ttl = :ttl REMOVE mac")
        .name("#ttl", TTL)
        .value(":at", number(at_ms))
        .value(":ttl", number(ttl_seconds(at_ms.saturating_add(kept_ms))))
}

/// Whether a token's session still stands behind it.
fn session_lives(record: &CredentialRecord, session: Option<&SessionGuard>) -> bool {
    session.is_some_and(|session| session.status != SessionStatus::Terminated && session.token_epoch == record.epoch)
}

/// Whether a token's agent runs and reports with this very token.
fn agent_lives(record: &CredentialRecord, agent: Option<&AgentGuard>) -> bool {
    agent.is_some_and(|agent| {
        agent.token.as_ref() == Some(&record.id) && !agent.status.is_over() && agent.status != AgentStatus::Paused
    })
}

impl Credentials {
    /// Over that table, with those limits.
    pub fn new(table: Table, limits: RateLimits) -> Self {
        Self { table, limits, windows: Arc::default() }
    }

    /// Finds the credential that a claim names and counts the request. A token whose session or agent has ended, or
    /// whose session's tokens were revoked, is as good as absent.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn admit(&self, claim: &Claim) -> Result<Admission, StoreError> {
        let key = claim.credential_key();
        let limit = match claim.kind() {
            CredentialKind::ApiKey => self.limits.key,
            CredentialKind::Session(_) => self.limits.token,
            CredentialKind::Agent(..) => self.limits.agent,
        };
        let session = claim.session_key();
        let agent = claim.agent_key();
        let standing = claim.standing_key();
        let ((row, over_limit), session, agent, standing) = try_join4(
            self.count(&key, limit),
            self.guard::<SessionGuard>(session.as_ref()),
            self.guard::<AgentGuard>(agent.as_ref()),
            self.guard::<Standing>(Some(&standing)),
        )
        .await?;
        let session_is_paused = session.as_ref().is_some_and(|session| session.status == SessionStatus::Paused);
        let record = row.map(|row| self.table.verified(row)).transpose()?.flatten();
        let record = record.filter(|record| match claim.kind() {
            CredentialKind::ApiKey => true,
            CredentialKind::Session(_) => session_lives(record, session.as_ref()),
            // Revoking a session's tokens ends what its users hold, not what its agents report with.
            CredentialKind::Agent(..) => {
                session.as_ref().is_some_and(|session| session.status != SessionStatus::Terminated)
                    && agent_lives(record, agent.as_ref())
            }
        });
        Ok(Admission { record, over_limit, suspended: standing.is_some(), session_is_paused })
    }

    async fn guard<T: serde::de::DeserializeOwned>(&self, key: Option<&TableKey>) -> Result<Option<T>, StoreError> {
        match key {
            Some(key) => self.table.get(key).await,
            None => Ok(None),
        }
    }

    /// The row, and whether its limit is reached, in which case nothing was counted.
    async fn count(&self, key: &TableKey, limit: u32) -> Result<(Option<Item>, bool), StoreError> {
        let mut window = now_ms().div_euclid(WINDOW_MS);
        let mut known = self.last_window(key) == Some(window);
        for attempt in 0..ATTEMPTS {
            let old = match self.try_count(key, window, known, limit).await? {
                Counted::Yes(row) => {
                    self.remember(key, window);
                    return Ok((Some(row), false));
                }
                Counted::Busy => {
                    back_off(attempt).await;
                    continue;
                }
                Counted::No(None) => return Ok((None, false)),
                Counted::No(Some(old)) => old,
            };
            let field = |name: &str| old.get(name).and_then(|value| value.as_n().ok()?.parse::<i64>().ok());
            let (last, hits) = (field("window"), field("hits").unwrap_or(0));
            // Another process's clock may be ahead; its window counts then, so that nobody gains by the difference.
            known = last.is_some_and(|last| last >= window);
            window = last.map_or(window, |last| last.max(window));
            let over = known && hits >= i64::from(limit);
            if over || old.contains_key(REVOKED_AT) {
                return Ok((Some(old), over));
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    async fn try_count(&self, key: &TableKey, window: i64, known: bool, limit: u32) -> Result<Counted, StoreError> {
        let (update, condition) = if known {
            ("SET hits = hits + :one", "#w = :window AND hits < :limit")
        } else {
            ("SET #w = :window, hits = :one", "(attribute_not_exists(#w) OR #w < :window)")
        };
        let mut request = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key("pk", AttributeValue::S(key.pk().into()))
            .key("sk", AttributeValue::S(key.sk().into()))
            .update_expression(update)
            .condition_expression(format!(
                "attribute_exists(pk) AND attribute_not_exists(revoked_at_ms) AND {condition}"
            ))
            .expression_attribute_names("#w", "window")
            .expression_attribute_values(":window", number(window))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if known {
            request = request.expression_attribute_values(":limit", number(limit));
        }
        match request.send().await {
            Ok(answer) => Ok(Counted::Yes(answer.attributes.ok_or(StoreError::Corrupt("a credential without a row"))?)),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    Ok(Counted::No(refused.item.clone().filter(|item| !item.is_empty())))
                }
                // The key is being rotated or revoked at this moment.
                Some(UpdateItemError::TransactionConflictException(_)) => Ok(Counted::Busy),
                _ => Err(table_error("UpdateItem")(error)),
            },
        }
    }

    fn last_window(&self, key: &TableKey) -> Option<i64> {
        self.windows.lock().ok()?.get(key).copied()
    }

    fn remember(&self, key: &TableKey, window: i64) {
        if let Ok(mut windows) = self.windows.lock() {
            if windows.len() >= REMEMBERED && !windows.contains_key(key) {
                windows.clear();
            }
            windows.insert(key.clone(), window);
        }
    }
}

enum Counted {
    /// Counted; the row as it is now.
    Yes(Item),
    /// The condition did not hold; the row as it is, if there is one.
    No(Option<Item>),
    /// A transaction has the row.
    Busy,
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
    use crate::{Aws, AwsEndpoints};
    use theazo_tenancy::{CredentialKey, make_agent_token, make_api_key, make_session_token};

    /// Nothing is asked of it.
    fn unkeyed() -> Table {
        Table::new(&Aws::local(&AwsEndpoints { dynamodb: "http://127.0.0.1:1".into(), kms: None }), "none")
    }

    fn keyed() -> Table {
        unkeyed().with_credential_key(Arc::new(CredentialKey::make()))
    }

    /// A credential of each kind, with the claim it makes.
    fn issued() -> [(Claim, CredentialRecord); 3] {
        let (platform, session, agent) = (PlatformId::make(), SessionId::make(), AgentId::make());
        [
            make_api_key(&platform, Mode::Live),
            make_session_token(&platform, Mode::Test, &session),
            make_agent_token(&platform, Mode::Live, &session, &agent),
        ]
        .map(|issued| {
            let claim = Claim::parse(&issued.text).unwrap();
            let record = CredentialRecord {
                hash: issued.hash,
                id: KeyId::make(),
                kind: claim.kind().clone(),
                platform: platform.clone(),
                mode: if issued.text.starts_with("th_sess_") { Mode::Test } else { Mode::Live },
                expires_at_ms: Some(7),
                cursor_key: [1; 32],
                permissions: Permissions { exec: false },
                epoch: 3,
            };
            (claim, record)
        })
    }

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

    #[test]
    fn windows_of_many_credentials_are_remembered_and_forgotten_together_when_they_are_too_many() {
        let credentials = Credentials::new(unkeyed(), RateLimits::default());
        let platform = PlatformId::make();
        let place = || Claim::parse(&make_api_key(&platform, Mode::Live).text).unwrap().credential_key();
        let places: Vec<TableKey> = (0..REMEMBERED).map(|_| place()).collect();
        for (window, key) in (0..).zip(&places) {
            assert_eq!(credentials.last_window(key), None);
            credentials.remember(key, window);
        }
        credentials.remember(&places[0], 7);
        let known = |key: &TableKey| credentials.last_window(key);
        assert_eq!((known(&places[0]), known(&places[1])), (Some(7), Some(1)));
        assert!(places.iter().all(|key| known(key).is_some()));
        let one_more = place();
        credentials.remember(&one_more, 3);
        assert_eq!(known(&one_more), Some(3));
        assert!(places.iter().all(|key| known(key).is_none()));
    }

    #[test]
    fn a_token_is_good_while_its_session_and_its_agent_stand_behind_it() {
        let [_, (_, token), (_, agents)] = issued();
        let session = |status, token_epoch| SessionGuard { status, token_epoch };
        for (guard, good) in [
            (None, false),
            (Some(session(SessionStatus::Active, 3)), true),
            (Some(session(SessionStatus::Paused, 3)), true),
            (Some(session(SessionStatus::Terminated, 3)), false),
            (Some(session(SessionStatus::Active, 2)), false),
            (Some(session(SessionStatus::Active, 4)), false),
        ] {
            assert_eq!(session_lives(&token, guard.as_ref()), good);
        }
        assert!(!agent_lives(&agents, None));
        for status in AgentStatus::ALL {
            let good = [AgentStatus::Booting, AgentStatus::Ready, AgentStatus::Running].contains(&status);
            for (held, same) in [(None, false), (Some(KeyId::make()), false), (Some(agents.id.clone()), true)] {
                assert_eq!(agent_lives(&agents, Some(&AgentGuard { status, token: held })), good && same);
            }
        }
    }
}
