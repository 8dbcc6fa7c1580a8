//! The audit trail: who changed what. Entries are written in the transaction of the change, so there is none without
//! its entry, and never changed afterwards.

mod log;

pub use log::{AuditFilter, AuditLog};

use self::log::Month;
use crate::table::{Item, TTL, number, to_item, ttl_seconds};
use crate::transaction::{Expression, Transaction};
use crate::{StoreError, Table, now_ms};
use serde::{Deserialize, Serialize};
use theazo_tenancy::{AgentId, AuditId, KeyId, SessionId, TableKey, TenantScope};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditAction {
    /// A session was made.
    #[serde(rename = "session.create")]
    SessionCreate,
    /// A session's limits or metadata were changed.
    #[serde(rename = "session.update")]
    SessionUpdate,
    /// A session and all that runs in it was paused.
    #[serde(rename = "session.pause")]
    SessionPause,
    /// A session was made active again.
    #[serde(rename = "session.resume")]
    SessionResume,
    /// A session was ended for good.
    #[serde(rename = "session.terminate")]
    SessionTerminate,
    /// Secrets were set.
    #[serde(rename = "secrets.set")]
    SecretsSet,
    /// A secret was deleted.
    #[serde(rename = "secrets.delete")]
    SecretsDelete,
    /// An agent was booted with secrets.
    #[serde(rename = "agent.boot")]
    AgentBoot,
    /// An agent was paused.
    #[serde(rename = "agent.pause")]
    AgentPause,
    /// A paused agent was booted with secrets.
    #[serde(rename = "agent.resume")]
    AgentResume,
    /// A running agent was booted anew, with the secrets of that time.
    #[serde(rename = "agent.restart")]
    AgentRestart,
    /// A checkpoint was made of a running agent's files.
    #[serde(rename = "agent.checkpoint")]
    AgentCheckpoint,
    /// An agent that was over was booted with secrets from a checkpoint.
    #[serde(rename = "agent.retry")]
    AgentRetry,
    /// An agent was ended.
    #[serde(rename = "agent.end")]
    AgentEnd,
    /// A provider was configured with a credential.
    #[serde(rename = "provider.set")]
    ProviderSet,
    /// A provider's configuration was removed.
    #[serde(rename = "provider.delete")]
    ProviderDelete,
    /// An API key was made.
    #[serde(rename = "key.create")]
    KeyCreate,
    /// An API key was given a successor.
    #[serde(rename = "key.rotate")]
    KeyRotate,
    /// An API key was revoked.
    #[serde(rename = "key.revoke")]
    KeyRevoke,
    /// A session's token was minted.
    #[serde(rename = "token.create")]
    TokenCreate,
    /// All tokens of a session were revoked.
    #[serde(rename = "token.revoke")]
    TokenRevoke,
    /// A platform's vault key was replaced.
    #[serde(rename = "platform.rotate")]
    PlatformRotate,
    /// A platform was suspended.
    #[serde(rename = "platform.suspend")]
    PlatformSuspend,
    /// A suspended platform was resumed.
    #[serde(rename = "platform.resume")]
    PlatformResume,
    /// A platform was deleted.
    #[serde(rename = "platform.delete")]
    PlatformDelete,
}

/// How it went. A boot says `started` before any value leaves, and its outcome afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It is about to be done.
    Started,
    /// It was done.
    Succeeded,
    /// It was not.
    Failed,
}

/// An entry of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its id, which sorts by time.
    pub id: AuditId,
    /// Unix milliseconds.
    pub at_ms: i64,
    /// What kind of principal acted: `platform`, `session`, `operator` or `system`.
    pub principal: String,
    /// The credential's public id, for callers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<KeyId>,
    /// What was done.
    pub action: AuditAction,
    /// Canonical names of the secrets it was about, or the id of the key or the name of the provider. Never a value.
    pub names: Vec<String>,
    /// The session it was about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<SessionId>,
    /// The agent it was about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<AgentId>,
    /// How it went.
    pub outcome: AuditOutcome,
    /// Where the request came from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_ip: Option<String>,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request: Option<String>,
}

/// What an entry says besides who acts.
pub(crate) struct Deed<'a> {
    action: AuditAction,
    outcome: AuditOutcome,
    names: Vec<String>,
    session: Option<&'a SessionId>,
    agent: Option<&'a AgentId>,
}

impl<'a> Deed<'a> {
    pub(crate) fn done(action: AuditAction) -> Self {
        Self { action, outcome: AuditOutcome::Succeeded, names: Vec::new(), session: None, agent: None }
    }

    pub(crate) fn with(self, outcome: AuditOutcome) -> Self {
        Self { outcome, ..self }
    }

    pub(crate) fn names(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect(), ..self }
    }

    pub(crate) fn session(self, session: &'a SessionId) -> Self {
        Self { session: Some(session), ..self }
    }

    pub(crate) fn agent(self, agent: &'a AgentId) -> Self {
        Self { agent: Some(agent), ..self }
    }
}

impl Transaction {
    /// Adds the entry of what the transaction does, in the name of whoever the scope is for.
    pub(crate) fn audit(self, table: &Table, scope: &TenantScope, deed: Deed<'_>) -> Result<Self, StoreError> {
        let item = entry_item(table, scope, deed)?;
        Ok(self.put_item(table, item, Expression::new("attribute_not_exists(pk)")))
    }
}

fn entry_item(table: &Table, scope: &TenantScope, deed: Deed<'_>) -> Result<Item, StoreError> {
    let at_ms = now_ms();
    let actor = scope.actor();
    let origin = actor.origin.as_ref();
    let entry = AuditEntry {
        id: AuditId::make_at(at_ms),
        at_ms,
        principal: actor.kind.as_str().to_owned(),
        key: actor.credential.clone(),
        action: deed.action,
        names: deed.names,
        session: deed.session.cloned(),
        agent: deed.agent.cloned(),
        outcome: deed.outcome,
        source_ip: origin.and_then(|origin| origin.source_ip).map(|ip| ip.to_string()),
        request: origin.map(|origin| origin.request.to_string()),
    };
    let key: TableKey = scope.audit_key(&Month::of(at_ms).to_string(), &entry.id);
    let mut item = to_item(&key, &entry)?;
    item.insert(TTL.into(), number(ttl_seconds(at_ms.saturating_add(table.audit_retention_ms()))));
    Ok(item)
}
