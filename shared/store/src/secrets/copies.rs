//! Copies of what an agent booted with, sealed for that agent alone, for masking its output until it stops. They are
//! independent of the secrets themselves: deleting or replacing one changes nothing for an agent that runs with it.

use super::{OpenedSecret, SealedSecrets, ValueRow, derive_key};
use crate::platforms::PlatformRow;
use crate::table::{Item, TTL, number, ttl_seconds};
use crate::{Agent, KeyRing, StoreError, Table};
use futures_util::future::try_join;
use std::collections::HashMap;
use theazo_tenancy::{AgentId, Partition, ReadScope, TenantScope};
use theazo_vault::{Context, Flags, Purpose, RecordHeader, Scope, SecretValue};

/// Keeping and reading the copies beside agents. It has no way to the secrets themselves.
#[derive(Clone)]
pub struct AgentCopies {
    table: Table,
    keys: KeyRing,
}

/// An agent's copies as they lie in the table.
pub struct SealedCopies {
    platform: PlatformRow,
    rows: Vec<ValueRow>,
}

impl AgentCopies {
    /// Over that table, with those keys.
    pub fn new(table: Table, keys: KeyRing) -> Self {
        Self { table, keys }
    }

    /// Seals copies of what an agent is about to boot with. They are to be written before the agent takes calls; the
    /// table drops them by itself some time after `gone_by_ms`, should nobody else.
    ///
    /// # Errors
    /// [`StoreError::Kms`]; [`StoreError::Vault`].
    pub async fn seal(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        secrets: &SealedSecrets,
        opened: &[OpenedSecret],
        gone_by_ms: i64,
    ) -> Result<Vec<SealedCopy>, StoreError> {
        let masked = opened.iter().filter(|secret| secret.booted.masked);
        let mut copies = Vec::new();
        let partition = scope.agent_copies(agent);
        for secret in masked {
            let root = self.keys.active().await?;
            let key = derive_key(&root, &secrets.platform);
            let mut row = ValueRow {
                name: secret.booted.name.clone(),
                version: secret.booted.version,
                expires_at_ms: None,
                flags: Flags { mask: true, inherit: false },
                provider: false,
                blob: Vec::new(),
            };
            row.blob = theazo_vault::seal(&key, &context(&row, self.keys.deployment(), scope, agent), &secret.value)?;
            let mut item = row.item(&partition.row(&row.name));
            item.insert(TTL.into(), number(ttl_seconds(gone_by_ms)));
            copies.push(SealedCopy(item));
        }
        Ok(copies)
    }

    /// Writes an agent's copies.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn keep(&self, copies: Vec<SealedCopy>) -> Result<(), StoreError> {
        self.table.put_all(copies.into_iter().map(|SealedCopy(item)| item)).await
    }

    /// Reads an agent's copies. Nothing is opened.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn load(&self, scope: &ReadScope, agent: &AgentId) -> Result<SealedCopies, StoreError> {
        let partition: Partition = scope.agent_copies(agent);
        let (platform, rows) = try_join(self.table.platform_row(scope), self.table.query_all(&partition)).await?;
        let rows = rows.into_iter().map(ValueRow::parse).collect::<Result<_, _>>()?;
        Ok(SealedCopies { platform, rows })
    }

    /// Opens an agent's copies, names and values, for masking. All that it booted with to be masked must be there, so
    /// that nobody uncovers a value by removing a row.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a copy is missing or of another version; [`StoreError::Vault`] when one does not
    /// belong where it lies; [`StoreError::Kms`].
    pub async fn open(
        &self,
        scope: &TenantScope,
        agent: &Agent,
        sealed: &SealedCopies,
    ) -> Result<HashMap<String, SecretValue>, StoreError> {
        let mut opened = HashMap::with_capacity(sealed.rows.len());
        for booted in agent.secrets.iter().filter(|booted| booted.masked) {
            let row = sealed.rows.iter().find(|row| row.name == booted.name && row.version == booted.version);
            let row = row.ok_or(StoreError::Corrupt("a copy beside an agent is missing"))?;
            let header = RecordHeader::parse(&row.blob)?;
            let root = self.keys.version(header.root_version).await?;
            let key = derive_key(&root, &sealed.platform);
            let context = context(row, self.keys.deployment(), scope, &agent.id);
            opened.insert(row.name.clone(), theazo_vault::open(&key, &context, &row.blob)?);
        }
        Ok(opened)
    }
}

/// A copy, ready to be written.
pub struct SealedCopy(Item);

/// What a copy is bound to.
fn context<'a>(row: &'a ValueRow, deployment: &'a str, scope: &'a ReadScope, agent: &'a AgentId) -> Context<'a> {
    Context {
        deployment,
        platform: scope.platform().as_str(),
        mode: scope.mode().as_str(),
        scope: Scope::Agent(agent.as_str()),
        purpose: Purpose::AgentCopy,
        name: &row.name,
        version: row.version,
        expires_at_ms: None,
        flags: row.flags,
    }
}
