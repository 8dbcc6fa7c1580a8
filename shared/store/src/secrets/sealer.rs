//! Writing secrets: sealing, replacing, deleting.

use super::names::{self, ScopeNames, SecretEntry};
use super::{MAX_NAMES_PER_SCOPE, MAX_SCOPE_BYTES, SecretName, SecretTarget, ValueRow, same_key};
use crate::audit::Deed;
use crate::platforms::PlatformRow;
use crate::sessions::session_key;
use crate::table::number;
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{AuditAction, Deleted, KeyRing, StoreError, Table, now_ms, provider_configs};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join;
use theazo_tenancy::{Partition, ReadScope, SessionId, TenantScope};
use theazo_vault::{Flags, PlatformKey, SecretValue};

const ATTEMPTS: u32 = 60;

/// Writing values. It seals and deletes; it has no way to open.
#[derive(Clone)]
pub struct SecretSealer {
    table: Table,
    keys: KeyRing,
}

/// What a set or delete starts from: a scope's names, and what the platform's vault key is derived from.
pub struct ScopeState {
    names: ScopeNames,
    platform: PlatformRow,
}

/// A secret to be set.
pub struct NewSecret {
    /// Its name.
    pub name: SecretName,
    /// Its value.
    pub value: SecretValue,
    /// When it stops being delivered, Unix milliseconds.
    pub expires_at_ms: Option<i64>,
    /// Whether its value is masked in output.
    pub mask: bool,
    /// Whether sessions inherit it.
    pub inherit: bool,
}

fn deed(target: &SecretTarget, action: AuditAction) -> Deed<'_> {
    match target {
        SecretTarget::Platform => Deed::done(action),
        SecretTarget::Session(id) => Deed::done(action).session(id),
    }
}

impl SecretSealer {
    /// Over that table, with those keys.
    pub fn new(table: Table, keys: KeyRing) -> Self {
        Self { table, keys }
    }

    /// Reads what a set or delete starts from. It may be out of date by the time it is used; it is then read again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a session that the scope does not reach.
    pub async fn load(&self, scope: &ReadScope, target: &SecretTarget) -> Result<ScopeState, StoreError> {
        let names = names::load(&self.table, scope, target);
        let (names, platform) = try_join(names, self.table.platform_row(scope)).await?;
        Ok(ScopeState { names, platform })
    }

