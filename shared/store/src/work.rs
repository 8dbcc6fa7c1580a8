//! The operator's work list: every agent that may have something at its provider, every terminated session that may
//! have secrets left, and every platform whose deletion is not finished. Written in the transactions that begin such
//! work, removed when it is done.

use crate::{StoreError, Table};
use futures_util::future::try_join_all;
use theazo_tenancy::{Mode, Operator, PlatformId, SessionId, TenantScope, WorkRef};

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
    /// A deleted platform of which more than its tombstone may be left.
    Platform(PlatformId),
}

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

    /// The configured providers, whose accounts may have what no agent owns.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn providers(&self) -> Result<Vec<(PlatformId, Mode, String)>, StoreError> {
        let shards: Vec<_> = self.operator.work().collect();
        let rows = shards.iter().map(|shard| self.table.query_all_between(shard, "provider#", "provider$"));
        let rows = try_join_all(rows).await?.into_iter().flatten();
        Ok(rows.filter_map(|row| self.operator.parse_provider_work(row.get("sk")?.as_s().ok()?)).collect())
    }

    /// Everything on the list but the providers.
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
            agent.or_else(session).or_else(|| self.operator.parse_platform_work(sk).map(WorkItem::Platform))
        });
        Ok(items.collect())
    }
}
