//! The ledger of deletions: a small table outside the data table's backups. A deletion is noted in it by the very
//! transaction that deletes, so that a data table that was put back to an earlier moment can be told what has gone
//! since.
//!
//! A row says that a thing was deleted up to some version or moment; it holds no value. There is one row for each thing,
//! however often it was deleted.

use crate::error::table_error;
use crate::table::{Item, TTL, from_item, number, to_item, ttl_seconds};
use crate::transaction::{Expression, Transaction};
use crate::{SecretTarget, StoreError, Table, now_ms};
use serde::{Deserialize, Serialize};
use std::fmt;
use theazo_tenancy::{KeyId, Mode, Operator, PlatformId, SessionId, TenantScope};

/// How long a deletion is remembered, milliseconds: 400 days, which is longer than any backup should be kept.
const RETENTION_MS: i64 = 400 * 24 * 60 * 60 * 1000;

/// A thing that was deleted, or a credential that was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Deleted {
    /// A secret: every value of that name up to this version.
    Secret {
        /// The session it was of; absent for the platform's own.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        session: Option<SessionId>,
        /// Canonical name.
        name: String,
        /// The highest version that was deleted.
        version: u64,
    },
    /// A terminated session: all its secrets and agents.
    Session {
        /// Which.
        session: SessionId,
    },
    /// A session's tokens: all that were minted in an earlier epoch than this one.
    Tokens {
        /// The session.
        session: SessionId,
        /// The first epoch whose tokens are good.
        epoch: u64,
    },
    /// A revoked API key.
    Key {
        /// Which.
        key: KeyId,
    },
    /// An API key that was given a successor.
    Rotated {
        /// Which.
        key: KeyId,
        /// When it ends, Unix milliseconds.
        ends_at_ms: i64,
    },
    /// The whole platform.
    Platform,
}

/// A row of the ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LedgerRow {
    #[serde(flatten)]
    pub(crate) deleted: Deleted,
    pub(crate) at_ms: i64,
}

/// A row of the ledger, with whose it is.
pub(crate) struct Noted {
    pub(crate) platform: PlatformId,
    pub(crate) mode: Mode,
    pub(crate) row: LedgerRow,
}

/// Some rows of the ledger.
pub(crate) struct LedgerPage {
    pub(crate) rows: Vec<Noted>,
    /// Keys of rows that say nothing we understand.
    pub(crate) unreadable: Vec<String>,
    /// Where to go on.
    pub(crate) next: Option<Item>,
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.platform, self.mode.as_str(), self.row.deleted.sort_key())
    }
}

impl Deleted {
    pub(crate) fn secret(target: &SecretTarget, name: &str, version: u64) -> Self {
        let session = match target {
            SecretTarget::Platform => None,
            SecretTarget::Session(id) => Some(id.clone()),
        };
        Self::Secret { session, name: name.to_owned(), version }
    }

    fn sort_key(&self) -> String {
        match self {
            Self::Secret { session: None, name, .. } => format!("secret#platform#{name}"),
            Self::Secret { session: Some(session), name, .. } => format!("secret#{session}#{name}"),
            Self::Session { session } => format!("session#{session}"),
            Self::Tokens { session, .. } => format!("tokens#{session}"),
            Self::Key { key } => format!("key#{key}"),
            Self::Rotated { key, .. } => format!("rotated#{key}"),
            Self::Platform => "platform".into(),
        }
    }
}

impl Transaction {
    /// Notes a deletion in the ledger's table.
    pub(crate) fn note_deletion(
        self,
        table: &Table,
        scope: &TenantScope,
        deleted: Deleted,
    ) -> Result<Self, StoreError> {
        let row = LedgerRow { deleted, at_ms: now_ms() };
        let mut item = to_item(&scope.ledger().row(&row.deleted.sort_key()), &row)?;
        item.insert(TTL.into(), number(ttl_seconds(row.at_ms.saturating_add(RETENTION_MS))));
        Ok(self.put_item(&table.ledger(), item, Expression::default()))
    }
}

impl Table {
    /// A page of the whole ledger, of all platforms.
    pub(crate) async fn ledger_page(&self, operator: &Operator, start: Option<Item>) -> Result<LedgerPage, StoreError> {
        let answer = self
            .client
            .scan()
            .table_name(&self.ledger().name)
            .consistent_read(true)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(table_error("Scan"))?;
        let mut page = LedgerPage { rows: Vec::new(), unreadable: Vec::new(), next: answer.last_evaluated_key };
        for item in answer.items.unwrap_or_default() {
            let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default();
            let (pk, sk) = (text("pk"), text("sk"));
            match (operator.parse_ledger(&pk), from_item(item)) {
                (Some((platform, mode)), Ok(row)) => page.rows.push(Noted { platform, mode, row }),
                _ => page.unreadable.push(format!("{pk} {sk}")),
            }
        }
        Ok(page)
    }
}