    /// Sets secrets, all or none, merging with those that are there. `read` is what [`SecretSealer::load`] gave.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the session is absent or terminated; [`StoreError::ScopeFull`];
    /// [`StoreError::Kms`] when no key can be had; [`StoreError::Contended`].
    pub async fn set(
        &self,
        scope: &TenantScope,
        target: &SecretTarget,
        mut read: ScopeState,
        secrets: &[NewSecret],
    ) -> Result<(), StoreError> {
        for attempt in 0..ATTEMPTS {
            let key = self.keys.sealing_key(&read.platform).await?;
            let transaction = self.set_once(scope, target, read, secrets, &key)?;
            match transaction.commit(&self.table).await? {
                Committed::Yes => return Ok(()),
                // The names or the platform's key have changed since they were read.
                Committed::Refused { write: 0 | 1, .. } => back_off(attempt).await,
                Committed::Refused { .. } => return Err(StoreError::NotFound),
            }
            read = self.load(scope, target).await?;
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Deletes a secret, row and name, at once.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not there; [`StoreError::Conflict`] while a provider uses it;
    /// [`StoreError::Contended`].
    pub async fn delete(
        &self,
        scope: &TenantScope,
        target: &SecretTarget,
        read: ScopeState,
        canonical: &str,
    ) -> Result<(), StoreError> {
        let values = target.values(scope)?;
        let mut read = read.names;
        for attempt in 0..ATTEMPTS {
            let old_revision = read.revision;
            let entry = read.entries.remove(canonical).ok_or(StoreError::NotFound)?;
            if entry.provider {
                let configured = provider_configs::list(&self.table, scope).await?;
                if configured.iter().any(|config| config.credential == canonical) {
                    return Err(StoreError::Conflict("a provider's configuration uses the secret"));
                }
            }
            read.floor = read.floor.max(entry.version);
            read.revision += 1;
            let transaction = self.put_names(Transaction::default(), scope, target, &read, old_revision)?.delete(
                &self.table,
                &values.row(canonical),
                Expression::default(),
            );
            let transaction = transaction
                .note_deletion(&self.table, scope, Deleted::secret(target, canonical, read.floor))?
                .audit(&self.table, scope, deed(target, AuditAction::SecretsDelete).names([canonical]))?;
            match transaction.commit(&self.table).await? {
                Committed::Yes => return Ok(()),
                Committed::Refused { .. } => back_off(attempt).await,
            }
            read = names::load(&self.table, scope, target).await?;
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Removes everything of a terminated session's secrets. Idempotent, and safe to be interrupted.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn remove_all(&self, scope: &TenantScope, session: &SessionId) -> Result<(), StoreError> {
        let target = SecretTarget::Session(session.clone());
        let values = target.values(scope)?;
        for name in self.value_names(&values).await? {
            self.table.delete(&values.row(&name)).await?;
        }
        self.table.delete(&target.names_key(scope)?).await
    }

    async fn value_names(&self, values: &Partition) -> Result<Vec<String>, StoreError> {
        let rows = self.table.query_all(values).await?;
        Ok(rows.into_iter().filter_map(|row| row.get("sk")?.as_s().ok().cloned()).collect())
    }

    fn set_once(
        &self,
        scope: &TenantScope,
        target: &SecretTarget,
        read: ScopeState,
        secrets: &[NewSecret],
        key: &PlatformKey,
    ) -> Result<Transaction, StoreError> {
        let ScopeState { mut names, platform } = read;
        let now = now_ms();
        let values = target.values(scope)?;
        let old_revision = names.revision;
        let mut rows = Vec::with_capacity(secrets.len());
        for secret in secrets {
            let canonical = secret.name.canonical();
            let old = names.entries.get(canonical);
            let version = old.map_or(names.floor, |entry| entry.version) + 1;
            let provider = old.is_some_and(|entry| entry.provider);
            let mut row = ValueRow {
                name: canonical.to_owned(),
                version,
                expires_at_ms: secret.expires_at_ms,
                flags: Flags { mask: secret.mask, inherit: secret.inherit },
                provider,
                blob: Vec::new(),
            };
            row.blob = theazo_vault::seal(key, &row.context(self.keys.deployment(), scope, target), &secret.value)?;
            rows.push(row.item(&values.row(canonical)));
            let entry = SecretEntry {
                display: secret.name.display().to_owned(),
                version,
                created_at_ms: old.map_or(now, |entry| entry.created_at_ms),
                updated_at_ms: now,
                size: secret.value.len() as u64,
                expires_at_ms: secret.expires_at_ms,
                mask: secret.mask,
                inherit: secret.inherit,
                provider,
            };
            names.entries.insert(canonical.to_owned(), entry);
        }
        if !names.fits() {
            names.forget_expired(now);
        }
        if names.entries.len() > MAX_NAMES_PER_SCOPE {
            return Err(StoreError::ScopeFull("at most 100 secrets"));
        }
        if names.bytes() > MAX_SCOPE_BYTES {
            return Err(StoreError::ScopeFull("at most 256 KiB of values"));
        }
        names.revision += 1;
        let mut transaction = self.put_names(Transaction::default(), scope, target, &names, old_revision)?;
        transaction = transaction.check(&self.table, &scope.platform_key(), same_key(&platform));
        if let SecretTarget::Session(id) = target {
            let alive = Expression::new("attribute_exists(pk) AND #s <> :over")
                .name("#s", "status")
                .value(":over", AttributeValue::S("terminated".into()));
            transaction = transaction.check(&self.table, &session_key(scope, id)?, alive);
        }
        for row in rows {
            transaction = transaction.put_item(&self.table, row, Expression::default());
        }
        let names = secrets.iter().map(|secret| secret.name.canonical());
        transaction.audit(&self.table, scope, deed(target, AuditAction::SecretsSet).names(names))
    }

    fn put_names(
        &self,
        transaction: Transaction,
        scope: &TenantScope,
        target: &SecretTarget,
        names: &ScopeNames,
        old_revision: u64,
    ) -> Result<Transaction, StoreError> {
        let unchanged = match old_revision {
            0 => Expression::new("attribute_not_exists(pk)"),
            read => Expression::new("revision = :read").value(":read", number(read)),
        };
        transaction.put(&self.table, &target.names_key(scope)?, names, unchanged)
    }
}
