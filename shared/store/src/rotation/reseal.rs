//! Sealing rows anew: opened where they lie, sealed for the same place, written on condition that nobody else has.

use crate::platforms::PlatformRow;
use crate::secrets::{SecretTarget, ValueRow, copy_context, same_key};
use crate::table::Item;
use crate::transaction::{Committed, Expression, Transaction};
use crate::{KeyRing, StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::BTreeMap;
use theazo_tenancy::{Mode, Operator, PlatformId, SealedOwner, SealedPlace, TableKey};
use theazo_vault::{RecordHeader, VaultError};

/// The attribute of every sealed value.
pub(super) const BLOB: &str = "blob";
/// Rows written in one transaction, beside the check of their platform's key.
const BATCH: usize = 25;
/// Places that are remembered of rows that do not open; their number is always whole.
pub(super) const MAX_PLACES: usize = 20;

/// What a pass over some rows came to.
#[derive(Default)]
pub(super) struct Tally {
    /// Rows that were not sealed under the keys they should be, and open: sealed anew, or changed by others meanwhile.
    pub(super) found: u64,
    /// Those that this pass sealed anew.
    pub(super) resealed: u64,
    /// Rows that do not open where they lie. They stay as they are.
    pub(super) unopened: u64,
    /// Those of them that name a previous key of their platform.
    pub(super) unopened_on_previous: u64,
    /// Where some of them lie.
    pub(super) places: Vec<String>,
}

pub(super) struct Resealer {
    pub(super) table: Table,
    pub(super) keys: KeyRing,
    pub(super) operator: Operator,
}

/// A row that is to be written.
struct Anew {
    key: TableKey,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.found += other.found;
        self.resealed += other.resealed;
        self.unopened += other.unopened;
        self.unopened_on_previous += other.unopened_on_previous;
        for place in other.places {
            self.remember(place);
        }
    }

    fn does_not_open(&mut self, item: &Item, platform: Option<&PlatformRow>) {
        self.unopened += 1;
        let previous = platform.map_or(&[][..], |platform| &platform.vault_previous);
        let header = blob(item).and_then(|blob| RecordHeader::parse(blob).ok());
        if header.is_some_and(|header| previous.iter().any(|salt| salt.version == header.platform_key_version)) {
            self.unopened_on_previous += 1;
        }
        self.remember(format!("{} {}", text(item, "pk"), text(item, "sk")));
    }

    fn remember(&mut self, place: String) {
        if self.places.len() < MAX_PLACES {
            self.places.push(place);
        }
    }
}

pub(super) fn blob(item: &Item) -> Option<&[u8]> {
    Some(item.get(BLOB)?.as_b().ok()?.as_ref())
}

fn text<'a>(item: &'a Item, name: &str) -> &'a str {
    item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}

/// Whether an error says that the row itself is bad, and not that a service failed.
fn is_of_the_row(error: &StoreError) -> bool {
    match error {
        StoreError::Vault(VaultError::Randomness) => false,
        StoreError::Vault(_) | StoreError::NoRootKey | StoreError::Corrupt(_) => true,
        _ => false,
    }
}

impl Resealer {
    /// Seals those of the rows anew that are not under their platform's present key and this root version or a later
    /// one.
    pub(super) async fn reseal(&self, items: Vec<Item>, root_version: u32) -> Result<Tally, StoreError> {
        let mut tally = Tally::default();
        let mut by_platform = BTreeMap::<PlatformId, Vec<(SealedPlace, Item)>>::new();
        for item in items {
            match self.operator.parse_sealed(text(&item, "pk")) {
                Some(place) => by_platform.entry(place.platform.clone()).or_default().push((place, item)),
                None => tally.does_not_open(&item, None),
            }
        }
        for (id, rows) in by_platform {
            match self.platform(&id).await? {
                Some(platform) => tally.add(self.reseal_of(&platform, rows, root_version).await?),
                None => rows.iter().for_each(|(_, item)| tally.does_not_open(item, None)),
            }
        }
        Ok(tally)
    }

