//! Rotating the root key, step by step.

use super::reseal::{BLOB, MAX_PLACES, Resealer, Tally};
use super::state::{Cursor, PlatformNote, RootState, Stage};
use crate::error::table_error;
use crate::root_keys::Slot;
use crate::table::Item;
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{KeyRing, StoreError, Table};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use theazo_tenancy::{Operator, PlatformId};

const ATTEMPTS: u32 = 10;
/// Rows that one page of the scan reads at most, whether they hold sealed values or not.
const PAGE: i32 = 250;
/// What ends one piece of work, whichever comes first: this many pages, or rows that were not current.
const PAGES: usize = 10;
const ROWS: u64 = 200;
/// The first bytes of a record that this version writes: format and suite.
const RECORD_START: [u8; 2] = [1, 1];

/// Rotating the root key. For the operator's command line and the scheduled upkeep.
pub struct RootRotation {
    pub(super) keys: KeyRing,
    pub(super) resealer: Resealer,
    pub(super) life_ms: i64,
}

/// How far a rotation of the root key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "phase", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RootProgress {
    /// None is under way.
    Idle,
    /// The new version is there and not in use.
    Published {
        /// The new version.
        version: u32,
        /// When it may become the active one, Unix milliseconds.
        switch_at_ms: i64,
    },
    /// The new version is the active one; someone may still be sealing with the old one.
    Switched {
        /// The new version.
        version: u32,
        /// When sealing anew may begin, Unix milliseconds.
        reseal_at_ms: i64,
    },
    /// Values are being sealed anew. There is more to do at once.
    Resealing {
        /// The new version.
        version: u32,
        /// Values sealed anew so far.
        resealed: u64,
        /// Values that did not open, in this pass so far.
        unopened: u64,
    },
    /// This piece was the last one: but for those that do not open, every value is under the new version.
    Finished {
        /// The new version.
        version: u32,
        /// Values that were sealed anew.
        resealed: u64,
        /// Values that do not open where they lie. They were left alone.
        unopened: u64,
    },
}

/// The root keys as the operator sees them.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootStatus {
    /// How far a rotation is.
    pub rotation: RootProgress,
    /// The versions, oldest first.
    pub versions: Vec<VersionStatus>,
    /// Values that name a version which there is not, or whose record cannot be read at all.
    pub unreadable: u64,
    /// Values that the last pass could not open where they lie.
    pub unopened: u64,
    /// Where some of those lie: partition and sort key.
    pub unopened_places: Vec<String>,
    /// Platforms whose own key is being rotated.
    pub platforms: Vec<PlatformStatus>,
}

/// A rotation of a platform's key that is under way.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// Whose.
    pub platform: PlatformId,
    /// The version of its key that values are being sealed anew under.
    pub key_version: u32,
    /// Values that were sealed anew under it.
    pub resealed: u64,
    /// When the last piece was done, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub touched_at_ms: Option<i64>,
    /// When a walk over all its values ended last, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub walked_at_ms: Option<i64>,
    /// Values that did not open where they lie, of the walk that is under way or the last one.
    pub unopened: u64,
    /// Where some of those lie: partition and sort key.
    pub unopened_places: Vec<String>,
    /// Whether only such values are in the way of its end.
    pub stuck: bool,
}

impl From<PlatformNote> for PlatformStatus {
    fn from(note: PlatformNote) -> Self {
        Self {
            stuck: note.is_stuck(),
            platform: note.platform,
            key_version: note.key_version,
            resealed: note.resealed,
            touched_at_ms: note.touched_at_ms,
            walked_at_ms: note.walked_at_ms,
            unopened: note.unopened,
            unopened_places: note.places,
        }
    }
}

/// A version of the root key.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// Its number.
    pub version: u32,
    /// Whether values are sealed with it now.
    pub active: bool,
    /// When it was published, Unix milliseconds.
    pub created_at_ms: i64,
    /// When another version took its place, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_at_ms: Option<i64>,
    /// Values that lie sealed under it.
    pub values: u64,
}

/// Sealed values by the version that they name.
#[derive(Default)]
pub(super) struct Census {
    pub(super) by_version: BTreeMap<u32, u64>,
    pub(super) unreadable: u64,
}

impl RootRotation {
    /// Over the ring's table. `cache_life` is the longest that any instance keeps a key in memory: that of the ring
    /// itself, unless others are configured otherwise.
    pub fn new(table: Table, keys: KeyRing, operator: Operator, cache_life: Duration) -> Self {
        let life_ms = i64::try_from(cache_life.as_millis()).unwrap_or(i64::MAX);
        Self { resealer: Resealer { table, keys: keys.clone(), operator }, keys, life_ms }
    }

