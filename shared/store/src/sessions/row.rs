//! A session's row: what it has, what is asked of it, and what changes elsewhere may wait for it to be.

use crate::StoreError;
use crate::limits::{LimitChanges, Limits};
use crate::table::number;
use crate::transaction::Expression;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use theazo_tenancy::{SessionId, UserId};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionStatus {
    /// Agents may be made.
    Active,
    /// Its agents are paused.
    Paused,
    /// Over for good.
    Terminated,
}

/// What a session is used for, in the platform's own words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionEnvironment {
    /// Real end users.
    #[default]
    Production,
    /// A rehearsal.
    Staging,
    /// Development.
    Development,
}

/// A session's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The platform's own name for the end user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_id: Option<String>,
    /// Where it stands.
    pub status: SessionStatus,
    /// What it is used for.
    pub environment: SessionEnvironment,
    /// The platform's own notes.
    pub metadata: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub paused_at_ms: Option<i64>,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub terminated_at_ms: Option<i64>,
    /// Its tokens are good while this is the epoch they were minted in.
    #[serde(default)]
    pub token_epoch: u64,
    /// Changes with every write, for optimistic locking.
    pub revision: u64,
}

/// A session to be made.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    /// The platform's own name for the end user.
    pub user: Option<UserId>,
    /// What it is used for.
    pub environment: SessionEnvironment,
    /// The platform's own notes.
    pub metadata: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
}

/// What is to change in a session; absent parts stay.
#[derive(Clone, Debug, Default)]
pub struct SessionChanges {
    /// New limits, replacing the old.
    pub limits: Option<Limits>,
    /// Single limits, in what is there when the change happens.
    pub single_limits: LimitChanges,
    /// New metadata, replacing the old.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Which sessions to list.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Only in this status.
    pub status: Option<SessionStatus>,
    /// Only of this user.
    pub user: Option<UserId>,
    /// Only made after this, Unix milliseconds.
    pub created_after_ms: Option<i64>,
}

impl SessionChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.limits.is_none() && self.single_limits.is_empty() && self.metadata.is_none()
    }
}

impl SessionStatus {
    /// The name on the wire and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Terminated => "terminated",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Active, Self::Paused, Self::Terminated].into_iter().find(|status| status.as_str() == name)
    }
}

/// Holds while a session is exactly as it was read, and active.
pub(crate) fn unchanged_and_active(session: &Session) -> Expression {
    Expression::new("#s = :active AND revision = :revision")
        .name("#s", "status")
        .value(":active", AttributeValue::S("active".into()))
        .value(":revision", number(session.revision))
}

/// Holds while a session has those limits.
///
/// # Errors
/// [`StoreError::Corrupt`] for what is no row.
pub(crate) fn has_limits(limits: &Limits) -> Result<Expression, StoreError> {
    let limits = serde_dynamo::to_attribute_value(limits).map_err(|_| StoreError::Corrupt("limits"))?;
    Ok(Expression::new("#l = :limits").name("#l", "limits").value(":limits", limits))
}

/// Holds while a session has that revision.
pub(super) fn unchanged(revision: u64) -> Expression {
    Expression::new("revision = :revision").value(":revision", number(revision))
}

/// Holds while a session is paused.
pub(crate) fn is_paused() -> Expression {
    Expression::new("#s = :paused").name("#s", "status").value(":paused", AttributeValue::S("paused".into()))
}
