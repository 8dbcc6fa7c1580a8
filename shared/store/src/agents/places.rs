//! Places at providers: how many of a platform's agents may run at one of them at a time, where the platform has said so.
//!
//! A row of the platform counts the places that are taken, and an agent's row says whether it has one; both change in the
//! transaction in which the agent boots or stops. Without a limit nothing is counted, so that boots of one platform do not
//! wait for one row. An agent that runs when a limit is first set takes a place when it is next resumed.

use super::{Agent, Agents};
use crate::StoreError;
use crate::table::number;
use crate::transaction::{Expression, Transaction};
use theazo_tenancy::TenantScope;

/// There is no place left for that agent.
pub(super) fn full(agent: &Agent, max: Option<u32>) -> StoreError {
    StoreError::ProviderFull { provider: agent.provider.clone(), max: max.unwrap_or(0) }
}

impl Agents {
    /// Adds to a transaction that the agent takes a place at its provider, on condition that one is left. It is the only
    /// write that this adds. Without a limit there is none.
    ///
    /// # Errors
    /// [`StoreError::ProviderFull`] where no agent may run at all.
    pub(super) fn take_place(
        &self,
        transaction: Transaction,
        scope: &TenantScope,
        agent: &Agent,
        max: Option<u32>,
    ) -> Result<Transaction, StoreError> {
        let Some(max) = max else { return Ok(transaction) };
        if max == 0 {
            return Err(full(agent, Some(max)));
        }
        let one_more =
            Expression::new("ADD active :one").value(":one", number(1)).value(":max", number(i64::from(max)));
        let left = "attribute_not_exists(active) OR active < :max";
        Ok(transaction.update(&self.0, &scope.provider_counters()?.row(&agent.provider), one_more, left))
    }

    /// Adds to a transaction that an agent gives its place back, if it had one and has none any more.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a scope that reaches no agent.
    pub(super) fn give_place_back(
        &self,
        transaction: Transaction,
        scope: &TenantScope,
        before: &Agent,
        after: &Agent,
    ) -> Result<Transaction, StoreError> {
        if !before.has_place || after.has_place {
            return Ok(transaction);
        }
        let one_less = Expression::new("ADD active :less").value(":less", number(-1));
        Ok(transaction.update(&self.0, &scope.provider_counters()?.row(&before.provider), one_less, ""))
    }
}