    /// Makes the deployment's first root key, if there is none and nothing was ever sealed. Whether it did. KMS opens the
    /// root key in any case, so that a wrong key or name is noticed.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when there are sealed values and no root key, which a new one must not take the place of;
    /// [`StoreError::Kms`], [`StoreError::Table`] when a service refuses.
    pub async fn init(&self) -> Result<bool, StoreError> {
        let is_missing = match RootState::load(&self.keys).await {
            Ok(_) => false,
            Err(StoreError::NoRootKey) => true,
            Err(error) => return Err(error),
        };
        if is_missing {
            let census = self.census().await?;
            if census.unreadable > 0 || !census.by_version.is_empty() {
                return Err(StoreError::Conflict("there are sealed values, and their root key is missing"));
            }
        }
        let made = self.keys.ensure_root_key().await?;
        self.keys.active().await?;
        Ok(made)
    }

    /// Begins a rotation, or goes on with the one that is under way.
    ///
    /// # Errors
    /// [`StoreError::Kms`] when KMS does not vouch for the active row or makes no key; [`StoreError::NoRootKey`].
    pub async fn begin(&self, now_ms: i64) -> Result<RootProgress, StoreError> {
        for attempt in 0..ATTEMPTS {
            let state = RootState::load(&self.keys).await?;
            if state.stage(now_ms, self.life_ms) != Stage::Idle {
                return Ok(self.progress(&state, now_ms));
            }
            let inner = self.keys.inner();
            inner.verify(&state.active).await?;
            let next = state.highest().checked_add(1).ok_or(StoreError::Conflict("there are no versions left"))?;
            let row = inner.generate(next, now_ms).await?;
            let transaction = Transaction::default()
                .check(inner.table(), &state.active.key(inner.partition()), state.active.unchanged())
                .put_item(inner.table(), row.item(inner.partition()), Expression::new("attribute_not_exists(pk)"));
            match transaction.commit(inner.table()).await? {
                Committed::Yes => tracing::info!(version = next, "a root key version was published"),
                // Someone else has begun.
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Does one bounded piece of what is to be done by now, if anything is.
    ///
    /// # Errors
    /// [`StoreError::Kms`], [`StoreError::Table`] when a service refuses; nothing is lost, and the piece is done again.
    pub async fn advance(&self, now_ms: i64) -> Result<RootProgress, StoreError> {
        let state = RootState::load(&self.keys).await?;
        match state.stage(now_ms, self.life_ms) {
            Stage::Published { version, switch_at_ms } if now_ms >= switch_at_ms => {
                self.switch(&state, version, now_ms).await
            }
            Stage::Resealing { .. } => self.reseal_some(&state, now_ms).await,
            _ => Ok(self.progress(&state, now_ms)),
        }
    }

    /// How far a rotation is, without doing anything.
    ///
    /// # Errors
    /// [`StoreError::Table`]; [`StoreError::NoRootKey`].
    pub async fn progressed(&self, now_ms: i64) -> Result<RootProgress, StoreError> {
        Ok(self.progress(&RootState::load(&self.keys).await?, now_ms))
    }

    /// The versions and how many values lie under each, counted in the whole table.
    ///
    /// # Errors
    /// [`StoreError::Table`]; [`StoreError::NoRootKey`].
    pub async fn status(&self, now_ms: i64) -> Result<RootStatus, StoreError> {
        let state = RootState::load(&self.keys).await?;
        let census = self.census().await?;
        let versions = state.versions.values().map(|row| VersionStatus {
            version: row.version,
            active: row.version == state.active.version,
            created_at_ms: row.created_at_ms,
            replaced_at_ms: (row.version < state.active.version).then(|| state.replaced_at_ms(row.version)),
            values: census.by_version.get(&row.version).copied().unwrap_or(0),
        });
        let missing = census.by_version.iter().filter(|(version, _)| !state.versions.contains_key(version));
        let work = state.work();
        Ok(RootStatus {
            rotation: self.progress(&state, now_ms),
            unreadable: census.unreadable + missing.map(|(_, count)| count).sum::<u64>(),
            unopened: work.map_or(0, |work| work.unopened),
            unopened_places: work.map(|work| work.places.clone()).unwrap_or_default(),
            platforms: state.platforms.iter().cloned().map(PlatformStatus::from).collect(),
            versions: versions.collect(),
        })
    }

    fn progress(&self, state: &RootState, now_ms: i64) -> RootProgress {
        match state.stage(now_ms, self.life_ms) {
            Stage::Idle => RootProgress::Idle,
            Stage::Published { version, switch_at_ms } => RootProgress::Published { version, switch_at_ms },
            Stage::Settling { version, reseal_at_ms } => RootProgress::Switched { version, reseal_at_ms },
            Stage::Resealing { version } => {
                let (resealed, unopened) = state.work().map_or((0, 0), |work| (work.resealed, work.unopened));
                RootProgress::Resealing { version, resealed, unopened }
            }
        }
    }

    /// Makes a published version the active one.
    async fn switch(&self, state: &RootState, version: u32, now_ms: i64) -> Result<RootProgress, StoreError> {
        let inner = self.keys.inner();
        let row = state.versions.get(&version).ok_or(StoreError::NoRootKey)?;
        inner.verify(&state.active).await?;
        let active = inner.rewrap(row, Slot::Active, now_ms).await?;
        let mut work = state.work_for(version);
        work.note_replaced(state.active.version, now_ms);
        let (work, unchanged) = state.put_work(&self.keys, work)?;
        let transaction = Transaction::default()
            .put_item(inner.table(), active.item(inner.partition()), state.active.unchanged())
            .check(inner.table(), &row.key(inner.partition()), row.unchanged())
            .put_item(inner.table(), work, unchanged);
        match transaction.commit(inner.table()).await? {
            Committed::Yes => tracing::info!(version, "a root key version became the active one"),
            // Someone else has switched, or is at it.
            Committed::Refused { .. } => {}
        }
        self.progressed(now_ms).await
    }

    async fn reseal_some(&self, state: &RootState, now_ms: i64) -> Result<RootProgress, StoreError> {
        let version = state.active.version;
        let mut work = state.work_for(version);
        if work.cursor().is_none() {
            // A pass begins: what it is for must be true.
            self.keys.inner().verify(&state.active).await?;
            work.begin_pass();
        }
        let mut tally = Tally::default();
        let mut cursor = work.cursor().cloned();
        for _ in 0..PAGES {
            let (items, next) = self.scan(cursor.as_ref(), version).await?;
            tally.add(self.resealer.reseal(items, version).await?);
            cursor = next;
            if cursor.is_none() || tally.found + tally.unopened >= ROWS {
                break;
            }
        }
        work.found += tally.found;
        work.resealed += tally.resealed;
        work.unopened += tally.unopened;
        work.places.extend(tally.places);
        work.places.truncate(MAX_PLACES);
        let is_done = cursor.is_none() && work.found == 0;
        if is_done {
            work.finished_at_ms = Some(now_ms);
            if work.unopened > 0 {
                tracing::warn!(
                    unopened = work.unopened,
                    "sealed values do not open where they lie and were left alone"
                );
            }
        }
        work.go_on_at(cursor);
        let (resealed, unopened) = (work.resealed, work.unopened);
        let (item, unchanged) = state.put_work(&self.keys, work)?;
        let inner = self.keys.inner();
        match Transaction::default().put_item(inner.table(), item, unchanged).commit(inner.table()).await? {
            Committed::Yes if is_done => Ok(RootProgress::Finished { version, resealed, unopened }),
            // Refused: someone else does the same, and is further.
            Committed::Yes | Committed::Refused { .. } => Ok(RootProgress::Resealing { version, resealed, unopened }),
        }
    }

    /// A page of the whole table: sealed values that are not under this version, and where the next page begins.
    async fn scan(&self, cursor: Option<&Cursor>, version: u32) -> Result<(Vec<Item>, Option<Cursor>), StoreError> {
        let mut current = RECORD_START.to_vec();
        current.extend_from_slice(&version.to_be_bytes());
        let start = cursor.map(|cursor| {
            Item::from([
                ("pk".to_owned(), AttributeValue::S(cursor.pk.clone())),
                ("sk".to_owned(), AttributeValue::S(cursor.sk.clone())),
            ])
        });
        let table = &self.resealer.table;
        let answer = table
            .client
            .scan()
            .table_name(&table.name)
            .consistent_read(true)
            .filter_expression("attribute_exists(#blob) AND NOT begins_with(#blob, :current)")
            .expression_attribute_names("#blob", BLOB)
            .expression_attribute_values(":current", AttributeValue::B(Blob::new(current)))
            .limit(PAGE)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(table_error("Scan"))?;
        let next = answer.last_evaluated_key.and_then(|key| {
            let text = |name: &str| key.get(name)?.as_s().ok().cloned();
            Some(Cursor { pk: text("pk")?, sk: text("sk")? })
        });
        Ok((answer.items.unwrap_or_default(), next))
    }

    /// Counts every sealed value of the table by the version that it names, strongly consistent.
    pub(super) async fn census(&self) -> Result<Census, StoreError> {
        let table = &self.resealer.table;
        let mut census = Census::default();
        let mut start = None;
        loop {
            let answer = table
                .client
                .scan()
                .table_name(&table.name)
                .consistent_read(true)
                .filter_expression("attribute_exists(#blob)")
                .projection_expression("#blob")
                .expression_attribute_names("#blob", BLOB)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(table_error("Scan"))?;
            for item in answer.items.unwrap_or_default() {
                match super::reseal::blob(&item).and_then(|blob| theazo_vault::RecordHeader::parse(blob).ok()) {
                    Some(header) => *census.by_version.entry(header.root_version).or_default() += 1,
                    None => census.unreadable += 1,
                }
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(census);
            }
        }
    }
}
