//! Log entries: what happened to sessions and agents, for the platform's developers.
//!
//! An entry is two rows, one for its session and one for its platform, each in the partition of its day; a platform's
//! day is spread over a few partitions. Both rows have the entry's id as their sort key, and the id tells the moment:
//! the order of ids is the order of every list and every stream. Entries expire by the deployment's retention, and
//! nobody is shown one that has expired.
//!
//! What a change of state says is written in the transaction of the change ([`Transaction::log`]); everything else by a
//! [`LogWriter`]. [`Logs`] reads pages, [`LogTail`] follows.

mod places;
mod reader;
mod tail;
mod writer;

pub(crate) use places::Place as LogPlace;
pub use reader::{LogFilter, Logs};
pub use tail::{LATE_MS, LogTail, SETTLE_MS, Tailed};
pub use writer::{LogQueue, LogWriter, Pending};

use self::places::Day;
use crate::table::{Item, TTL, number, to_item, ttl_seconds};
use crate::transaction::{Expression, Transaction};
use crate::{Agent, Session, StoreError, Table, now_ms};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Mutex;
use theazo_tenancy::{AgentId, LogId, SessionId, TableKey, TenantScope};

/// Longest message, bytes; what is longer is cut.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// Largest metadata as JSON text, bytes; what is larger is replaced by a note that says so.
pub const MAX_METADATA_BYTES: usize = 8 * 1024;

/// What a cut message ends with.
const CUT: &str = "… [cut]";

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For whoever looks for a mistake.
    Debug,
    /// As it should be.
    Info,
    /// Someone may want to know.
    Warn,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// The name on the wire and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// The level of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Debug, Self::Info, Self::Warn, Self::Error].into_iter().find(|level| level.as_str() == name)
    }
}

/// Who says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// What runs inside a sandbox, and what was run there.
    Agent,
    /// We.
    System,
    /// A compute provider.
    Provider,
    /// A model, as reported from inside a sandbox.
    Model,
}

/// An entry. Whatever of it came out of a sandbox was masked before it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its id, which sorts by time.
    pub id: LogId,
    /// When it was written, Unix milliseconds, by the writer's clock; the moment of its id.
    pub at_ms: i64,
    /// How grave it is.
    pub level: LogLevel,
    /// Who says it.
    pub source: LogSource,
    /// The session it is about.
    pub session: SessionId,
    /// The agent it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<AgentId>,
    /// The session's user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_id: Option<String>,
    /// The agent's provider.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider: Option<String>,
    /// What happened.
    pub message: String,
    /// Details, a JSON object as text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metadata: Option<String>,
    /// The trace of the request that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace: Option<String>,
}

/// An entry to be written. Id, moment and trace are added when it is.
#[derive(Clone, Debug)]
pub struct NewLog {
    level: LogLevel,
    source: LogSource,
    session: SessionId,
    agent: Option<AgentId>,
    user_id: Option<String>,
    provider: Option<String>,
    message: String,
    metadata: Option<String>,
}

impl NewLog {
    /// About a session. The message is cut at [`MAX_MESSAGE_BYTES`]; it must not hold a secret's value.
    pub fn of_session(session: &Session, level: LogLevel, source: LogSource, message: impl Into<String>) -> Self {
        Self {
            level,
            source,
            session: session.id.clone(),
            agent: None,
            user_id: session.user_id.clone(),
            provider: None,
            message: bounded(message.into()),
            metadata: None,
        }
    }

    /// About an agent, likewise.
    pub fn of_agent(agent: &Agent, level: LogLevel, source: LogSource, message: impl Into<String>) -> Self {
        Self {
            level,
            source,
            session: agent.session.clone(),
            agent: Some(agent.id.clone()),
            user_id: agent.user_id.clone(),
            provider: Some(agent.provider.clone()),
            message: bounded(message.into()),
            metadata: None,
        }
    }

