//! What was found in accounts at providers that no agent owns, with when each was found first: it is removed only after
//! it has been so for a while. A row for each platform and provider, so that what one lists is in no other's way, and no
//! platform has more of them by naming ever other hosts.

use crate::table::{TTL, from_item, number, to_item, ttl_seconds};
use crate::{StoreError, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use theazo_tenancy::{Operator, PlatformId};

/// How long it is known of what is not heard of any more, since it was found first, milliseconds.
pub const OWNERLESS_MS: i64 = 24 * 60 * 60 * 1000;

/// Whose accounts at a provider: what their row is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerName(String);

impl OwnerName {
    /// That platform's accounts, or the deployment's own, at a provider.
    pub fn of(platform: Option<&PlatformId>, provider: &str) -> Self {
        Self(format!("{}#{provider}", platform.map_or("-", PlatformId::as_str)))
    }
}

/// What nobody owns, by where it is and what its agent is called there, and since when, Unix milliseconds.
pub type Ownerless = BTreeMap<String, i64>;

#[derive(Serialize, Deserialize)]
struct Row {
    found: Ownerless,
}

/// Reading and keeping that.
pub struct OrphanNotes {
    table: Table,
    operator: Operator,
}

impl OrphanNotes {
    /// Over that table.
    pub fn new(table: Table, operator: Operator) -> Self {
        Self { table, operator }
    }

    /// What is noted, of everybody's.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn load(&self) -> Result<HashMap<OwnerName, Ownerless>, StoreError> {
        let rows = self.table.query_all(&self.operator.orphans()).await?;
        let notes = rows.into_iter().map(|row| {
            let name = row.get("sk").and_then(|sk| sk.as_s().ok()).cloned().unwrap_or_default();
            Ok((OwnerName(name), from_item::<Row>(row)?.found))
        });
        notes.collect()
    }

    /// Notes what is to be remembered of somebody's accounts from now on.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn keep(&self, owner: &OwnerName, found: &Ownerless) -> Result<(), StoreError> {
        let key = self.operator.orphans().row(&owner.0);
        if found.is_empty() {
            return self.table.delete(&key).await;
        }
        let mut row = to_item(&key, &Row { found: found.clone() })?;
        row.insert(TTL.into(), number(ttl_seconds(self.table.now_ms().saturating_add(OWNERLESS_MS))));
        self.table.put_all(std::iter::once(row)).await
    }
}
