//! Rotating one platform's key.

use super::reseal::{Resealer, Tally};
use super::state::{PlatformNote, WalkCursor, WalkPart, platform_notes, platform_sort_key};
use crate::audit::Deed;
use crate::page::RowFilter;
use crate::platforms::{DELETED_AT, PlatformRow, PreviousSalt};
use crate::secrets::same_key;
use crate::table::{Item, number};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{
    Agent, AuditAction, KeyRing, Page, PageRequest, Position, SessionFilter, SessionStatus, Sessions, StoreError, Table,
};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::time::Duration;
use theazo_tenancy::{Mode, Operator, Partition, PlatformId, TableKey, make_random_bytes};

const ATTEMPTS: u32 = 10;
/// Partitions that are read at a time.
const AT_ONCE: usize = 16;
/// Sessions or agents whose values are looked at before the walk asks itself whether the piece is long enough.
const STRIDE: usize = 25;
/// What ends one piece of a walk, whichever comes first: this many partitions, or rows that were not as they should be.
const PARTITIONS: usize = 200;
const ROWS: u64 = 200;

/// Rotating platforms' keys. For the operator's command line and the scheduled upkeep.
pub struct PlatformRotation {
    table: Table,
    keys: KeyRing,
    resealer: Resealer,
}

/// What a piece of a walk over a platform's values came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlatformWalk {
    /// Values that this piece sealed anew.
    pub resealed: u64,
    /// Values that do not open where they lie, of the whole walk so far. They were left alone.
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
            if !row.vault_previous.is_empty() {
                let (note, unchanged) = self.note(&row).await?;
                // The note is written again in any case: whatever has become of it, upkeep goes on.
                let noted = Transaction::default()
                    .check(&self.table, &self.platform_key(platform), same_key(&row))
                    .put(&self.table, &self.note_key(platform), &note, unchanged)?;
                match noted.commit(&self.table).await? {
                    Committed::Yes => return Ok(row.vault_key_version),
                    Committed::Refused { .. } => back_off(attempt).await,
                }
                continue;
            }
            let version = row.vault_key_version.checked_add(1);
            let version = version.ok_or(StoreError::Conflict("there are no versions left"))?;
            let note = PlatformNote::new(platform, version);
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

    /// The platforms whose key is being rotated, the one first that was longest left alone. Those whose last walk found
    /// only values that do not open are left out for a while: nothing changes there until somebody looks.
    ///
    /// # Errors
    /// [`StoreError::Table`].
    pub async fn unfinished(&self, now_ms: i64, leave_alone: Duration) -> Result<Vec<PlatformId>, StoreError> {
        let leave_alone_ms = i64::try_from(leave_alone.as_millis()).unwrap_or(i64::MAX);
        let mut notes = platform_notes(&self.keys).await?;
        notes.retain(|note| {
            let rested = note.walked_at_ms.is_none_or(|at| at > now_ms || now_ms - at >= leave_alone_ms);
            !note.is_stuck() || rested
        });
        notes.sort_by_key(|note| note.touched_at_ms);
        Ok(notes.into_iter().map(|note| note.platform).collect())
    }

    /// Walks on over a platform's values, one bounded piece, and seals those anew that are not under its present key.
    /// When a whole walk has found none, the old key is forgotten and the rotation over.
    ///
    /// Where the walk goes on and what it has counted is noted beside the root keys. Who can edit that note can have the
    /// old key forgotten too early, and could as well remove its salt from the platform's row.
    ///
    /// # Errors
    /// [`StoreError::Kms`], [`StoreError::Table`] when a service refuses; the piece is done again.
    pub async fn walk(&self, platform: &PlatformId, now_ms: i64) -> Result<PlatformWalk, StoreError> {
        let row = self.resealer.platform(platform).await?.filter(|row| !row.vault_previous.is_empty());
        let Some(row) = row else {
            // It is over, or the platform was deleted meanwhile with everything that it had.
            self.table.delete(&self.note_key(platform)).await?;
            return Ok(PlatformWalk { finished: true, ..PlatformWalk::default() });
        };
        let root_version = self.keys.active().await?.version();
        let (mut note, unchanged) = self.note(&row).await?;
        let mut tally = Tally::default();
        let (mut at, mut partitions) = (note.begin_or_go_on(), 0);
        let next = loop {
            let (next, looked_at) = self.stride(platform, at, root_version, &mut tally).await?;
            partitions += looked_at;
            match next {
                Some(next) if partitions < PARTITIONS && tally.found + tally.unopened < ROWS => at = next,
                next => break next,
            }
        };
        note.add(&tally, next, now_ms);
        let finished = note.is_clean() && self.finish(&row).await?;
        if !finished {
            self.keep(&row, &note, unchanged).await?;
        }
        let stuck = note.is_stuck();
        Ok(PlatformWalk {
            resealed: tally.resealed,
            unopened: note.unopened,
            unopened_places: note.places,
            finished,
            stuck,
        })
    }

    /// A stride of a walk: where the next one begins, if there is one, and how many partitions this one looked at.
    async fn stride(
        &self,
        platform: &PlatformId,
        WalkCursor { test, part, after }: WalkCursor,
        root_version: u32,
        tally: &mut Tally,
    ) -> Result<(Option<WalkCursor>, usize), StoreError> {
        let scope = self.resealer.operator.tenant(platform, if test { Mode::Test } else { Mode::Live });
        let request = PageRequest { limit: STRIDE, after: after.map(Position) };
        let (partitions, more, then): (Vec<Partition>, _, _) = match part {
            WalkPart::Platform => (vec![scope.secret_values()?], None, Some((test, WalkPart::Sessions))),
            WalkPart::Sessions => {
                let sessions = Sessions::new(self.table.clone());
                let page = sessions.list(&scope, &SessionFilter::default(), &request).await?;
                // What is left of a terminated session is about to be removed, and is never opened.
                let alive = page.rows.iter().filter(|session| session.status != SessionStatus::Terminated);
                let values = alive.filter_map(|session| Some(scope.session(&session.id)?.secret_values()));
                (values.collect(), page.next, Some((test, WalkPart::Agents)))
            }
            WalkPart::Agents => {
                let page: Page<Agent> =
                    self.table.page(&scope.platform_wide()?.live_agents(), &request, RowFilter::default()).await?;
                let copies = page.rows.iter().map(|agent| scope.agent_copies(&agent.id));
                (copies.collect::<Result<_, _>>()?, page.next, (!test).then_some((true, WalkPart::Platform)))
            }
        };
        let looked_at = partitions.len();
        tally.add(self.reseal_all(partitions, root_version).await?);
        let next = match more {
            Some(Position(after)) => Some(WalkCursor { test, part, after: Some(after) }),
            None => then.map(|(test, part)| WalkCursor { test, part, after: None }),
        };
        Ok((next, looked_at))
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

    /// The note of a rotation that is under way, and what holds while nobody else has written it.
    async fn note(&self, row: &PlatformRow) -> Result<(PlatformNote, Expression), StoreError> {
        let item = self.table.get_raw(&self.note_key(&row.id)).await?;
        Ok(PlatformNote::go_on(item, &row.id, row.vault_key_version))
    }

    /// Keeps what a piece came to, unless somebody else has gone on meanwhile, or it is over.
    async fn keep(&self, row: &PlatformRow, note: &PlatformNote, unchanged: Expression) -> Result<(), StoreError> {
        let under_way = "vault_key_version = :version AND vault_salt = :salt AND attribute_exists(vault_previous)";
        let under_way = Expression::new(under_way)
            .value(":version", number(row.vault_key_version))
            .value(":salt", AttributeValue::S(hex::encode(row.vault_salt)));
        let transaction = Transaction::default().check(&self.table, &self.platform_key(&row.id), under_way).put(
            &self.table,
            &self.note_key(&row.id),
            note,
            unchanged,
        )?;
        let (Committed::Yes | Committed::Refused { .. }) = transaction.commit(&self.table).await?;
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
