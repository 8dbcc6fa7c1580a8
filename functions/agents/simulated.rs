//! The simulated provider's disk in the table, bound to one tenant.

use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashMap;
use theazo_providers::simulated::{SimulatedDisk, StoredIndex};
use theazo_providers::{ProviderError, ProviderKind};
use theazo_store::{SimulatedDisks, StoreError};
use theazo_tenancy::{AgentId, TenantScope};

/// The disks of one tenant's simulated agents.
pub(super) struct TenantDisk {
    disks: SimulatedDisks,
    scope: TenantScope,
}

impl TenantDisk {
    pub(super) fn new(disks: SimulatedDisks, scope: TenantScope) -> Self {
        Self { disks, scope }
    }
}

fn agent_id(agent: &str) -> Result<AgentId, ProviderError> {
    AgentId::parse(agent).map_err(|_| ProviderError::SandboxGone)
}

/// The table's failure, as one of the provider that lies on it.
fn failed(error: StoreError) -> ProviderError {
    let (provider, operation, reason) = (ProviderKind::Simulated, "use the disk", error.to_string());
    ProviderError::Failed { provider, operation, status: None, retryable: true, reason }
}

#[async_trait]
impl SimulatedDisk for TenantDisk {
    async fn make(&self, agent: &str, index: Vec<u8>, gone_by_ms: i64) -> Result<bool, ProviderError> {
        self.disks.make(&self.scope, &agent_id(agent)?, index, gone_by_ms).await.map_err(failed)
    }

    async fn index(&self, agent: &str) -> Result<Option<StoredIndex>, ProviderError> {
        let index = self.disks.index(&self.scope, &agent_id(agent)?).await.map_err(failed)?;
        Ok(index.map(|index| StoredIndex { revision: index.revision, bytes: index.content }))
    }

    async fn replace(&self, agent: &str, read: u64, index: Vec<u8>, gone_by_ms: i64) -> Result<bool, ProviderError> {
        self.disks.replace(&self.scope, &agent_id(agent)?, read, index, gone_by_ms).await.map_err(failed)
    }

    async fn put(&self, agent: &str, pieces: Vec<(String, Bytes)>, gone_by_ms: i64) -> Result<(), ProviderError> {
        let pieces = pieces.into_iter().map(|(id, piece)| (id, piece.into()));
        self.disks.put(&self.scope, &agent_id(agent)?, pieces, gone_by_ms).await.map_err(failed)
    }

    async fn get(&self, agent: &str, ids: &[&str]) -> Result<HashMap<String, Bytes>, ProviderError> {
        let pieces = self.disks.get(&self.scope, &agent_id(agent)?, ids).await.map_err(failed)?;
        Ok(pieces.into_iter().map(|(id, piece)| (id, piece.into())).collect())
    }

    async fn piece(&self, agent: &str, id: &str) -> Result<Option<Bytes>, ProviderError> {
        let piece = self.disks.piece(&self.scope, &agent_id(agent)?, id).await.map_err(failed)?;
        Ok(piece.map(Bytes::from))
    }

    async fn delete(&self, agent: &str, ids: &[&str]) -> Result<(), ProviderError> {
        self.disks.delete(&self.scope, &agent_id(agent)?, ids).await.map_err(failed)
    }

    async fn remove(&self, agent: &str) -> Result<(), ProviderError> {
        self.disks.remove(&self.scope, &agent_id(agent)?).await.map_err(failed)
    }
}
