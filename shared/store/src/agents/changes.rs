//! Changes of agents' rows. Each is one transaction with what it moves in the session's counters and its audit and log
//! entries.

use super::moves::moved;
use super::{Agent, AgentStatus, Agents, Intent, RETENTION_MS};
use crate::AgentToken;
use crate::audit::Deed;
use crate::counters::CountersUpdate;
use crate::secrets::copies_of;
use crate::table::{Item, TTL, number, to_item, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{AuditAction, AuditOutcome, LogLevel, LogSource, NewLog, StoreError};
use serde_json::json;
use theazo_metering::Changes;
use theazo_tenancy::{AgentId, TableKey, TenantScope};

pub(super) const ATTEMPTS: u32 = 30;

pub(super) fn deed(agent: &Agent, action: AuditAction) -> Deed<'_> {
    let names = agent.secrets.iter().map(|secret| secret.name.as_str());
    Deed::done(action).names(names).session(&agent.session).agent(&agent.id)
}

/// A row as it shall be, and what the trail says of it.
pub(super) struct Change {
    pub(super) after: Agent,
    /// What its meter gave with that.
    pub(super) metered: Changes,
    pub(super) deeds: Vec<(AuditAction, AuditOutcome)>,
    /// The row of a token that becomes good with it.
    pub(super) token: Option<Item>,
    /// What the log says beside a new status.
    pub(super) news: Option<NewLog>,
    /// What other rows must say for it.
    pub(super) premises: Vec<(TableKey, Expression)>,
}

impl Change {
    /// Of the row and nothing else.
    pub(super) fn to(after: Agent) -> Self {
        Self { after, metered: Changes::default(), deeds: Vec::new(), token: None, news: None, premises: Vec::new() }
    }
}

/// What the trail says of an agent's new status. A boot or a pause that an end has overtaken has not succeeded, whatever
/// came of it in its sandbox.
pub(super) fn outcomes(before: &Agent, after: &Agent) -> Vec<(AuditAction, AuditOutcome)> {
    let begun = match (before.status, before.intent) {
        (AgentStatus::Booting, Some(Intent::Resuming)) => Some(AuditAction::AgentResume),
        (AgentStatus::Booting, Some(Intent::Restarting)) => Some(AuditAction::AgentRestart),
        (AgentStatus::Booting, Some(Intent::Retrying)) => Some(AuditAction::AgentRetry),
        (AgentStatus::Booting, _) => Some(AuditAction::AgentBoot),
        // What runs of it against its row is being stopped: nothing that anybody has asked for.
        (AgentStatus::Paused, _) => None,
        (_, Some(Intent::Pausing)) => Some(AuditAction::AgentPause),
        _ => None,
    };
    let is_pause = begun == Some(AuditAction::AgentPause);
    let (outcome, end) = match after.status {
        AgentStatus::Ready => (AuditOutcome::Succeeded, None),
        AgentStatus::Paused if is_pause => (AuditOutcome::Succeeded, None),
        AgentStatus::Paused => (AuditOutcome::Failed, None),
        AgentStatus::Failed if begun.is_some() && !is_pause => (AuditOutcome::Failed, None),
        AgentStatus::Failed => (AuditOutcome::Failed, Some(AuditOutcome::Failed)),
        AgentStatus::Completed => (AuditOutcome::Failed, Some(AuditOutcome::Succeeded)),
        AgentStatus::Booting | AgentStatus::Running => return Vec::new(),
    };
    let end = end.map(|outcome| (AuditAction::AgentEnd, outcome));
    begun.map(|action| (action, outcome)).into_iter().chain(end).collect()
}

/// What the log says of an agent's new status.
pub(super) fn status_log(agent: &Agent, from: Option<AgentStatus>, reason: Option<&str>) -> NewLog {
    let level = if agent.status == AgentStatus::Failed { LogLevel::Error } else { LogLevel::Info };
    let mut message = format!("agent is {}", agent.status.as_str());
    let mut details = json!({ "event": "agent.status", "status": agent.status, "from": from });
    if let Some(reason) = reason {
        message = format!("{message}: {reason}");
        details["reason"] = reason.into();
    }
    NewLog::of_agent(agent, level, LogSource::System, message).metadata(&details)
}

