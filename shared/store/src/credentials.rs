//! Credentials, found by their hash, and the counting of their requests.
//!
//! One conditional update finds a credential and counts the request against its limit. A credential that is not there
//! is not written to. A row counts only with a tag of the deployment's own key over all that it says, so that write
//! access to the table makes no credential and changes none. Whether it is good is decided by
//! [`theazo_tenancy::Claim::prove`], from what was found now: nothing of it is kept from one request to the next, so a
//! revoked credential is refused at once everywhere. What a row says is in `row`.

mod row;

pub(crate) use row::{AS_READ, hex_bytes, revocation};

use crate::agents::AgentStatus;
use crate::error::table_error;
use crate::sessions::SessionStatus;
use crate::suspension::Standing;
use crate::table::{Item, number};
use crate::transaction::back_off;
use crate::{StoreError, Table, now_ms};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use futures_util::future::try_join4;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use theazo_tenancy::{Claim, CredentialKind, CredentialRecord, KeyId, TableKey};

/// Requests are counted over windows of this length: a second.
const WINDOW_MS: i64 = 1000;
/// Credentials whose window this process remembers: those of this second stay, however many there were before. A wrong
/// guess costs one more round trip and nothing else.
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
                    self.remember(key, figure(&row, "window").unwrap_or(window));
                    return Ok((Some(row), false));
                }
                Counted::Busy => {
                    back_off(attempt).await;
                    continue;
                }
                Counted::No(None) => return Ok((None, false)),
                Counted::No(Some(old)) => old,
            };
            let (last, hits) = (figure(&old, "window"), figure(&old, "hits").unwrap_or(0));
            // Another process's clock may be ahead; its window counts then, so that nobody gains by the difference.
            known = last.is_some_and(|last| last >= window);
            window = last.map_or(window, |last| last.max(window));
            let over = known && hits >= i64::from(limit);
            if over || row::is_revoked(&old) {
                return Ok((Some(old), over));
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    async fn try_count(&self, key: &TableKey, window: i64, known: bool, limit: u32) -> Result<Counted, StoreError> {
        let (update, condition) = if known {
            // A later one may have been opened since: it counts then. Were just this one asked for, a call that takes longer
            // than a window lasts would never meet it.
            ("SET hits = hits + :one", "#w >= :window AND hits < :limit")
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
                windows.retain(|_, counted_in| *counted_in >= window);
                if windows.len() >= REMEMBERED {
                    windows.clear();
                }
            }
            windows.insert(key.clone(), window);
        }
    }
}

/// A number of a credential's row.
fn figure(row: &Item, name: &str) -> Option<i64> {
    row.get(name)?.as_n().ok()?.parse().ok()
}

enum Counted {
    /// Counted; the row as it is now.
    Yes(Item),
    /// The condition did not hold; the row as it is, if there is one.
    No(Option<Item>),
    /// A transaction has the row.
    Busy,
}

/// Credentials for the tests of this module and of its row's.
#[cfg(test)]
mod support {
    use super::*;
    use crate::{Aws, AwsEndpoints};
    use theazo_tenancy::{
        AgentId, CredentialKey, Mode, Permissions, PlatformId, SessionId, make_agent_token, make_api_key,
        make_session_token,
    };

    /// Nothing is asked of it.
    pub(super) fn unkeyed() -> Table {
        Table::new(&Aws::local(&AwsEndpoints { dynamodb: "http://127.0.0.1:1".into(), kms: None }), "none")
    }

    pub(super) fn keyed() -> Table {
        unkeyed().with_credential_key(Arc::new(CredentialKey::make()))
    }

    /// A credential of each kind, with the claim it makes.
    pub(super) fn issued() -> [(Claim, CredentialRecord); 3] {
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
}

#[cfg(test)]
mod tests {
    use super::support::{issued, unkeyed};
    use super::*;
    use theazo_tenancy::{Mode, PlatformId, make_api_key};

    #[test]
    fn windows_of_many_credentials_are_remembered_and_those_that_are_over_make_way() {
        let credentials = Credentials::new(unkeyed(), RateLimits::default());
        let platform = PlatformId::make();
        let place = || Claim::parse(&make_api_key(&platform, Mode::Live).text).unwrap().credential_key();
        let places: Vec<TableKey> = (0..REMEMBERED).map(|_| place()).collect();
        for (window, key) in (0..).zip(&places) {
            assert_eq!(credentials.last_window(key), None);
            credentials.remember(key, window);
        }
        let last = i64::try_from(REMEMBERED).unwrap() - 1;
        credentials.remember(&places[0], last);
        let known = |key: &TableKey| credentials.last_window(key);
        assert_eq!((known(&places[0]), known(&places[1])), (Some(last), Some(1)));
        assert!(places.iter().all(|key| known(key).is_some()));
        // What is being counted in now is kept.
        let one_more = place();
        credentials.remember(&one_more, last);
        assert_eq!(
            (known(&one_more), known(&places[0]), known(&places[REMEMBERED - 1])),
            (Some(last), Some(last), Some(last))
        );
        assert!(places[1..REMEMBERED - 1].iter().all(|key| known(key).is_none()));
        // Where all of them are, there is room for the newest only.
        for _ in 3..REMEMBERED {
            credentials.remember(&place(), last);
        }
        assert!(known(&places[0]).is_some());
        credentials.remember(&places[1], last);
        assert_eq!((known(&places[0]), known(&places[1])), (None, Some(last)));
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
