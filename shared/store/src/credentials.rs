//! Credentials, found by their hash, and the counting of their requests.
//!
//! One conditional update finds a credential and counts the request against its limit. A credential that is not there
//! is not written to. Whether it is good is decided by [`theazo_tenancy::Claim::prove`], from what was found now: nothing
//! of it is kept from one request to the next, so a revoked credential is refused at once everywhere.

use crate::agents::AgentStatus;
use crate::error::table_error;
use crate::sessions::SessionStatus;
use crate::table::{Item, from_item, number};
use crate::transaction::back_off;
use crate::{StoreError, Table, now_ms};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use futures_util::future::try_join3;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use theazo_tenancy::{
    AgentId, Claim, CredentialKind, CredentialRecord, KeyId, Mode, Permissions, PlatformId, SessionId, TableKey,
};

/// Requests are counted over windows of this length, seconds.
const WINDOW_S: i64 = 1;
/// Credentials whose window this process remembers; a wrong guess costs one more round trip and nothing else.
const REMEMBERED: usize = 1024;
/// How often a count is tried while other processes count the same credential.
const ATTEMPTS: u32 = 8;

/// How many requests a credential may make in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// An API key.
    pub key: u32,
    /// A session's or an agent's token.
    pub token: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { key: 1000, token: 100 }
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
}

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
    /// The session of a token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) session: Option<SessionId>,
    /// The agent of an agent's token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) agent: Option<AgentId>,
    /// A session's token is good while its session's epoch is this one.
    #[serde(default)]
    pub(crate) epoch: u64,
    /// Whether it may do more than read.
    #[serde(default = "yes")]
    pub(crate) may_exec: bool,
}

fn yes() -> bool {
    true
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

/// The `kind` of an API key's row.
pub(crate) const KIND_API_KEY: &str = "api_key";
/// The `kind` of a session's token's row.
pub(crate) const KIND_SESSION: &str = "session";
/// The `kind` of an agent's token's row.
pub(crate) const KIND_AGENT: &str = "agent";

impl CredentialRow {
    fn into_record(self) -> Result<CredentialRecord, StoreError> {
        let kind = match (self.kind.as_str(), self.session, self.agent) {
            (KIND_API_KEY, None, None) => CredentialKind::ApiKey,
            (KIND_SESSION, Some(session), None) => CredentialKind::Session(session),
            (KIND_AGENT, Some(session), Some(agent)) => CredentialKind::Agent(session, agent),
            _ => return Err(StoreError::Corrupt("a credential of unknown kind")),
        };
        Ok(CredentialRecord {
            hash: self.hash,
            id: self.id,
            kind,
            platform: self.platform,
            mode: Mode::parse(&self.mode).ok_or(StoreError::Corrupt("a credential of unknown mode"))?,
            expires_at_ms: self.expires_at_ms,
            revoked_at_ms: self.revoked_at_ms,
            cursor_key: self.cursor_key,
            permissions: Permissions { exec: self.may_exec },
        })
    }
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
            CredentialKind::Session(_) | CredentialKind::Agent(..) => self.limits.token,
        };
        let session = claim.session_key();
        let agent = claim.agent_key();
        let ((row, over_limit), session, agent) = try_join3(
            self.count(&key, limit),
            self.guard::<SessionGuard>(session.as_ref()),
            self.guard::<AgentGuard>(agent.as_ref()),
        )
        .await?;
        let row = row.filter(|row| {
            let session_lives = || {
                session.is_some_and(|session| {
                    session.status != SessionStatus::Terminated && session.token_epoch == row.epoch
                })
            };
            let agent_lives = || {
                agent.is_some_and(|agent| {
                    agent.token.as_ref() == Some(&row.id)
                        && !agent.status.is_over()
                        && agent.status != AgentStatus::Paused
                })
            };
            match claim.kind() {
                CredentialKind::ApiKey => true,
                CredentialKind::Session(_) => session_lives(),
                CredentialKind::Agent(..) => session_lives() && agent_lives(),
            }
        });
        Ok(Admission { record: row.map(CredentialRow::into_record).transpose()?, over_limit })
    }

    async fn guard<T: serde::de::DeserializeOwned>(&self, key: Option<&TableKey>) -> Result<Option<T>, StoreError> {
        match key {
            Some(key) => self.table.get(key).await,
            None => Ok(None),
        }
    }

    /// The row, and whether its limit is reached, in which case nothing was counted.
    async fn count(&self, key: &TableKey, limit: u32) -> Result<(Option<CredentialRow>, bool), StoreError> {
        let mut window = now_ms().div_euclid(1000 * WINDOW_S);
        let mut known = self.last_window(key) == Some(window);
        for attempt in 0..ATTEMPTS {
            let old = match self.try_count(key, window, known, limit).await? {
                Counted::Yes(row) => {
                    self.remember(key, window);
                    return Ok((Some(from_item(row)?), false));
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
            if over || old.contains_key("revoked_at_ms") {
                return Ok((Some(from_item(old)?), over));
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
