//! Answers to be given again: an exec that ended in a 5xx is repeated by clients that retry by themselves, and must
//! not run again for it.

use crate::table::{TTL, number, to_item, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction};
use crate::{StoreError, Table, now_ms};
use serde::{Deserialize, Serialize};
use theazo_tenancy::{ReadScope, TenantScope};

/// How long an answer is given again, milliseconds.
const LIFE_MS: i64 = 60_000;

/// Remembering answers for a minute.
#[derive(Clone)]
pub struct Replays(Table);

#[derive(Serialize, Deserialize)]
struct ReplayRow {
    answer: String,
    until_ms: i64,
}

impl Replays {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// The answer that a request of this digest was given within the last minute, if it is to be given again.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn recall(&self, scope: &ReadScope, digest: &[u8; 32]) -> Result<Option<String>, StoreError> {
        let row: Option<ReplayRow> = self.0.get(&scope.replays().row(&hex::encode(digest))).await?;
        Ok(row.filter(|row| now_ms() < row.until_ms).map(|row| row.answer))
    }

    /// Has an answer given again for a minute to requests of this digest.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn remember(&self, scope: &TenantScope, digest: &[u8; 32], answer: String) -> Result<(), StoreError> {
        let row = ReplayRow { answer, until_ms: now_ms() + LIFE_MS };
        let mut item = to_item(&scope.replays().row(&hex::encode(digest)), &row)?;
        item.insert(TTL.into(), number(ttl_seconds(row.until_ms)));
        let transaction = Transaction::default().put_item(&self.0, item, Expression::default());
        match transaction.commit(&self.0).await? {
            Committed::Yes | Committed::Refused { .. } => Ok(()),
        }
    }
}
