//! Where a rotation of the root key stands.
//!
//! It follows from the root keys' own rows, which KMS vouches for: a version above the active one has been published
//! and waits for the switch; the active row's own time is when the switch was. The rotation's row adds what is only
//! about work: how far sealing anew has come. Whoever edits it can make work be done twice or reported too early, and
//! nothing else; no version is retired on its word.

use super::reseal::{MAX_PLACES, Tally};
use crate::root_keys::{RootRow, Slot};
use crate::table::{Item, from_item, to_item};
use crate::transaction::Expression;
use crate::{KeyRing, StoreError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use theazo_tenancy::PlatformId;

pub(super) const ROTATION: &str = "rotation";
const VERSION: &str = "version#";
const PLATFORM: &str = "platform#";

/// The longest keys that DynamoDB takes, bytes: partition key, sort key.
const MAX_KEY: (usize, usize) = (2048, 1024);

/// The root keys' partition, as it was read.
pub(super) struct RootState {
    pub(super) active: RootRow,
    pub(super) versions: BTreeMap<u32, RootRow>,
    /// Platforms whose key is being rotated.
    pub(super) platforms: Vec<PlatformNote>,
    work: Option<WorkRow>,
    /// Holds while the rotation's row is the one that was read.
    unchanged: Expression,
}

/// The rotation's row.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct WorkRow {
    revision: u64,
    /// The version that rows are being sealed anew under.
    target: u32,
    /// Where the pass that is under way goes on; absent at its beginning.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cursor: Option<Cursor>,
    /// Of the pass that is under way, or of the last one.
    pub(super) found: u64,
    pub(super) unopened: u64,
    pub(super) places: Vec<String>,
    /// Of all passes under this version.
    pub(super) resealed: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) finished_at_ms: Option<i64>,
    /// When earlier versions were switched away from.
    replaced: Vec<Replaced>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) pk: String,
    pub(super) sk: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Replaced {
    version: u32,
    at_ms: i64,
}

/// A platform whose key is being rotated, noted for whoever goes on with what was abandoned.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct PlatformNote {
    pub(super) platform: PlatformId,
    #[serde(default)]
    revision: u64,
    /// The version of its key that rows are being sealed anew under.
    #[serde(default)]
    pub(super) key_version: u32,
    /// When somebody did the last piece.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) touched_at_ms: Option<i64>,
    /// When all its rows had been looked at last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) walked_at_ms: Option<i64>,
    /// Where the walk that is under way goes on; absent at its beginning.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cursor: Option<WalkCursor>,
    /// Of the walk that is under way, or of the last one.
    #[serde(default)]
    found: u64,
    #[serde(default)]
    unopened_on_previous: u64,
    pub(super) unopened: u64,
    pub(super) places: Vec<String>,
    /// Of all walks under this version.
    #[serde(default)]
    pub(super) resealed: u64,
}

/// Where a walk over a platform goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WalkCursor {
    /// Whether it is at what is of test keys; what is of live ones comes first.
    pub(super) test: bool,
    pub(super) part: WalkPart,
    /// The sort key of the part's last row that is done with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) after: Option<String>,
}

/// What holds sealed values, in a walk's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WalkPart {
    /// The platform itself.
    #[default]
    Platform,
    /// Its sessions.
    Sessions,
    /// Its agents.
    Agents,
}

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Idle,
    Published { version: u32, switch_at_ms: i64 },
    Settling { version: u32, reseal_at_ms: i64 },
    Resealing { version: u32 },
}

pub(super) fn platform_sort_key(platform: &PlatformId) -> String {
    format!("{PLATFORM}{platform}")
}

