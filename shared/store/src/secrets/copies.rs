//! Copies of what an agent booted with, sealed for that agent alone, for masking its output until it stops. They are
//! independent of the secrets themselves: deleting or replacing one changes nothing for an agent that runs with it.
//!
//! Which values are masked is written in the agent's row, which anyone with write access to the table can edit. So one
//! more record lies among the copies, with nothing in it, whose name is the digest of that list: nobody but the vault
//! can make one for another list, and without it nothing of the agent's output is shown.

use super::{OUT_OF_DATE_ATTEMPTS, OpenedSecret, SealedSecrets, ValueRow};
use crate::agent_tokens::own_secrets;
use crate::agents::{BootedSecret, SecretOrigin};
use crate::platforms::PlatformRow;
use crate::root_keys::is_out_of_date;
use crate::table::{Item, TTL, number, ttl_seconds};
use crate::transaction::back_off;
use crate::{Agent, KeyRing, StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use theazo_tenancy::{AgentId, Partition, ReadScope, TableKey, TenantScope};
use theazo_vault::{Context, Flags, Purpose, RecordHeader, Scope, SecretValue};

/// The version of the record that vouches for a list. The digest in its name tells lists apart.
pub(super) const LIST_VERSION: u64 = 1;

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

    /// Seals copies of what an agent is about to boot with, which its row must list in the same order. They are to be
    /// written before the agent takes calls; the table drops them by itself some time after `gone_by_ms`, should nobody
    /// else.
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
        let vouching = list_name(opened.iter().map(|secret| &secret.booted));
        let empty = SecretValue::from_text(String::new());
        let masked = opened.iter().filter(|secret| secret.booted.masked);
        let masked = masked.map(|secret| (&secret.booted.name, secret.booted.version, &secret.value));
        let mut copies = Vec::new();
        let origin = Origin { scope: scope.clone(), agent: agent.clone(), platform: secrets.platform.clone() };
        let origin = Arc::new(origin);
        let partition = scope.agent_copies(agent)?;
        for (name, version, value) in masked.chain([(&vouching, LIST_VERSION, &empty)]) {
            let key = self.keys.sealing_key(&secrets.platform).await?;
            let mut row = ValueRow {
                name: name.clone(),
                version,
                expires_at_ms: None,
                flags: Flags { mask: true, inherit: false },
                provider: false,
                blob: Vec::new(),
            };
            let context = copy_context(&row, self.keys.deployment(), scope, agent);
            row.blob = theazo_vault::seal(&key, &context, value)?;
            let mut item = row.item(&partition.row(&row.name));
            item.insert(TTL.into(), number(ttl_seconds(gone_by_ms)));
            copies.push(SealedCopy { item, origin: origin.clone() });
        }
        Ok(copies)
    }

    /// Writes an agent's copies, which all come from one call of [`AgentCopies::seal`], and looks afterwards whether the
    /// platform's key is still the one that they were sealed under. If it is, a rotation that begins later finds them;
    /// if not, one may have passed already, and they are sealed anew here.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer; [`StoreError::Kms`]; [`StoreError::Contended`].
    pub async fn keep(&self, copies: Vec<SealedCopy>) -> Result<(), StoreError> {
        let Some(origin) = copies.first().map(|copy| copy.origin.clone()) else { return Ok(()) };
        let mut items: Vec<Item> = copies.into_iter().map(|copy| copy.item).collect();
        let mut sealed_for = origin.platform.clone();
        for attempt in 0..OUT_OF_DATE_ATTEMPTS {
            self.table.put_all(items.iter().cloned()).await?;
            let platform = self.table.platform_row(&origin.scope).await?;
            let key = |platform: &PlatformRow| (platform.vault_key_version, platform.vault_salt);
            if key(&platform) == key(&sealed_for) {
                return Ok(());
            }
            back_off(attempt).await;
            for item in &mut items {
                self.seal_again(item, &origin, &sealed_for, &platform).await?;
            }
            sealed_for = platform;
        }
        Err(StoreError::Contended(OUT_OF_DATE_ATTEMPTS))
    }

    async fn seal_again(
        &self,
        item: &mut Item,
        origin: &Origin,
        from: &PlatformRow,
        to: &PlatformRow,
    ) -> Result<(), StoreError> {
        let row = ValueRow::parse(item.clone())?;
        let context = copy_context(&row, self.keys.deployment(), &origin.scope, &origin.agent);
        let key = self.keys.opening_key(from, RecordHeader::parse(&row.blob)?).await?;
        let value = theazo_vault::open(&key, &context, &row.blob)?;
        let blob = theazo_vault::seal(&*self.keys.sealing_key(to).await?, &context, &value)?;
        item.insert("blob".into(), AttributeValue::B(blob.into()));
        Ok(())
    }

    /// Reads an agent's copies. Nothing is opened.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn load(&self, scope: &ReadScope, agent: &AgentId) -> Result<SealedCopies, StoreError> {
        let partition: Partition = scope.agent_copies(agent)?;
        let (platform, rows) = try_join(self.table.platform_row(scope), self.table.query_all(&partition)).await?;
        let rows = rows.into_iter().map(ValueRow::parse).collect::<Result<_, _>>()?;
        Ok(SealedCopies { platform, rows })
    }

    /// Opens an agent's copies, names and values, for masking. What the agent's row says it booted with must be what it
    /// was sealed to have booted with, and all of it that is to be masked must be there, so that nobody uncovers a value
    /// by editing or removing a row. What a rotation has sealed anew since it was read is read again.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the agent's row lists something else, or a copy is missing or of another version;
    /// [`StoreError::Vault`] when one does not belong where it lies; [`StoreError::Kms`].
    pub async fn open(
        &self,
        scope: &TenantScope,
        agent: &Agent,
        sealed: &SealedCopies,
    ) -> Result<BTreeMap<String, SecretValue>, StoreError> {
        let mut outcome = self.open_once(scope, agent, sealed).await;
        for attempt in 0..OUT_OF_DATE_ATTEMPTS {
            if !outcome.as_ref().is_err_and(is_out_of_date) {
                break;
            }
            if attempt > 0 {
                back_off(attempt).await;
            }
            outcome = self.open_once(scope, agent, &self.load(scope, &agent.id).await?).await;
        }
        outcome
    }

    async fn open_once(
        &self,
        scope: &TenantScope,
        agent: &Agent,
        sealed: &SealedCopies,
    ) -> Result<BTreeMap<String, SecretValue>, StoreError> {
        let listed = agent.listed();
        let vouched = self.open_row(scope, &agent.id, sealed, &list_name(&listed), LIST_VERSION).await?;
        vouched.ok_or(StoreError::Corrupt("what an agent booted with is not what its row lists"))?;
        let mut opened = BTreeMap::new();
        for booted in listed.iter().filter(|booted| booted.masked) {
            let value = self.open_row(scope, &agent.id, sealed, &booted.name, booted.version).await?;
            opened.insert(booted.name.clone(), value.ok_or(StoreError::Corrupt("a copy beside an agent is missing"))?);
        }
        Ok(opened)
    }

    async fn open_row(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        sealed: &SealedCopies,
        name: &str,
        version: u64,
    ) -> Result<Option<SecretValue>, StoreError> {
        let row = sealed.rows.iter().find(|row| row.name == name && row.version == version);
        let Some(row) = row else { return Ok(None) };
        let key = self.keys.opening_key(&sealed.platform, RecordHeader::parse(&row.blob)?).await?;
        let context = copy_context(row, self.keys.deployment(), scope, agent);
        Ok(Some(theazo_vault::open(&key, &context, &row.blob)?))
    }
}

