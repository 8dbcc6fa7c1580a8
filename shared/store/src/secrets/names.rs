//! Names: everything about a scope's secrets but their values.

use super::{MAX_NAMES_PER_SCOPE, MAX_SCOPE_BYTES, SecretTarget};
use crate::table::number;
use crate::transaction::Expression;
use crate::{StoreError, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use theazo_tenancy::ReadScope;

/// Listing names. Nothing reachable from here can hold a value.
#[derive(Clone)]
pub struct SecretNames(Table);

/// A scope's names, one row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ScopeNames {
    /// Changes with every write, for optimistic locking. 0 when there is no row yet.
    pub(crate) revision: u64,
    /// The highest version that a deleted secret had. A name that comes back starts above it, so that no name and
    /// version are ever used twice.
    pub(crate) floor: u64,
    /// By canonical name.
    pub(crate) entries: BTreeMap<String, SecretEntry>,
}

/// What is known of a secret without opening it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretEntry {
    /// The name as it was last written.
    pub display: String,
    /// Grows with every set.
    pub version: u64,
    /// Unix milliseconds of the first set.
    pub created_at_ms: i64,
    /// Unix milliseconds of the last set.
    pub updated_at_ms: i64,
    /// Bytes of the value, for the scope's limit.
    pub size: u64,
    /// When it stops being delivered, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at_ms: Option<i64>,
    /// Whether its value is masked in output.
    pub mask: bool,
    /// Whether sessions inherit it (platform secrets).
    pub inherit: bool,
    /// Whether it is a provider's credential, which no agent ever gets.
    pub provider: bool,
}

impl ScopeNames {
    /// Canonical names and entries, sorted by canonical name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &SecretEntry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Those that sessions inherit.
    #[must_use]
    pub fn only_inherited(mut self) -> Self {
        self.entries.retain(|_, entry| entry.inherit && !entry.provider);
        self
    }

    /// Those that are delivered at that moment, as far as their time goes.
    #[must_use]
    pub fn without_expired(mut self, now_ms: i64) -> Self {
        self.entries.retain(|_, entry| entry.expires_at_ms.is_none_or(|at| now_ms < at));
        self
    }

    /// These and those of another scope; of the same name, this scope's.
    #[must_use]
    pub fn merged_with(mut self, other: Self) -> Self {
        for (name, entry) in other.entries {
            self.entries.entry(name).or_insert(entry);
        }
        self
    }

    /// Those that another scope does not have.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.entries.retain(|name, _| !other.entries.contains_key(name));
        self
    }

    /// Holds while nobody has written these names since they were read.
    pub(crate) fn unchanged(&self) -> Expression {
        match self.revision {
            0 => Expression::new("attribute_not_exists(pk)"),
            read => Expression::new("revision = :read").value(":read", number(read)),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.size).sum()
    }

    pub(super) fn fits(&self) -> bool {
        self.entries.len() <= MAX_NAMES_PER_SCOPE && self.bytes() <= MAX_SCOPE_BYTES
    }

    /// Gives up names whose time is over; their values are dropped by the table. A credential stays while it is one.
    pub(super) fn forget_expired(&mut self, now_ms: i64) {
        let is_over = |entry: &SecretEntry| !entry.provider && entry.expires_at_ms.is_some_and(|at| at <= now_ms);
        let highest = self.entries.values().filter(|entry| is_over(entry)).map(|entry| entry.version).max();
        self.floor = self.floor.max(highest.unwrap_or(0));
        self.entries.retain(|_, entry| !is_over(entry));
    }

    /// The entry of a canonical name.
    pub fn get(&self, canonical: &str) -> Option<&SecretEntry> {
        self.entries.get(canonical)
    }
}

impl SecretNames {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// A scope's names; none yet is an empty scope.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a session that the scope does not reach.
    pub async fn load(&self, scope: &ReadScope, target: &SecretTarget) -> Result<ScopeNames, StoreError> {
        load(&self.0, scope, target).await
    }
}

pub(super) async fn load(table: &Table, scope: &ReadScope, target: &SecretTarget) -> Result<ScopeNames, StoreError> {
    Ok(table.get(&target.names_key(scope)?).await?.unwrap_or_default())
}