impl RootState {
    pub(super) async fn load(keys: &KeyRing) -> Result<Self, StoreError> {
        let inner = keys.inner();
        let items = inner.table().query_all(inner.partition()).await?;
        let (mut active, mut versions, mut platforms) = (None, BTreeMap::new(), Vec::new());
        let (mut work, mut unchanged) = (None, Expression::new("attribute_not_exists(pk)"));
        for item in items {
            let Some(sk) = item.get("sk").and_then(|sk| sk.as_s().ok()).cloned() else { continue };
            if sk == Slot::Active.sort_key() {
                active = Some(RootRow::parse(&item, Slot::Active, inner.kms_key_arn())?);
            } else if let Some(version) = sk.strip_prefix(VERSION) {
                let version = version.parse().map_err(|_| StoreError::Corrupt("a root key's row"))?;
                versions.insert(version, RootRow::parse(&item, Slot::Version(version), inner.kms_key_arn())?);
            } else if sk == ROTATION {
                unchanged = same_revision(&item);
                // One that cannot be read begins anew; it says nothing that work would not find out again.
                work = Some(from_item::<WorkRow>(item).unwrap_or_default());
            } else {
                platforms.extend(PlatformNote::parse(item));
            }
        }
        let active = active.ok_or(StoreError::NoRootKey)?;
        Ok(Self { active, versions, platforms, work, unchanged })
    }

    /// The highest version there is.
    pub(super) fn highest(&self) -> u32 {
        self.versions.keys().next_back().copied().unwrap_or(0).max(self.active.version)
    }

    pub(super) fn stage(&self, now_ms: i64, life_ms: i64) -> Stage {
        let version = self.highest();
        if version > self.active.version {
            let published_at_ms = self.versions.get(&version).map_or(now_ms, |row| row.created_at_ms);
            return Stage::Published { version, switch_at_ms: published_at_ms.saturating_add(life_ms) };
        }
        let is_first = version == crate::root_keys::FIRST_VERSION;
        if self.work().map_or(is_first, |work| work.finished_at_ms.is_some()) {
            return Stage::Idle;
        }
        let reseal_at_ms = self.active.created_at_ms.saturating_add(life_ms);
        if now_ms < reseal_at_ms {
            return Stage::Settling { version, reseal_at_ms };
        }
        Stage::Resealing { version }
    }

    /// The rotation's row, if it is about the version that is active.
    pub(super) fn work(&self) -> Option<&WorkRow> {
        self.work.as_ref().filter(|work| work.target == self.active.version)
    }

    /// The row to go on with: the one that was read, or one that begins anew.
    pub(super) fn work_for(&self, target: u32) -> WorkRow {
        let read = self.work.clone().unwrap_or_default();
        let base = WorkRow { revision: read.revision, replaced: read.replaced.clone(), target, ..WorkRow::default() };
        if read.target == target { WorkRow { finished_at_ms: None, ..read } } else { base }
    }

    /// A write of the rotation's row, on condition that nobody else has written it since it was read.
    pub(super) fn put_work(&self, keys: &KeyRing, mut work: WorkRow) -> Result<(Item, Expression), StoreError> {
        work.revision = work.revision.wrapping_add(1);
        Ok((to_item(&keys.inner().partition().row(ROTATION), &work)?, self.unchanged.clone()))
    }

    /// When writing with a version ended, as far as can be told; never earlier than what KMS vouches for, provided that
    /// it has vouched for these rows.
    pub(super) fn replaced_at_ms(&self, version: u32) -> i64 {
        let noted = self.work.iter().flat_map(|work| &work.replaced).find(|replaced| replaced.version == version);
        let successor = self.successor(version).map_or(self.active.created_at_ms, |row| row.created_at_ms);
        match noted {
            Some(noted) => noted.at_ms.max(successor),
            None => self.active.created_at_ms,
        }
    }

    /// The row that says at the earliest when a version was switched away from: the active one if it came next, or that
    /// of the next version that there still is.
    pub(super) fn successor(&self, version: u32) -> Option<&RootRow> {
        let next = self.versions.range(version.checked_add(1)?..).next().map(|(_, row)| row)?;
        Some(if next.version == self.active.version { &self.active } else { next })
    }
}

/// The platforms whose key is being rotated. What else lies beside the root keys is in nobody's way here.
pub(super) async fn platform_notes(keys: &KeyRing) -> Result<Vec<PlatformNote>, StoreError> {
    let inner = keys.inner();
    let items = inner.table().query_all(inner.partition()).await?;
    Ok(items.into_iter().filter_map(PlatformNote::parse).collect())
}

impl PlatformNote {
    pub(super) fn new(platform: &PlatformId, key_version: u32) -> Self {
        Self {
            platform: platform.clone(),
            revision: 0,
            key_version,
            touched_at_ms: None,
            walked_at_ms: None,
            cursor: None,
            found: 0,
            unopened_on_previous: 0,
            unopened: 0,
            places: Vec::new(),
            resealed: 0,
        }
    }

