//! Changes of agents' rows. Each is one transaction with what it moves in the session's counters and its audit entry.

use super::{Agent, AgentStatus, Agents, Intent, RETENTION_MS};
use crate::audit::Deed;
use crate::secrets::copies_of;
use crate::table::{TTL, number, to_item, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{AuditAction, AuditOutcome, StoreError, now_ms};
use theazo_tenancy::{AgentId, TenantScope};

const ATTEMPTS: u32 = 30;

pub(super) fn deed(agent: &Agent, action: AuditAction) -> Deed<'_> {
    let names = agent.secrets.iter().map(|secret| secret.name.as_str());
    Deed::done(action).names(names).session(&agent.session).agent(&agent.id)
}

/// A row as it shall be, and what the trail says of it.
pub(super) struct Change {
    pub(super) after: Agent,
    pub(super) deed: Option<(AuditAction, AuditOutcome)>,
}

/// What the trail says of an agent's new status.
fn outcome(before: &Agent, after: &Agent) -> Option<(AuditAction, AuditOutcome)> {
    let booted = before.status == AgentStatus::Booting;
    let boot = match before.intent {
        Some(Intent::Resuming) => AuditAction::AgentResume,
        Some(Intent::Restarting) => AuditAction::AgentRestart,
        _ => AuditAction::AgentBoot,
    };
    Some(match after.status {
        AgentStatus::Ready if booted => (boot, AuditOutcome::Succeeded),
        AgentStatus::Failed | AgentStatus::Paused if booted => (boot, AuditOutcome::Failed),
        AgentStatus::Paused if before.intent == Some(Intent::Pausing) => {
            (AuditAction::AgentPause, AuditOutcome::Succeeded)
        }
        AgentStatus::Completed => (AuditAction::AgentEnd, AuditOutcome::Succeeded),
        AgentStatus::Failed => (AuditAction::AgentEnd, AuditOutcome::Failed),
        _ => return None,
    })
}

impl Agents {
    /// Moves an agent to another status, with whatever else `change` sets, and gives it as it then is. What that
    /// changes in the session's counters is in the same transaction: places taken or given back, and the compute of a
    /// run that has ended. An agent that is already there stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when its state does not allow it; [`StoreError::Contended`].
    pub async fn transition(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        to: AgentStatus,
        change: impl Fn(&mut Agent),
    ) -> Result<Agent, StoreError> {
        self.transition_if(scope, id, to, |_| true, change).await
    }

    /// The same, as long as `holds` says so of the agent.
    ///
    /// # Errors
    /// As [`Agents::transition`]; [`StoreError::Conflict`] when it does not hold.
    pub async fn transition_if(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        to: AgentStatus,
        holds: impl Fn(&Agent) -> bool,
        change: impl Fn(&mut Agent),
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            if !holds(before) {
                return Err(StoreError::Conflict("the agent has changed"));
            }
            if before.status == to {
                return Ok(None);
            }
            if !before.status.can_become(to) {
                return Err(StoreError::Conflict("the agent's state does not allow it"));
            }
            let mut after = before.clone();
            after.enter(to, now_ms());
            change(&mut after);
            Ok(Some(Change { deed: outcome(before, &after), after }))
        };
        self.apply(scope, id, step).await
    }

    /// Writes what a step makes of an agent, on condition that nobody else has written it since; else it is read again.
    /// Nothing from the step leaves it as it is.
    pub(super) async fn apply(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        step: impl Fn(&Agent) -> Result<Option<Change>, StoreError>,
    ) -> Result<Agent, StoreError> {
        for attempt in 0..ATTEMPTS {
            let before = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            let Some(Change { mut after, deed: entry }) = step(&before)? else { return Ok(before) };
            let mut transaction = self.rewrite(scope, &mut after)?;
            transaction = self.book(transaction, scope, &before, &after)?;
            if let Some((action, outcome)) = entry {
                transaction = transaction.audit(&self.0, scope, deed(&after, action).with(outcome))?;
            }
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(after),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Notes that the provider holds nothing of an ended agent any more.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for an agent that has not ended; [`StoreError::Contended`].
    pub async fn settle(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        for attempt in 0..ATTEMPTS {
            let mut agent = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            self.remove_copies(scope, &agent).await?;
            if agent.sandbox_gone {
                return Ok(agent);
            }
            if !agent.status.is_over() {
                return Err(StoreError::Conflict("the agent has not ended"));
            }
            agent.sandbox_gone = true;
            let transaction =
                self.rewrite(scope, &mut agent)?.delete(&self.0, &scope.work_key(id), Expression::default());
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(agent),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Changes the session's counters by what lies between two states of an agent.
    pub(super) fn book(
        &self,
        transaction: Transaction,
        scope: &TenantScope,
        before: &Agent,
        after: &Agent,
    ) -> Result<Transaction, StoreError> {
        let places = i64::from(after.status.takes_place()) - i64::from(before.status.takes_place());
        let spent = after.ran_before_ms - before.ran_before_ms;
        if (places, spent) == (0, 0) {
            return Ok(transaction);
        }
        let own = scope.session(&after.session).ok_or(StoreError::NotFound)?;
        let counted = Expression::new("ADD active_agents :places, compute_ms :spent")
            .value(":places", number(places))
            .value(":spent", number(spent));
        Ok(transaction.update(&self.0, &own.counters_key(), counted, ""))
    }

    /// Removes the copies of what an agent booted with.
    async fn remove_copies(&self, scope: &TenantScope, agent: &Agent) -> Result<(), StoreError> {
        self.0.delete_all(copies_of(scope, agent)?.into_iter()).await
    }

    /// All of an agent's rows, on condition that nobody else has written them.
    pub(super) fn rewrite(&self, scope: &TenantScope, agent: &mut Agent) -> Result<Transaction, StoreError> {
        let own = scope.session(&agent.session).ok_or(StoreError::NotFound)?;
        let read = agent.revision;
        agent.revision += 1;
        let mut transaction = Transaction::default();
        for key in [own.agent_key_of_platform(&agent.id), own.agents().row(agent.id.as_str())] {
            let mut item = to_item(&key, agent)?;
            if let Some(ended) = agent.ended_at_ms.filter(|_| agent.sandbox_gone) {
                item.insert(TTL.into(), number(ttl_seconds(ended + RETENTION_MS)));
            }
            let unchanged = Expression::new("revision = :read").value(":read", number(read));
            transaction = transaction.put_item(&self.0, item, unchanged);
        }
        for key in [own.live_agent_key_of_platform(&agent.id), own.live_agents().row(agent.id.as_str())] {
            transaction = match agent.sandbox_gone {
                true => transaction.delete(&self.0, &key, Expression::default()),
                false => transaction.put(&self.0, &key, &agent.without_texts(), Expression::default())?,
            };
        }
        Ok(transaction)
    }
}
