//! The operator's work list: every agent that may have something at its provider, every terminated session that may
//! have secrets left, and every platform whose deletion is not finished. Written in the transactions that begin such work, removed when it is done.

use crate::table::{Item, TTL, number, to_item, ttl_seconds};
use crate::{StoreError, Table};
use futures_util::future::try_join_all;
use serde::Serialize;
use theazo_tenancy::{Mode, Operator, PlatformId, SessionId, TenantScope, WorkRef};

#[derive(Serialize)]
struct OrphanNote {
    since_ms: i64,
}

/// Reading the work list.
pub struct Work {
    table: Table,
    operator: Operator,
}

/// One thing to look after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkItem {
    /// An agent that has not settled.
    Agent(WorkRef),
    /// A terminated session whose secrets or agents may not be gone yet.
    Session(PlatformId, Mode, SessionId),
    /// A configured provider, whose account may have what no agent owns.
    Provider(PlatformId, Mode, String),
    /// A deleted platform of which more than its tombstone may be left.
    Platform(PlatformId),
    /// Something of an agent at a provider that no agent owned when it was found first.
    Orphan {
        /// What the agent is called there.
        agent: String,
        /// When that was, Unix milliseconds.
        since_ms: i64,
    },
}

/// How long it is remembered when something without an owner was found first, milliseconds.
const ORPHAN_KEPT_MS: i64 = 24 * 60 * 60 * 1000;

impl Work {
    /// Over that table.
    pub fn new(table: Table, operator: Operator) -> Self {
        Self { table, operator }
    }

    /// The operator's part, for scopes of the tenants that the list names.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Takes an agent off the list of which there is no row, and so nothing to look after.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn forget(&self, work: &WorkRef) -> Result<(), StoreError> {
        self.table.delete(&self.operator.tenant(&work.platform, work.mode).work_key(&work.agent)).await
    }

    /// Takes a provider off the list that is not configured any more.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn forget_provider(&self, scope: &TenantScope, provider: &str) -> Result<(), StoreError> {
        self.table.delete(&scope.provider_work_key(provider)).await
    }

    /// Notes that something of an agent was found that no agent owns.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn note_orphan(&self, agent: &str, now_ms: i64) -> Result<(), StoreError> {
        let mut note: Item = to_item(&self.operator.orphan_work_key(agent), &OrphanNote { since_ms: now_ms })?;
        note.insert(TTL.into(), number(ttl_seconds(now_ms.saturating_add(ORPHAN_KEPT_MS))));
        self.table.put_all(std::iter::once(note)).await
    }

    /// Forgets that: it is gone, or has an owner.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn forget_orphan(&self, agent: &str) -> Result<(), StoreError> {
        self.table.delete(&self.operator.orphan_work_key(agent)).await
    }

    /// Everything on the list.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(&self) -> Result<Vec<WorkItem>, StoreError> {
        let shards: Vec<_> = self.operator.work().collect();
        let rows = try_join_all(shards.iter().map(|shard| self.table.query_all(shard))).await?;
        let items = rows.into_iter().flatten().filter_map(|row| {
            let sk = row.get("sk")?.as_s().ok()?;
            let agent = self.operator.parse_agent_work(sk).map(WorkItem::Agent);
            let session = || {
                let (platform, mode, session) = self.operator.parse_session_work(sk)?;
                Some(WorkItem::Session(platform, mode, session))
            };
            let provider = || {
                let (platform, mode, provider) = self.operator.parse_provider_work(sk)?;
                Some(WorkItem::Provider(platform, mode, provider))
            };
            let orphan = || {
                let agent = self.operator.parse_orphan_work(sk)?.to_owned();
                let since_ms = row.get("since_ms")?.as_n().ok()?.parse().ok()?;
                Some(WorkItem::Orphan { agent, since_ms })
            };
            agent
                .or_else(orphan)
                .or_else(session)
                .or_else(provider)
                .or_else(|| self.operator.parse_platform_work(sk).map(WorkItem::Platform))
        });
        Ok(items.collect())
    }
}
