//! Providers as a platform configured them. Credentials are secrets of the vault, named here and kept there.

use crate::table::from_item;
use crate::{StoreError, Table};
use serde::{Deserialize, Serialize};
use theazo_tenancy::ReadScope;

/// Reading a platform's provider configuration.
#[derive(Clone)]
pub struct ProviderConfigs(Table);

/// A configured provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderConfig {
    /// The provider's name.
    pub provider: String,
    /// Canonical name of the platform secret that holds its credential.
    pub credential: String,
}

impl ProviderConfigs {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// All configured providers.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(&self, scope: &ReadScope) -> Result<Vec<ProviderConfig>, StoreError> {
        self.0.query_all(&scope.providers()).await?.into_iter().map(from_item).collect()
    }
}
