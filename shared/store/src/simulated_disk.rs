//! Disks of simulated agents: an index and pieces, in a partition per agent. What they say is the simulated provider's
//! business; here is where they lie, that an index is replaced only by who has read it, and that the table drops all of
//! it some time after the agent is over.

use crate::table::{Item, TTL, number, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction};
use crate::{StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::HashMap;
use theazo_tenancy::{AgentId, Partition, TableKey, TenantScope};

const INDEX: &str = "index";
const PIECE: &str = "piece#";

const CONTENT: &str = "content";
const REVISION: &str = "revision";

/// Pieces read in one request: 16 MB are the most that it answers, 100 the most that it may ask for, and a row has at
/// most 400 KB.
const READ_AT_ONCE: usize = 40;

/// Keeping the disks of simulated agents. It has no way to anything else of a tenant's.
#[derive(Clone)]
pub struct SimulatedDisks(Table);

/// A disk's index as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIndex {
    /// Changes with every replacement.
    pub revision: u64,
    /// What was written.
    pub content: Vec<u8>,
}

impl SimulatedDisks {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// Writes an agent's first index, at most 390 KB, unless there is one. Whether there was none.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn make(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        index: Vec<u8>,
        gone_by_ms: i64,
    ) -> Result<bool, StoreError> {
        let item = index_item(scope, agent, 1, index, gone_by_ms)?;
        self.write(item, Expression::new("attribute_not_exists(pk)")).await
    }

    /// An agent's index.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn index(&self, scope: &TenantScope, agent: &AgentId) -> Result<Option<DiskIndex>, StoreError> {
        let Some(mut item) = self.0.get_raw(&index_key(scope, agent)?).await? else { return Ok(None) };
        let revision = item.get(REVISION).and_then(|value| value.as_n().ok()?.parse().ok());
        let (revision, content) = revision.zip(take_content(&mut item)).ok_or(StoreError::Corrupt("a disk's index"))?;
        Ok(Some(DiskIndex { revision, content }))
    }

    /// Replaces an index that is still at the revision that was read. Whether it was.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer; it may have happened all the same.
    pub async fn replace(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        read: u64,
        index: Vec<u8>,
        gone_by_ms: i64,
    ) -> Result<bool, StoreError> {
        let item = index_item(scope, agent, read + 1, index, gone_by_ms)?;
        let unchanged = Expression::new("#revision = :read").name("#revision", REVISION).value(":read", number(read));
        self.write(item, unchanged).await
    }

    /// Writes pieces by id, each at most 390 KB, in no particular order and not all at once.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer; [`StoreError::Contended`] when it has no capacity.
    pub async fn put(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        pieces: impl Iterator<Item = (String, Vec<u8>)>,
        gone_by_ms: i64,
    ) -> Result<(), StoreError> {
        let disk = scope.simulated_disk(agent)?;
        self.0.put_all(pieces.map(|(id, content)| item(&piece_key(&disk, &id), content, gone_by_ms))).await
    }

    /// Those of these pieces that are there.
    ///
    /// # Errors
    /// As [`SimulatedDisks::put`].
    pub async fn get(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        ids: &[&str],
    ) -> Result<HashMap<String, Vec<u8>>, StoreError> {
        let disk = scope.simulated_disk(agent)?;
        let mut found = HashMap::with_capacity(ids.len());
        for some in ids.chunks(READ_AT_ONCE) {
            for mut row in self.0.get_many(some.iter().map(|id| piece_key(&disk, id))).await? {
                let id = row.get("sk").and_then(|sk| sk.as_s().ok()?.strip_prefix(PIECE)).map(str::to_owned);
                let (id, content) = id.zip(take_content(&mut row)).ok_or(StoreError::Corrupt("a disk's piece"))?;
                found.insert(id, content);
            }
        }
        Ok(found)
    }

    /// One piece, if it is there.
    ///
    /// # Errors
    /// As [`SimulatedDisks::put`].
    pub async fn piece(&self, scope: &TenantScope, agent: &AgentId, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.0.get_raw(&piece_key(&scope.simulated_disk(agent)?, id)).await?;
        row.map(|mut row| take_content(&mut row).ok_or(StoreError::Corrupt("a disk's piece"))).transpose()
    }

    /// Removes pieces. Those that are not there do not matter.
    ///
    /// # Errors
    /// As [`SimulatedDisks::put`].
    pub async fn delete(&self, scope: &TenantScope, agent: &AgentId, ids: &[&str]) -> Result<(), StoreError> {
        let disk = scope.simulated_disk(agent)?;
        self.0.delete_all(ids.iter().map(|id| piece_key(&disk, id))).await
    }

    /// Removes an agent's disk: its index first, so that nobody who is about to write can finish, then all pieces.
    /// Idempotent.
    ///
    /// # Errors
    /// As [`SimulatedDisks::put`].
    pub async fn remove(&self, scope: &TenantScope, agent: &AgentId) -> Result<(), StoreError> {
        self.0.delete(&index_key(scope, agent)?).await?;
        let disk = scope.simulated_disk(agent)?;
        let rows = self.0.sort_keys(&disk).await?;
        self.0.delete_all(rows.iter().map(|sk| disk.row(sk))).await
    }

    async fn write(&self, item: Item, condition: Expression) -> Result<bool, StoreError> {
        let committed = Transaction::default().put_item(&self.0, item, condition).commit(&self.0).await?;
        Ok(matches!(committed, Committed::Yes))
    }
}

fn index_key(scope: &TenantScope, agent: &AgentId) -> Result<TableKey, StoreError> {
    Ok(scope.simulated_disk(agent)?.row(INDEX))
}

fn piece_key(disk: &Partition, id: &str) -> TableKey {
    disk.row(&format!("{PIECE}{id}"))
}

fn item(key: &TableKey, content: Vec<u8>, gone_by_ms: i64) -> Item {
    Item::from([
        ("pk".to_owned(), AttributeValue::S(key.pk().into())),
        ("sk".to_owned(), AttributeValue::S(key.sk().into())),
        (CONTENT.to_owned(), AttributeValue::B(content.into())),
        (TTL.to_owned(), number(ttl_seconds(gone_by_ms))),
    ])
}

fn index_item(
    scope: &TenantScope,
    agent: &AgentId,
    revision: u64,
    index: Vec<u8>,
    gone_by_ms: i64,
) -> Result<Item, StoreError> {
    let mut item = item(&index_key(scope, agent)?, index, gone_by_ms);
    item.insert(REVISION.into(), number(revision));
    Ok(item)
}

fn take_content(row: &mut Item) -> Option<Vec<u8>> {
    match row.remove(CONTENT)? {
        AttributeValue::B(content) => Some(content.into_inner()),
        _ => None,
    }
}
