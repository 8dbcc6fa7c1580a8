//! Rotating one platform's key.

use super::reseal::{Resealer, Tally};
use super::state::{PlatformNote, RootState, platform_sort_key};
use crate::audit::Deed;
use crate::platforms::{DELETED_AT, PlatformRow, PreviousSalt};
use crate::secrets::same_key;
use crate::table::{Item, number};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{Agents, AuditAction, KeyRing, PageRequest, SessionFilter, SessionStatus, Sessions, StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::time::Duration;
use theazo_tenancy::{Mode, Operator, Partition, PlatformId, TableKey, make_random_bytes};

const ATTEMPTS: u32 = 10;
/// Partitions that are read at a time.
const AT_ONCE: usize = 16;

/// Rotating platforms' keys. For the operator's command line and the scheduled upkeep.
pub struct PlatformRotation {
    table: Table,
    keys: KeyRing,
    resealer: Resealer,
}

/// What a walk over a platform's values came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlatformWalk {
    /// Values that were sealed anew.
    pub resealed: u64,
    /// Values that do not open where they lie. They were left alone.
    pub unopened: u64,
    /// Where some of those lie: partition and sort key.
    pub unopened_places: Vec<String>,
    /// Whether the rotation is over: no value needs the old key, and it is forgotten.
    pub finished: bool,
    /// Whether only values that do not open name the old key, so that walking again does not help.
    pub stuck: bool,
}

impl PlatformRotation {
    /// Over that table, with those keys.
    pub fn new(table: Table, keys: KeyRing, operator: Operator) -> Self {
        let resealer = Resealer { table: table.clone(), keys: keys.clone(), operator };
        Self { table, keys, resealer }
    }