/// The name of the record that vouches for a list of what an agent booted with. It begins with a digit, as no secret's
/// name does.
pub(super) fn list_name<'a>(secrets: impl IntoIterator<Item = &'a BootedSecret>) -> String {
    let mut digest = Sha256::new();
    for secret in secrets {
        let origin = match secret.origin {
            SecretOrigin::Platform => 0,
            SecretOrigin::Session => 1,
        };
        digest.update((secret.name.len() as u64).to_be_bytes());
        digest.update(&secret.name);
        digest.update(secret.version.to_be_bytes());
        digest.update([origin, u8::from(secret.masked)]);
    }
    format!("0{}", hex::encode_upper(digest.finalize()))
}

/// All rows that may lie beside an agent, whoever opens them, whether it still has a token or not.
pub(crate) fn copies_of(scope: &ReadScope, agent: &Agent) -> Result<Vec<TableKey>, StoreError> {
    let with_own: Vec<BootedSecret> = agent.secrets.iter().cloned().chain(own_secrets()).collect();
    let lists = [list_name(&agent.secrets), list_name(&with_own)];
    let names: Vec<&str> =
        with_own.iter().map(|secret| secret.name.as_str()).chain(lists.iter().map(String::as_str)).collect();
    let partitions = [scope.agent_copies(&agent.id)?, scope.token_copies(&agent.id)?];
    Ok(partitions.iter().flat_map(|partition| names.iter().map(|name| partition.row(name))).collect())
}

/// A copy, ready to be written.
pub struct SealedCopy {
    item: Item,
    origin: Arc<Origin>,
}

/// Whose copies they are, and what the key that they are sealed under was derived from.
struct Origin {
    scope: TenantScope,
    agent: AgentId,
    platform: PlatformRow,
}

/// What a copy is bound to.
pub(crate) fn copy_context<'a>(
    row: &'a ValueRow,
    deployment: &'a str,
    scope: &'a ReadScope,
    agent: &'a AgentId,
) -> Context<'a> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn booted(name: &str, version: u64, origin: SecretOrigin, masked: bool) -> BootedSecret {
        BootedSecret { name: name.into(), version, origin, masked, created_at_ms: 1, updated_at_ms: 2 }
    }

    #[test]
    fn every_part_of_a_list_and_its_order_is_in_the_name_of_what_vouches_for_it() {
        use SecretOrigin::{Platform, Session};
        let lists = [
            vec![],
            vec![booted("A", 1, Session, true)],
            vec![booted("A", 1, Session, false)],
            vec![booted("A", 1, Platform, true)],
            vec![booted("A", 2, Session, true)],
            vec![booted("B", 1, Session, true)],
            vec![booted("A", 1, Session, true), booted("B", 1, Session, true)],
            vec![booted("B", 1, Session, true), booted("A", 1, Session, true)],
        ];
        let names: Vec<String> = lists.iter().map(list_name).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{index}");
            assert!(name.len() == 65 && name.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()));
            assert!(crate::SecretName::parse(name).is_err(), "no secret has such a name");
        }
    }
}