    /// A note that lies where the note of the platform that it names does.
    fn parse(item: Item) -> Option<Self> {
        let sk = item.get("sk")?.as_s().ok()?.clone();
        let note: Self = sk.starts_with(PLATFORM).then(|| from_item(item).ok())??;
        (sk == platform_sort_key(&note.platform)).then_some(note)
    }

    /// The note to go on with: what was read, if it is about this key of the platform, or one that begins anew; and what
    /// holds while nobody else has written it.
    pub(super) fn go_on(item: Option<Item>, platform: &PlatformId, key_version: u32) -> (Self, Expression) {
        let Some(item) = item else {
            return (Self::new(platform, key_version), Expression::new("attribute_not_exists(pk)"));
        };
        let unchanged = same_revision(&item);
        let read = Self::parse(item).filter(|note| note.platform == *platform);
        let revision = read.as_ref().map_or(0, |note| note.revision);
        let about_this = read.filter(|note| note.key_version == key_version);
        (about_this.unwrap_or_else(|| Self { revision, ..Self::new(platform, key_version) }), unchanged)
    }

    /// Where the walk goes on. Before the first piece of one, what it counts is counted from nothing.
    pub(super) fn begin_or_go_on(&mut self) -> WalkCursor {
        let fits = |after: &String| (1..=MAX_KEY.1).contains(&after.len());
        let cursor = self.cursor.clone().filter(|cursor| cursor.after.as_ref().is_none_or(fits));
        cursor.unwrap_or_else(|| {
            (self.found, self.unopened, self.unopened_on_previous) = (0, 0, 0);
            self.places.clear();
            WalkCursor::default()
        })
    }

    /// Counts a piece in. `next` is where the walk goes on, if it is not over.
    pub(super) fn add(&mut self, tally: &Tally, next: Option<WalkCursor>, now_ms: i64) {
        self.revision = self.revision.wrapping_add(1);
        self.found += tally.found;
        self.resealed += tally.resealed;
        self.unopened += tally.unopened;
        self.unopened_on_previous += tally.unopened_on_previous;
        self.places.extend(tally.places.iter().cloned());
        self.places.truncate(MAX_PLACES);
        self.touched_at_ms = Some(now_ms);
        if next.is_none() {
            self.walked_at_ms = Some(now_ms);
        }
        self.cursor = next;
    }

    /// Whether a walk is over that found nothing which needs an earlier key.
    pub(super) fn is_clean(&self) -> bool {
        self.cursor.is_none() && self.found == 0 && self.unopened_on_previous == 0
    }

    /// Whether a walk is over that found nothing which needs an earlier key but what does not open.
    pub(super) fn is_stuck(&self) -> bool {
        self.cursor.is_none() && self.found == 0 && self.unopened_on_previous > 0
    }
}

impl WorkRow {
    pub(super) fn cursor(&self) -> Option<&Cursor> {
        let fits = |text: &str, max: usize| (1..=max).contains(&text.len());
        self.cursor.as_ref().filter(|cursor| fits(&cursor.pk, MAX_KEY.0) && fits(&cursor.sk, MAX_KEY.1))
    }

    pub(super) fn begin_pass(&mut self) {
        (self.found, self.unopened) = (0, 0);
        self.places.clear();
    }

    pub(super) fn go_on_at(&mut self, cursor: Option<Cursor>) {
        self.cursor = cursor;
    }

    pub(super) fn note_replaced(&mut self, version: u32, at_ms: i64) {
        self.replaced.retain(|replaced| replaced.version != version);
        self.replaced.push(Replaced { version, at_ms });
    }

    pub(super) fn forget_replaced(&mut self, version: u32) {
        self.replaced.retain(|replaced| replaced.version != version);
    }
}

fn same_revision(item: &HashMap<String, aws_sdk_dynamodb::types::AttributeValue>) -> Expression {
    match item.get("revision") {
        Some(revision) => Expression::new("revision = :revision").value(":revision", revision.clone()),
        None => Expression::new("attribute_not_exists(revision)"),
    }
}