/// An agent as it is in another status, and what its meter gave with that; nothing if it is there already.
fn entering(
    before: &Agent,
    to: AgentStatus,
    now_ms: i64,
    holds: impl Fn(&Agent) -> bool,
    change: impl Fn(&mut Agent),
) -> Result<Option<(Agent, Changes)>, StoreError> {
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
    let metered = after.enter(to, now_ms);
    change(&mut after);
    Ok(Some((after, metered)))
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
        self.transition_because(scope, id, to, None, holds, change).await
    }

    /// The same, with what the log says of the cause, in front of the new status.
    ///
    /// # Errors
    /// As [`Agents::transition_if`].
    pub async fn transition_because(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        to: AgentStatus,
        cause: Option<NewLog>,
        holds: impl Fn(&Agent) -> bool,
        change: impl Fn(&mut Agent),
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            let entered = entering(before, to, self.0.now_ms(), &holds, &change)?;
            Ok(entered.map(|(after, metered)| Change {
                deeds: outcomes(before, &after),
                metered,
                news: cause.clone(),
                ..Change::to(after)
            }))
        };
        self.apply(scope, id, step).await
    }

    /// Moves an agent that booted to ready, likewise, and makes the token good that was delivered to its sandbox. With the
    /// end of the run that begins here the token ends.
    ///
    /// # Errors
    /// As [`Agents::transition_if`].
    pub async fn become_ready(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        token: Option<&AgentToken>,
        holds: impl Fn(&Agent) -> bool,
        change: impl Fn(&mut Agent),
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            let entered = entering(before, AgentStatus::Ready, self.0.now_ms(), &holds, &change)?;
            let Some((mut after, metered)) = entered else { return Ok(None) };
            let token = token.map(|token| token.issue(&self.0, scope, &mut after)).transpose()?;
            let news = moved(before, &after);
            Ok(Some(Change { deeds: outcomes(before, &after), metered, token, news, ..Change::to(after) }))
        };
        self.apply(scope, id, step).await
    }

    /// Writes what a step makes of an agent, on condition that nobody else has written it since; else it is read again.
    /// Nothing from the step leaves it as it is. [`StoreError::Overtaken`] when one of its premises does not hold.
    pub(super) async fn apply(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        step: impl Fn(&Agent) -> Result<Option<Change>, StoreError>,
    ) -> Result<Agent, StoreError> {
        for attempt in 0..ATTEMPTS {
            let before = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            let before = self.catch_up(scope, before).await?;
            let Some(Change { mut after, metered, deeds, token, news, premises }) = step(&before)? else {
                return Ok(before);
            };
            let count = premises.len();
            let mut transaction = Transaction::default();
            for (key, condition) in premises {
                transaction = transaction.check(&self.0, &key, condition);
            }
            let mut transaction = transaction.and(self.rewrite(scope, &mut after)?);
            if let Some(row) = token {
                transaction = transaction.put_item(&self.0, row, Expression::new("attribute_not_exists(pk)"));
            }
            transaction = self.book(transaction, scope, &before, &after, &metered)?;
            for (action, outcome) in deeds {
                transaction = transaction.audit(&self.0, scope, deed(&after, action).with(outcome))?;
            }
            let own = scope.session(&after.session).ok_or(StoreError::NotFound)?;
            transaction = transaction.measure_boot(&self.0, &own, &before, &after);
            let status = (after.status != before.status).then(|| {
                // What has nothing but its own time against it says so; a limit has an entry of its own.
                let is_timeout = before.status.takes_calls()
                    && after.status == AgentStatus::Completed
                    && self.0.now_ms() >= before.deadline_ms();
                status_log(&after, Some(before.status), is_timeout.then_some("timeout"))
            });
            transaction = transaction.log(&self.0, scope, news.into_iter().chain(status))?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(after),
                Committed::Refused { write, .. } if write < count => return Err(StoreError::Overtaken),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Notes that the provider holds nothing of an ended agent any more, and removes the copies of what it booted with. One
    /// that was ended while it booted stays on the work list as long as that boot may still be writing copies.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for an agent that has not ended; [`StoreError::Contended`].
    pub async fn settle(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        self.settle_if(scope, id, |agent| agent.boot_writes_until_ms.is_none_or(|until| until <= self.0.now_ms())).await
    }

    /// The same in the name of the boot itself, which has written all that it will.
    ///
    /// # Errors
    /// As [`Agents::settle`].
    pub async fn settle_own_boot(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        self.settle_if(scope, id, |_| true).await
    }

    async fn settle_if(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        nobody_writes: impl Fn(&Agent) -> bool,
    ) -> Result<Agent, StoreError> {
        for attempt in 0..ATTEMPTS {
            let mut agent = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            self.remove_copies(scope, &agent).await?;
            let is_written = !nobody_writes(&agent) || agent.is_being_kept(self.0.now_ms());
            if agent.sandbox_gone || (agent.status.is_over() && is_written) {
                return Ok(agent);
            }
            if !agent.status.is_over() {
                return Err(StoreError::Conflict("the agent has not ended"));
            }
            agent.sandbox_gone = true;
            (agent.only_kept, agent.own_files, agent.restores) = (false, false, None);
            agent.checkpoints.clear();
            agent.left_on.clear();
            let transaction =
                self.rewrite(scope, &mut agent)?.delete(&self.0, &scope.work_key(id), Expression::default());
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(agent),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Changes the session's counters by what lies between two states of an agent and by what its meter gave.
    pub(super) fn book(
        &self,
        transaction: Transaction,
        scope: &TenantScope,
        before: &Agent,
        after: &Agent,
        metered: &Changes,
    ) -> Result<Transaction, StoreError> {
        let places = i64::from(after.status.takes_place()) - i64::from(before.status.takes_place());
        let update = CountersUpdate::of(metered, self.0.now_ms()).add("active_agents", places);
        let stored = if after.status == before.status { Vec::new() } else { before.stored(after.since_ms) };
        let transaction = self.give_place_back(transaction, scope, before, after)?;
        self.count(transaction, scope, after, update, metered, &stored)
    }

    /// Removes the copies of what an agent booted with. The row of one that has booted again names only what its last
    /// boot was to get: what an earlier one got may still lie there. Which functions may look for that is recorded;
    /// where one may not, the scheduled clean-up does it.
    pub(super) async fn remove_copies(&self, scope: &TenantScope, agent: &Agent) -> Result<(), StoreError> {
        match agent.boots {
            0 | 1 => self.0.delete_all(copies_of(scope, agent)?.into_iter()).await,
            _ => self.drop_copies(scope, &agent.id).await,
        }
    }

    /// All of an agent's rows, on condition that nobody else has written them, be it that it has a call. The token of one that
    /// does not run ends.
    pub(super) fn rewrite(&self, scope: &TenantScope, agent: &mut Agent) -> Result<Transaction, StoreError> {
        let own = scope.session(&agent.session).ok_or(StoreError::NotFound)?;
        let read = agent.revision;
        agent.revision += 1;
        let ended = if agent.run_started_ms.is_none() { agent.take_token(scope) } else { None };
        let mut transaction = Transaction::default();
        let of_platform = own.agent_key_of_platform(&agent.id);
        for key in [&of_platform, &own.agents().row(agent.id.as_str())] {
            let mut item = to_item(key, agent)?;
            if let Some(ended) = agent.ended_at_ms.filter(|_| agent.sandbox_gone) {
                item.insert(TTL.into(), number(ttl_seconds(ended + RETENTION_MS)));
            }
            let unchanged = match agent.busy_until_ms {
                // A call is noted in both rows at once: one of them tells.
                _ if *key != of_platform => Expression::new("revision = :read"),
                None => Expression::new("revision = :read AND attribute_not_exists(busy_until_ms)"),
                Some(busy) => {
                    let not_later = "(attribute_not_exists(busy_until_ms) OR busy_until_ms <= :busy)";
                    Expression::new(&format!("revision = :read AND {not_later}")).value(":busy", number(busy))
                }
            };
            transaction = transaction.put_item(&self.0, item, unchanged.value(":read", number(read)));
        }
        for key in [own.live_agent_key_of_platform(&agent.id), own.live_agents().row(agent.id.as_str())] {
            transaction = match agent.sandbox_gone {
                true => transaction.delete(&self.0, &key, Expression::default()),
                false => transaction.put(&self.0, &key, &agent.without_texts(), Expression::default())?,
            };
        }
        if let Some(key) = ended {
            transaction = transaction.delete(&self.0, &key, Expression::default());
        }
        Ok(transaction)
    }
}