    /// With details: a JSON object of at most [`MAX_METADATA_BYTES`] as text. It must not hold a secret's value either.
    #[must_use]
    pub fn metadata(self, details: &Value) -> Self {
        let text = details.to_string();
        let metadata = match text.len() {
            0..=MAX_METADATA_BYTES => text,
            bytes => serde_json::json!({ "omitted": "too large", "bytes": bytes }).to_string(),
        };
        Self { metadata: Some(metadata), ..self }
    }

    fn into_entry(self, id: LogId, scope: &TenantScope) -> LogEntry {
        let Self { level, source, session, agent, user_id, provider, message, metadata } = self;
        let trace = scope.actor().origin.as_ref().and_then(|origin| origin.trace.clone());
        let at_ms = id.at_ms();
        LogEntry { id, at_ms, level, source, session, agent, user_id, provider, message, metadata, trace }
    }
}

fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES - CUT.len()).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
        message.push_str(CUT);
    }
    message
}

/// How far this process's ids may run ahead of a clock that was set back, milliseconds. Beyond that they follow it.
const CLOCK_SET_BACK_MS: i64 = 1000;

/// The next id of this process: later than all it made before, also within one millisecond, so that lines stay in the
/// order in which they were written.
fn next_id(now_ms: i64) -> LogId {
    static LAST: Mutex<Option<LogId>> = Mutex::new(None);
    let fresh = LogId::make_at(now_ms);
    let Ok(mut last) = LAST.lock() else { return fresh };
    let id = match &*last {
        Some(last) if *last >= fresh && last.at_ms() - now_ms <= CLOCK_SET_BACK_MS => last.successor(),
        _ => fresh,
    };
    *last = Some(id.clone());
    id
}

/// An entry's two rows.
fn rows_of(table: &Table, scope: &TenantScope, entry: &LogEntry) -> Result<[Item; 2], StoreError> {
    let day = Day::of(entry.at_ms).to_string();
    let ttl = number(ttl_seconds(entry.at_ms.saturating_add(table.log_retention_ms)));
    let [own, shard] = scope.log_keys(&entry.session, &day, &entry.id).ok_or(StoreError::NotFound)?;
    let row = |key: &TableKey| {
        let mut item = to_item(key, entry)?;
        item.insert(TTL.into(), ttl.clone());
        Ok::<_, StoreError>(item)
    };
    Ok([row(&own)?, row(&shard)?])
}

impl Transaction {
    /// Adds entries about what the transaction does. They can refuse nothing; added last, they leave the indices of the
    /// other writes as they are.
    pub(crate) fn log(
        mut self,
        table: &Table,
        scope: &TenantScope,
        entries: impl IntoIterator<Item = NewLog>,
    ) -> Result<Self, StoreError> {
        for entry in entries {
            let entry = entry.into_entry(next_id(now_ms()), scope);
            for row in rows_of(table, scope, &entry)? {
                self = self.put_item(table, row, Expression::default());
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters_and_says_so() {
        assert_eq!(bounded("x".repeat(MAX_MESSAGE_BYTES)).len(), MAX_MESSAGE_BYTES);
        for letter in ["x", "\u{fc}", "\u{20ac}", "\u{1f600}"] {
            let cut = bounded(letter.repeat(MAX_MESSAGE_BYTES + 1));
            assert!(cut.len() <= MAX_MESSAGE_BYTES && cut.len() > MAX_MESSAGE_BYTES - 8, "{letter}");
            assert!(cut.strip_suffix(CUT).is_some_and(|kept| kept.replace(letter, "").is_empty()), "{letter}");
        }
    }

    #[test]
    fn ids_of_one_process_are_in_the_order_in_which_they_were_made_whatever_its_clock_does() {
        let start = now_ms() + 60_000;
        let ids: Vec<LogId> = (0..1000).map(|n| next_id(start - n / 10)).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
        // After a larger step back they follow the clock.
        assert_eq!(next_id(start - 30_000).at_ms(), start - 30_000);
    }
}
