//! Making a platform secret a provider's credential: sealed under another label, out of every agent's reach.

use super::names;
use super::{OUT_OF_DATE_ATTEMPTS, SecretName, SecretTarget, ValueRow, same_key};
use crate::root_keys::is_out_of_date;
use crate::table::number;
use crate::transaction::{Expression, Transaction, back_off};
use crate::{KeyRing, StoreError, Table, now_ms};
use futures_util::future::{try_join, try_join3};
use theazo_tenancy::TenantScope;
use theazo_vault::{RecordHeader, SecretValue};

pub(crate) struct ProviderShield<'a> {
    pub(crate) table: &'a Table,
    pub(crate) keys: &'a KeyRing,
    /// What a value must be that becomes a credential, and otherwise why it is not.
    pub(crate) expect: Option<&'a ExpectCredential>,
}

/// Looks at a value: whether its provider could use it, or why not.
pub type ExpectCredential = dyn Fn(&SecretValue) -> Result<(), String> + Send + Sync;

impl ProviderShield<'_> {
    /// The writes that make a secret a credential, on condition that nothing has changed meanwhile.
    pub(crate) async fn shield(&self, scope: &TenantScope, name: &SecretName) -> Result<Transaction, StoreError> {
        let mut outcome = self.shield_once(scope, name).await;
        for attempt in 0..OUT_OF_DATE_ATTEMPTS {
            if !outcome.as_ref().is_err_and(is_out_of_date) {
                break;
            }
            back_off(attempt).await;
            outcome = self.shield_once(scope, name).await;
        }
        outcome
    }

    async fn shield_once(&self, scope: &TenantScope, name: &SecretName) -> Result<Transaction, StoreError> {
        let target = SecretTarget::Platform;
        let value_key = target.values(scope)?.row(name.canonical());
        let (mut names, platform, value) = try_join3(
            names::load(self.table, scope, &target),
            self.table.platform_row(scope),
            self.table.get_raw(&value_key),
        )
        .await?;
        let unknown = || StoreError::UnknownSecret(name.display().to_owned());
        let entry = names.entries.get_mut(name.canonical()).ok_or_else(unknown)?;
        let names_key = target.names_key(scope)?;
        let unchanged = Expression::new("revision = :read").value(":read", number(names.revision));
        if entry.provider {
            if let Some(expect) = self.expect {
                let access = CredentialAccess { table: self.table, keys: self.keys };
                let value = access.open_once(scope, name.canonical()).await?;
                expect(&value).map_err(StoreError::UnusableCredential)?;
            }
            // Written all the same: a deletion that has looked for configurations before this one must not go through.
            names.revision += 1;
            return Transaction::default().put(self.table, &names_key, &names, unchanged);
        }

        let old = ValueRow::parse(value.ok_or_else(unknown)?)?;
        let deployment = self.keys.deployment();
        let opening = self.keys.opening_key(&platform, RecordHeader::parse(&old.blob)?).await?;
        let value = theazo_vault::open(&opening, &old.context(deployment, scope, &target), &old.blob)?;
        if let Some(expect) = self.expect {
            expect(&value).map_err(StoreError::UnusableCredential)?;
        }

        let mut new = ValueRow { version: old.version + 1, provider: true, blob: Vec::new(), ..old };
        let sealing = self.keys.sealing_key(&platform).await?;
        new.blob = theazo_vault::seal(&sealing, &new.context(deployment, scope, &target), &value)?;
        entry.version = new.version;
        entry.provider = true;
        entry.updated_at_ms = now_ms();
        names.revision += 1;
        Ok(Transaction::default()
            .put(self.table, &names_key, &names, unchanged)?
            .check(self.table, &scope.platform_key(), same_key(&platform))
            .put_item(self.table, new.item(&value_key), Expression::default()))
    }
}

/// Opens values that are credentials, and no others.
pub(crate) struct CredentialAccess<'a> {
    pub(crate) table: &'a Table,
    pub(crate) keys: &'a KeyRing,
}

impl CredentialAccess<'_> {
    /// The credential of that canonical name. What a rotation has sealed anew since it was read is read again.
    pub(crate) async fn open(&self, scope: &TenantScope, name: &str) -> Result<SecretValue, StoreError> {
        let mut outcome = self.open_once(scope, name).await;
        for attempt in 0..OUT_OF_DATE_ATTEMPTS {
            if !outcome.as_ref().is_err_and(is_out_of_date) {
                break;
            }
            back_off(attempt).await;
            outcome = self.open_once(scope, name).await;
        }
        outcome
    }

    async fn open_once(&self, scope: &TenantScope, name: &str) -> Result<SecretValue, StoreError> {
        let target = SecretTarget::Platform;
        let value_key = target.values(scope)?.row(name);
        let platform = self.table.platform_row_until_gone(scope);
        let (platform, value) = try_join(platform, self.table.get_raw(&value_key)).await?;
        let row = ValueRow::parse(value.ok_or(StoreError::Corrupt("a provider's credential is not there"))?)?;
        if !row.provider {
            return Err(StoreError::Corrupt("a provider's credential is an ordinary secret"));
        }
        if row.expires_at_ms.is_some_and(|at| at <= now_ms()) {
            return Err(StoreError::Conflict("the provider's credential has expired"));
        }
        let key = self.keys.opening_key(&platform, RecordHeader::parse(&row.blob)?).await?;
        Ok(theazo_vault::open(&key, &row.context(self.keys.deployment(), scope, &target), &row.blob)?)
    }
}
