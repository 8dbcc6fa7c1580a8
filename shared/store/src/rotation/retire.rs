//! Retiring a version of the root key: the one step of a rotation that cannot be taken back in the table. Backups of the
//! table hold the version's wrapped row until their own time is over.

use super::root::RootRotation;
use super::state::{RootState, Stage};
use crate::StoreError;
use crate::transaction::{Committed, Transaction};
use std::time::Duration;

/// How long after the switch away from a version a backup may bring single values back into the table that were sealed
/// under it: the longest that DynamoDB's point-in-time recovery reaches back, 35 days
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/PointInTimeRecovery_Howitworks.html>).
pub const DEFAULT_BACKUP_WINDOW: Duration = Duration::from_secs(35 * 24 * 60 * 60);

/// What became of the wish to retire a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Retirement {
    /// It is gone from the table, where nothing was under it any more.
    Retired,
    /// There is no such version.
    Unknown,
    /// Values are sealed with it now.
    Active,
    /// A rotation is under way.
    UnderWay,
    /// So many values still name it.
    InUse(u64),
    /// Backups from when it was in use may still be kept, or a writer may still hold it, until then, Unix milliseconds.
    TooEarly(i64),
    /// The root keys changed while this was being found out.
    Changed,
}

impl RootRotation {
    /// Deletes a version from the table, when nothing can need it any more. `backup_window` is how long backups are kept; it
    /// counts as two cache lives at least.
    ///
    /// Everything it goes by is true at that moment: KMS vouches for the rows that say what is active since when, and
    /// the values are counted in the whole table. Nothing is taken from the rotation's own row but a later time.
    ///
    /// # Errors
    /// [`StoreError::Kms`] when KMS does not vouch for the rows; [`StoreError::Table`].
    pub async fn retire(&self, version: u32, backup_window: Duration, now_ms: i64) -> Result<Retirement, StoreError> {
        let state = RootState::load(&self.keys).await?;
        let Some(row) = state.versions.get(&version) else { return Ok(Retirement::Unknown) };
        let inner = self.keys.inner();
        inner.verify(&state.active).await?;
        if version == state.active.version {
            return Ok(Retirement::Active);
        }
        if state.stage(now_ms, self.life_ms) != Stage::Idle {
            return Ok(Retirement::UnderWay);
        }
        if let Some(successor) = state.successor(version) {
            inner.verify(successor).await?;
        }
        let window_ms = i64::try_from(backup_window.as_millis()).unwrap_or(i64::MAX);
        let window_ms = window_ms.max(self.life_ms.saturating_mul(2));
        let not_before_ms = state.replaced_at_ms(version).saturating_add(window_ms);
        if now_ms < not_before_ms {
            return Ok(Retirement::TooEarly(not_before_ms));
        }
        let left = self.census().await?.by_version.get(&version).copied().unwrap_or(0);
        let mut work = state.work_for(state.active.version);
        if left > 0 {
            // What can be sealed anew is, by a pass that begins now; the rest is counted by it again.
            let (item, unchanged) = state.put_work(&self.keys, work)?;
            let _ = Transaction::default().put_item(inner.table(), item, unchanged).commit(inner.table()).await?;
            return Ok(Retirement::InUse(left));
        }
        work.forget_replaced(version);
        work.finished_at_ms = Some(now_ms);
        let (work, unchanged) = state.put_work(&self.keys, work)?;
        let transaction = Transaction::default()
            .check(inner.table(), &state.active.key(inner.partition()), state.active.unchanged())
            .delete(inner.table(), &row.key(inner.partition()), row.unchanged())
            .put_item(inner.table(), work, unchanged);
        match transaction.commit(inner.table()).await? {
            Committed::Yes => {
                tracing::warn!(version, "a root key version was retired");
                Ok(Retirement::Retired)
            }
            Committed::Refused { .. } => Ok(Retirement::Changed),
        }
    }
}
