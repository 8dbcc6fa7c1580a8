//! Platforms and their API keys, as the operator makes them.

use crate::credentials::{CredentialRow, KIND_API_KEY, hex_bytes};
use crate::page::RowFilter;
use crate::transaction::{Committed, Expression, Transaction};
use crate::{Page, PageRequest, StoreError, Table, now_ms};
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
#[derive(Serialize, Deserialize)]
pub(crate) struct PlatformRow {
    pub(crate) id: PlatformId,
    pub(crate) name: String,
    pub(crate) created_at_ms: i64,
    /// The salt of the platform's vault key.
    #[serde(with = "hex_bytes")]
    pub(crate) vault_salt: [u8; 32],
    pub(crate) vault_key_version: u32,
    #[serde(with = "hex_bytes")]
    pub(crate) cursor_key: [u8; 32],
}

/// What may be shown of a key.
#[derive(Serialize)]
struct ApiKeyRow<'a> {
    id: &'a KeyId,
    name: &'a str,
    prefix: &'a str,
    mode: &'a str,
    created_at_ms: i64,
    #[serde(with = "hex_bytes")]
    hash: [u8; 32],
}

impl Table {
    pub(crate) async fn platform_row(&self, scope: &ReadScope) -> Result<PlatformRow, StoreError> {
        self.get(&scope.platform_key()).await?.ok_or(StoreError::NotFound)
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
        let platform = Platform { id: PlatformId::make(), name: name.to_owned(), created_at_ms: now_ms() };
        let row = PlatformRow {
            id: platform.id.clone(),
            name: platform.name.clone(),
            created_at_ms: platform.created_at_ms,
            vault_salt: make_random_bytes(),
            vault_key_version: 1,
            cursor_key: make_random_bytes(),
        };
        let (live, test) = (make_api_key(&row.id, Mode::Live), make_api_key(&row.id, Mode::Test));
        let transaction = Transaction::default()
            .put_new(&self.table, &self.operator.platform_key(&row.id), &row)?
            .put_new(&self.table, &self.operator.directory().row(row.id.as_str()), &platform)?;
        let transaction = self.add_key(transaction, &row, Mode::Live, "first live key", &live, &KeyId::make())?;
        let transaction = self.add_key(transaction, &row, Mode::Test, "first test key", &test, &KeyId::make())?;
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
            Expression::new("attribute_exists(pk)"),
        );
        let id = KeyId::make();
        match self.add_key(exists, &row, mode, name, &key, &id)?.commit(&self.table).await? {
            Committed::Yes => Ok((id, key)),
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
        key: &IssuedKey,
        id: &KeyId,
    ) -> Result<Transaction, StoreError> {
        let credential = CredentialRow {
            id: id.clone(),
            kind: KIND_API_KEY.into(),
            platform: platform.id.clone(),
            mode: mode.as_str().into(),
            hash: key.hash,
            cursor_key: platform.cursor_key,
            expires_at_ms: None,
            revoked_at_ms: None,
        };
        let shown =
            ApiKeyRow { id, name, prefix: &key.prefix, mode: mode.as_str(), created_at_ms: now_ms(), hash: key.hash };
        transaction.put_new(&self.table, &self.operator.credential_key(&key.hash), &credential)?.put_new(
            &self.table,
            &self.operator.api_key_key(&platform.id, id),
            &shown,
        )
    }
}
