//! Platforms and their API keys, as the operator makes them.

use crate::audit::Deed;
use crate::credentials::hex_bytes;
use crate::page::RowFilter;
use crate::table::from_item;
use crate::transaction::{Committed, Transaction};
use crate::{ApiKey, AuditAction, NewApiKey, Page, PageRequest, StoreError, Table, api_keys, now_ms};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use theazo_tenancy::{IssuedKey, KeyId, Mode, Operator, PlatformId, ReadScope, make_api_key, make_random_bytes};

/// Making platforms and keys. For the operator's command line and the local stack's set-up.
pub struct Platforms {
    table: Table,
    operator: Operator,
}

/// A platform as the operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Platform {
    /// Its id.
    pub id: PlatformId,
    /// Its name, for people.
    pub name: String,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// When its deletion began, which is not finished yet, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deleted_at_ms: Option<i64>,
    /// Since when it is suspended, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub suspended_at_ms: Option<i64>,
}

/// A platform that was just made, with its first keys.
pub struct NewPlatform {
    /// The platform.
    pub platform: Platform,
    /// Its live key.
    pub live: IssuedKey,
    /// Its test key.
    pub test: IssuedKey,
}

/// The platform's own row: what the vault and authentication derive from.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct PlatformRow {
    pub(crate) id: PlatformId,
    pub(crate) name: String,
    pub(crate) created_at_ms: i64,
    /// The salt of the platform's vault key.
    #[serde(with = "hex_bytes")]
    pub(crate) vault_salt: [u8; 32],
    pub(crate) vault_key_version: u32,
    /// Salts of earlier vault keys, as long as a value may lie sealed under one: while the key is being rotated.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) vault_previous: Vec<PreviousSalt>,
    #[serde(with = "hex_bytes")]
    pub(crate) cursor_key: [u8; 32],
}

/// The salt of an earlier vault key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PreviousSalt {
    pub(crate) version: u32,
    #[serde(with = "hex_bytes")]
    pub(crate) salt: [u8; 32],
}

impl PlatformRow {
    /// The salt of that version of the vault key, if a value may lie sealed under it.
    pub(crate) fn salt_of(&self, version: u32) -> Option<[u8; 32]> {
        if version == self.vault_key_version {
            return Some(self.vault_salt);
        }
        self.vault_previous.iter().find(|previous| previous.version == version).map(|previous| previous.salt)
    }
}

/// The attribute that marks a platform's row from the moment its deletion begins.
pub(crate) const DELETED_AT: &str = "deleted_at_ms";
/// Where the salt of its vault key is from then on, out of the way of whoever would seal with it.
pub(crate) const RETIRED_SALT: &str = "retired_vault_salt";

impl Table {
    pub(crate) async fn platform_row(&self, scope: &ReadScope) -> Result<PlatformRow, StoreError> {
        let row = self.get_raw(&scope.platform_key()).await?;
        // Of a platform that is being deleted nothing is opened or written any more.
        let row = row.filter(|row| !row.contains_key(DELETED_AT)).ok_or(StoreError::NotFound)?;
        from_item(row)
    }

    /// The same also of a platform that is being deleted, for opening the one thing that is still needed of it: the
    /// credential of the provider where its last agents are to be ended.
    pub(crate) async fn platform_row_until_gone(&self, scope: &ReadScope) -> Result<PlatformRow, StoreError> {
        let mut row = self.get_raw(&scope.platform_key()).await?.ok_or(StoreError::NotFound)?;
        if row.contains_key(DELETED_AT) {
            let salt = row.remove(RETIRED_SALT).ok_or(StoreError::NotFound)?;
            row.insert("vault_salt".into(), salt);
            // Its own is gone, and no cursor is good with this one.
            let unusable = hex::encode(make_random_bytes::<32>());
            row.insert("cursor_key".into(), AttributeValue::S(unusable));
        }
        from_item(row)
    }
}

impl Platforms {
    /// Over that table.
    pub fn new(table: Table, operator: Operator) -> Self {
        Self { table, operator }
    }

    /// Makes a platform with one live and one test key, all in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn create(&self, name: &str) -> Result<NewPlatform, StoreError> {
        let platform = Platform {
            id: PlatformId::make(),
            name: name.to_owned(),
            created_at_ms: now_ms(),
            deleted_at_ms: None,
            suspended_at_ms: None,
        };
        let row = PlatformRow {
            id: platform.id.clone(),
            name: platform.name.clone(),
            created_at_ms: platform.created_at_ms,
            vault_salt: make_random_bytes(),
            vault_key_version: 1,
            vault_previous: Vec::new(),
            cursor_key: make_random_bytes(),
        };
        let (live, test) = (make_api_key(&row.id, Mode::Live), make_api_key(&row.id, Mode::Test));
        let transaction = Transaction::default()
            .put_new(&self.table, &self.operator.platform_key(&row.id), &row)?
            .put_new(&self.table, &self.operator.directory().row(row.id.as_str()), &platform)?;
        let (transaction, _) = self.add_key(transaction, &row, Mode::Live, "first live key", &live)?;
        let (transaction, _) = self.add_key(transaction, &row, Mode::Test, "first test key", &test)?;
        match transaction.commit(&self.table).await? {
            Committed::Yes => Ok(NewPlatform { platform, live, test }),
            Committed::Refused { .. } => Err(StoreError::Conflict("an id was made twice")),
        }
    }

    /// Makes another key for a platform.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such platform.
    pub async fn create_key(
        &self,
        platform: &PlatformId,
        mode: Mode,
        name: &str,
    ) -> Result<(KeyId, IssuedKey), StoreError> {
        let row = self.table.platform_row(&self.operator.tenant(platform, mode)).await?;
        let key = make_api_key(platform, mode);
        let exists = Transaction::default().check(
            &self.table,
            &self.operator.platform_key(platform),
            api_keys::platform_lives(),
        );
        let (transaction, shown) = self.add_key(exists, &row, mode, name, &key)?;
        match transaction.commit(&self.table).await? {
            Committed::Yes => Ok((shown.id, key)),
            Committed::Refused { write: 0, .. } => Err(StoreError::NotFound),
            Committed::Refused { .. } => Err(StoreError::Conflict("an id was made twice")),
        }
    }

    /// The platforms of this deployment, newest first.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(&self, page: &PageRequest) -> Result<Page<Platform>, StoreError> {
        self.table.page(&self.operator.directory(), page, RowFilter::default()).await
    }

    fn add_key(
        &self,
        transaction: Transaction,
        platform: &PlatformRow,
        mode: Mode,
        name: &str,
        issued: &IssuedKey,
    ) -> Result<(Transaction, ApiKey), StoreError> {
        let new = NewApiKey { name: name.to_owned(), mode, expires_at_ms: None };
        let key = api_keys::shown(&new, issued);
        let scope = self.operator.tenant(&platform.id, mode);
        let deed = Deed::done(AuditAction::KeyCreate).names([key.id.as_str()]);
        let transaction = api_keys::put_key(transaction, &self.table, &scope, platform.cursor_key, issued, &key)?;
        Ok((transaction.audit(&self.table, &scope, deed)?, key))
    }
}