    /// Gives a platform a new key, or goes on with a rotation that is under way; its version. Everything that is
    /// written from then on is sealed under it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such platform, or it is being deleted.
    pub async fn begin(&self, platform: &PlatformId) -> Result<u32, StoreError> {
        for attempt in 0..ATTEMPTS {
            let row = self.resealer.platform(platform).await?.ok_or(StoreError::NotFound)?;
            let note = PlatformNote { platform: platform.clone(), walked_at_ms: None, unopened: 0, places: Vec::new() };
            if !row.vault_previous.is_empty() {
                // The note is written again in any case: whatever has become of it, upkeep goes on.
                let noted = Transaction::default()
                    .check(&self.table, &self.platform_key(platform), same_key(&row))
                    .put(&self.table, &self.note_key(platform), &note, Expression::default())?;
                match noted.commit(&self.table).await? {
                    Committed::Yes => return Ok(row.vault_key_version),
                    Committed::Refused { .. } => back_off(attempt).await,
                }
                continue;
            }
            let version = row.vault_key_version.checked_add(1);
            let version = version.ok_or(StoreError::Conflict("there are no versions left"))?;
            let previous = [PreviousSalt { version: row.vault_key_version, salt: row.vault_salt }];
            let update =
                Expression::new("SET vault_salt = :new, vault_key_version = :next, vault_previous = :previous")
                    .value(":new", AttributeValue::S(hex::encode(make_random_bytes::<32>())))
                    .value(":next", number(version))
                    .value(":previous", to_value(&previous)?)
                    .name("#deleted", DELETED_AT)
                    .value(":version", number(row.vault_key_version))
                    .value(":salt", AttributeValue::S(hex::encode(row.vault_salt)));
            let unchanged = "vault_key_version = :version AND vault_salt = :salt AND attribute_not_exists(#deleted)";
            let scope = self.resealer.operator.tenant(platform, Mode::Live);
            let transaction = Transaction::default()
                .update(&self.table, &self.platform_key(platform), update, unchanged)
                .put(&self.table, &self.note_key(platform), &note, Expression::default())?
                .audit(&self.table, &scope, Deed::done(AuditAction::PlatformRotate))?;
            match transaction.commit(&self.table).await? {
                Committed::Yes => return Ok(version),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// The platforms whose key is being rotated. Those whose last walk found only values that do not open are left out
    /// for a while: nothing changes there until somebody looks.
    ///
    /// # Errors
    /// [`StoreError::Table`].
    pub async fn unfinished(&self, now_ms: i64, leave_alone: Duration) -> Result<Vec<PlatformId>, StoreError> {
        let leave_alone_ms = i64::try_from(leave_alone.as_millis()).unwrap_or(i64::MAX);
        let state = RootState::load(&self.keys).await?;
        let is_due = |note: &PlatformNote| {
            let rested = note.walked_at_ms.is_none_or(|at| at > now_ms || now_ms - at >= leave_alone_ms);
            note.unopened == 0 || rested
        };
        Ok(state.platforms.into_iter().filter(is_due).map(|note| note.platform).collect())
    }

    /// Walks over all of a platform's values and seals those anew that are not under its present key. When there are
    /// none, the old key is forgotten and the rotation over. Nothing of a walk is remembered but that it took place: an
    /// interrupted one begins again, and nobody can make it end early.
    ///
    /// # Errors
    /// [`StoreError::Kms`], [`StoreError::Table`] when a service refuses.
    pub async fn walk(&self, platform: &PlatformId, now_ms: i64) -> Result<PlatformWalk, StoreError> {
        let Some(row) = self.resealer.platform(platform).await? else {
            // Deleted meanwhile, with everything that it had.
            self.table.delete(&self.note_key(platform)).await?;
            return Ok(PlatformWalk { finished: true, ..PlatformWalk::default() });
        };
        if row.vault_previous.is_empty() {
            self.table.delete(&self.note_key(platform)).await?;
            return Ok(PlatformWalk { finished: true, ..PlatformWalk::default() });
        }
        let root_version = self.keys.active().await?.version();
        let mut tally = Tally::default();
        for mode in [Mode::Live, Mode::Test] {
            self.walk_mode(platform, mode, root_version, &mut tally).await?;
        }
        let clean = tally.found == 0 && tally.unopened_on_previous == 0;
        let finished = if clean {
            self.finish(&row).await?
        } else {
            self.note_walk(&row, now_ms, &tally).await?;
            false
        };
        let stuck = tally.found == 0 && tally.unopened_on_previous > 0;
        let Tally { resealed, unopened, places, .. } = tally;
        Ok(PlatformWalk { resealed, unopened, unopened_places: places, finished, stuck })
    }

    async fn walk_mode(
        &self,
        platform: &PlatformId,
        mode: Mode,
        root_version: u32,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let scope = self.resealer.operator.tenant(platform, mode);
        tally.add(self.reseal_all(vec![scope.secret_values()], root_version).await?);
        let sessions = Sessions::new(self.table.clone());
        let mut request = PageRequest { limit: 100, after: None };
        loop {
            let page = sessions.list(&scope, &SessionFilter::default(), &request).await?;
            // What is left of a terminated session is about to be removed, and is never opened.
            let alive = page.rows.iter().filter(|session| session.status != SessionStatus::Terminated);
            let partitions = alive.filter_map(|session| Some(scope.session(&session.id)?.secret_values()));
            tally.add(self.reseal_all(partitions.collect(), root_version).await?);
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        let agents = Agents::new(self.table.clone()).unsettled_of_platform(&scope).await?;
        let copies = agents.iter().map(|agent| scope.agent_copies(&agent.id)).collect();
        tally.add(self.reseal_all(copies, root_version).await?);
        Ok(())
    }

    async fn reseal_all(&self, partitions: Vec<Partition>, root_version: u32) -> Result<Tally, StoreError> {
        let tallies = partitions.into_iter().map(|partition| async move {
            let rows: Vec<Item> = self.table.query_all(&partition).await?;
            self.resealer.reseal(rows, root_version).await
        });
        let mut tallies = stream::iter(tallies).buffer_unordered(AT_ONCE);
        let mut sum = Tally::default();
        while let Some(tally) = tallies.try_next().await? {
            sum.add(tally);
        }
        Ok(sum)
    }

    /// Forgets the old salts, if they and the present key are still what the walk went by.
    async fn finish(&self, row: &PlatformRow) -> Result<bool, StoreError> {
        let update = Expression::new("REMOVE vault_previous")
            .value(":version", number(row.vault_key_version))
            .value(":salt", AttributeValue::S(hex::encode(row.vault_salt)))
            .value(":previous", to_value(&row.vault_previous)?);
        let unchanged = "vault_key_version = :version AND vault_salt = :salt AND vault_previous = :previous";
        let transaction = Transaction::default()
            .update(&self.table, &self.platform_key(&row.id), update, unchanged)
            .delete(&self.table, &self.note_key(&row.id), Expression::default());
        Ok(matches!(transaction.commit(&self.table).await?, Committed::Yes))
    }

    async fn note_walk(&self, row: &PlatformRow, now_ms: i64, tally: &Tally) -> Result<(), StoreError> {
        // Only when nothing but those is left is it of use to wait.
        let unopened = if tally.found == 0 { tally.unopened } else { 0 };
        let note = PlatformNote {
            platform: row.id.clone(),
            walked_at_ms: Some(now_ms),
            unopened,
            places: tally.places.clone(),
        };
        let transaction = Transaction::default().check(&self.table, &self.platform_key(&row.id), same_key(row)).put(
            &self.table,
            &self.note_key(&row.id),
            &note,
            Expression::new("attribute_exists(pk)"),
        )?;
        // Refused: it is over, or somebody else's already.
        let _ = transaction.commit(&self.table).await?;
        Ok(())
    }

    fn platform_key(&self, platform: &PlatformId) -> TableKey {
        self.resealer.operator.platform_key(platform)
    }

    fn note_key(&self, platform: &PlatformId) -> TableKey {
        self.resealer.operator.root_keys().row(&platform_sort_key(platform))
    }
}

fn to_value(salts: &[PreviousSalt]) -> Result<AttributeValue, StoreError> {
    serde_dynamo::to_attribute_value(salts).map_err(|_| StoreError::Corrupt("a row to be written"))
}