    pub(super) async fn platform(&self, id: &PlatformId) -> Result<Option<PlatformRow>, StoreError> {
        // Either mode's scope leads to the same row.
        match self.table.platform_row(&self.operator.tenant(id, Mode::Live)).await {
            Ok(platform) => Ok(Some(platform)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn reseal_of(
        &self,
        platform: &PlatformRow,
        rows: Vec<(SealedPlace, Item)>,
        root_version: u32,
    ) -> Result<Tally, StoreError> {
        let mut tally = Tally::default();
        for rows in rows.chunks(BATCH) {
            let mut batch = Vec::new();
            for (place, item) in rows {
                match self.seal_anew(place, item, platform, root_version).await {
                    Ok(None) => {}
                    Ok(Some(anew)) => {
                        tally.found += 1;
                        batch.push(anew);
                    }
                    Err(error) if is_of_the_row(&error) => {
                        if self.still_does_not_open(place, item, root_version).await? {
                            tally.does_not_open(item, Some(platform));
                        } else {
                            tally.found += 1;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            tally.resealed += self.write(platform, batch).await?;
        }
        Ok(tally)
    }

    /// Opens a row where it lies and seals it for the same place; nothing, when it need not be. What it is bound to
    /// comes from the row's own key in the table, so a row that was moved does not open, and nothing is ever sealed for
    /// another place than where it lay.
    async fn seal_anew(
        &self,
        place: &SealedPlace,
        item: &Item,
        platform: &PlatformRow,
        root_version: u32,
    ) -> Result<Option<Anew>, StoreError> {
        let row = ValueRow::parse(item.clone())?;
        let header = RecordHeader::parse(&row.blob)?;
        let is_present_key = header.platform_key_version == platform.vault_key_version;
        if is_present_key && header.root_version == root_version {
            return Ok(None);
        }
        let scope = self.operator.tenant(&place.platform, place.mode);
        let target = match &place.owner {
            SealedOwner::Session(id) => SecretTarget::Session(id.clone()),
            _ => SecretTarget::Platform,
        };
        let context = match &place.owner {
            SealedOwner::Agent(agent) => copy_context(&row, self.keys.deployment(), &scope, agent),
            _ => row.context(self.keys.deployment(), &scope, &target),
        };
        let opening = self.keys.opening_key(platform, header).await?;
        let value = theazo_vault::open(&opening, &context, &row.blob)?;
        if is_present_key && header.root_version > root_version {
            // Someone is further than we are; taking it back would undo their work.
            return Ok(None);
        }
        let sealing = self.keys.sealing_key_of(platform, root_version.max(header.root_version)).await?;
        let new = theazo_vault::seal(&sealing, &context, &value)?;
        let key = self.key(place, &row.name)?;
        Ok(Some(Anew { key, old: row.blob.clone(), new }))
    }

    fn key(&self, place: &SealedPlace, name: &str) -> Result<TableKey, StoreError> {
        let scope = self.operator.tenant(&place.platform, place.mode);
        let partition = match &place.owner {
            SealedOwner::Platform => scope.secret_values()?,
            SealedOwner::Session(id) => scope.session(id).ok_or(StoreError::NotFound)?.secret_values(),
            SealedOwner::Agent(agent) => scope.agent_copies(agent)?,
        };
        Ok(partition.row(name))
    }

    /// Whether a row that did not open is still as it was read, and does not open with its platform's row read again:
    /// both may have been of different moments.
    async fn still_does_not_open(
        &self,
        place: &SealedPlace,
        item: &Item,
        root_version: u32,
    ) -> Result<bool, StoreError> {
        let Some(now) = self.table.get_raw(&self.key(place, text(item, "sk"))?).await? else { return Ok(false) };
        if now != *item {
            return Ok(false);
        }
        let Some(platform) = self.platform(&place.platform).await? else { return Ok(true) };
        match self.seal_anew(place, &now, &platform, root_version).await {
            Ok(_) => Ok(false),
            Err(error) if is_of_the_row(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Writes what can be written, and gives how much it was: a row that somebody has changed stays theirs, and when
    /// the platform's key has changed, all stay for the next pass. Nothing but the record changes in a row.
    async fn write(&self, platform: &PlatformRow, mut batch: Vec<Anew>) -> Result<u64, StoreError> {
        let scope = self.operator.tenant(&platform.id, Mode::Live);
        while !batch.is_empty() {
            let mut transaction = Transaction::default().check(&self.table, &scope.platform_key(), same_key(platform));
            for anew in &batch {
                let update = Expression::new("SET #blob = :new")
                    .name("#blob", BLOB)
                    .value(":new", AttributeValue::B(anew.new.clone().into()))
                    .value(":old", AttributeValue::B(anew.old.clone().into()));
                transaction = transaction.update(&self.table, &anew.key, update, "#blob = :old");
            }
            match transaction.commit(&self.table).await? {
                Committed::Yes => return Ok(batch.len() as u64),
                Committed::Refused { write: 0, .. } => return Ok(0),
                Committed::Refused { write, .. } => {
                    batch.remove(write - 1);
                }
            }
        }
        Ok(0)
    }
}
