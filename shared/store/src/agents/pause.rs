//! Pausing agents and booting them again. Each begins with a row that says what is attempted, before the provider is
//! asked, and ends with one that says how it went; whoever finds the first without the second knows what to do.

use super::changes::{Change, deed, status_log};
use super::reasons::PauseReason;
use super::stops::StopAttempt;
use super::{Agent, AgentStatus, Agents, BootedSecret, Intent, PausedBy, Snapshot, metering, places};
use crate::counters::CountersUpdate;
use crate::sessions::unchanged_and_active;
use crate::table::number;
use crate::transaction::{Committed, Expression, Transaction};
use crate::{AuditAction, AuditOutcome, Counters, Limits, NewLog, Session, StoreError};
use futures_util::future::try_join;
use theazo_tenancy::{AgentId, CheckpointId, SnapshotId, TenantScope};

/// How exactly it is known when an agent had its last call, milliseconds.
const BUSY_STEP_MS: i64 = 30_000;

/// What an agent that has run before boots with.
#[derive(Default)]
pub struct NextBoot {
    /// The secrets that it gets.
    pub secrets: Vec<BootedSecret>,
    /// How many agents may run at its provider at a time.
    pub max_concurrent: Option<u32>,
    /// Of which of its checkpoints it gets the files, if not those that it has.
    pub checkpoint: Option<CheckpointId>,
    /// Which other of its platform's hosts it moves to.
    pub moving_to: Option<String>,
}

impl From<Vec<BootedSecret>> for NextBoot {
    fn from(secrets: Vec<BootedSecret>) -> Self {
        Self { secrets, ..Self::default() }
    }
}

impl Agents {
    /// Notes that a running agent is to be paused. From then on it takes no calls. One that is paused already, or about
    /// to be, stays so; but what the platform pauses, only the platform resumes, whoever was first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for one that boots or is over; [`StoreError::Contended`].
    pub async fn begin_pause(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        reason: impl Into<PauseReason>,
    ) -> Result<Agent, StoreError> {
        self.begin_pause_if(scope, id, reason, &StopAttempt::make(), |_| true).await
    }

    /// The same, as long as `holds` says so of an agent that runs. Unless somebody else is at it, its sandbox is to be stopped
    /// by that attempt.
    ///
    /// # Errors
    /// As [`Agents::begin_pause`]; [`StoreError::Conflict`] when it does not hold; [`StoreError::Overtaken`] when the reason
    /// does not.
    pub async fn begin_pause_if(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        reason: impl Into<PauseReason>,
        attempt: &StopAttempt,
        holds: impl Fn(&Agent) -> bool,
    ) -> Result<Agent, StoreError> {
        let reason = reason.into();
        let by = reason.by();
        let step = |before: &Agent| {
            let (mut after, now) = (before.clone(), self.0.now_ms());
            match (before.status, before.intent) {
                (AgentStatus::Ready | AgentStatus::Running, None) if !holds(before) => {
                    Err(StoreError::Conflict("the agent has changed"))
                }
                (AgentStatus::Ready | AgentStatus::Running, None) if !reason.holds_of(before, now) => {
                    Err(StoreError::Overtaken)
                }
                (AgentStatus::Ready | AgentStatus::Running, None) => {
                    after.intent = Some(Intent::Pausing);
                    after.paused_by = Some(by);
                    after.snapshot = Some(Snapshot { id: SnapshotId::make(), bytes: None });
                    after.since_ms = now;
                    after.stopping = Some(attempt.from(now));
                    let news = reason.log(&after);
                    let deeds = vec![(AuditAction::AgentPause, AuditOutcome::Started)];
                    let own = scope.session(&after.session).ok_or(StoreError::NotFound)?;
                    let premises = reason.premises(&own)?;
                    Ok(Some(Change { deeds, news, premises, ..Change::to(after) }))
                }
                (AgentStatus::Paused, _) | (_, Some(Intent::Pausing)) => {
                    let takes_up = before.status != AgentStatus::Paused && !before.is_stopped_by_another(attempt, now);
                    if takes_up && !before.is_stopped_by(attempt) {
                        after.stopping = Some(attempt.from(now));
                    }
                    let mut deeds = Vec::new();
                    if by == PausedBy::Platform && before.paused_by != Some(by) {
                        after.paused_by = Some(by);
                        deeds.push((AuditAction::AgentPause, AuditOutcome::Succeeded));
                    }
                    // A session's own pause that does not come about must not let its agent run on.
                    let is_its_own =
                        before.status != AgentStatus::Paused && before.paused_by == Some(PausedBy::Session);
                    let (mut news, mut premises) = (None, Vec::new());
                    if by == PausedBy::Limit && is_its_own {
                        if !reason.holds_of(before, now) {
                            return Err(StoreError::Overtaken);
                        }
                        after.paused_by = Some(by);
                        news = reason.log(&after);
                        let own = scope.session(&after.session).ok_or(StoreError::NotFound)?;
                        premises = reason.premises(&own)?;
                    }
                    let is_same = (&after.stopping, after.paused_by) == (&before.stopping, before.paused_by);
                    Ok((!is_same).then(|| Change { deeds, news, premises, ..Change::to(after) }))
                }
                _ => Err(StoreError::Conflict("the agent's state does not allow it")),
            }
        };
        self.apply(scope, id, step).await
    }

    /// Notes that an agent that was to be paused cannot be, and runs on as before; but not one that has reached a limit, if
    /// only since: it stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn cancel_pause(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            // One that is paused already is held for another reason.
            let is_held = before.status == AgentStatus::Paused || before.paused_by == Some(PausedBy::Limit);
            if before.intent != Some(Intent::Pausing) || is_held {
                return Ok(None);
            }
            let mut after = before.clone();
            (after.intent, after.paused_by, after.snapshot, after.stopping) = (None, None, None, None);
            let deeds = vec![(AuditAction::AgentPause, AuditOutcome::Failed)];
            Ok(Some(Change { deeds, ..Change::to(after) }))
        };
        self.apply(scope, id, step).await
    }

    /// Notes that an agent that was to be paused is stopped, with that many bytes of files. The copies of what it booted
    /// with go before that. Its place is given back and its run is booked.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when somebody did something else with it meanwhile;
    /// [`StoreError::Contended`].
    pub async fn finish_pause(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        bytes: Option<u64>,
    ) -> Result<Agent, StoreError> {
        let is_pausing = |agent: &Agent| agent.intent == Some(Intent::Pausing);
        let agent = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
        if is_pausing(&agent) {
            self.drop_copies(scope, id).await?;
        }
        let holds = |agent: &Agent| is_pausing(agent) || agent.status == AgentStatus::Paused;
        let count = |agent: &mut Agent| {
            agent.stopping = None;
            if let Some(snapshot) = &mut agent.snapshot {
                snapshot.bytes = bytes;
            }
        };
        self.transition_if(scope, id, AgentStatus::Paused, holds, count).await
    }

    /// Keeps a paused agent from booting while that attempt stops what runs of it, although it is paused.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for an agent that is not paused, or while somebody else is at it; as
    /// [`Agents::transition_if`].
    pub async fn hold_paused(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        attempt: &StopAttempt,
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            let now = self.0.now_ms();
            if before.status != AgentStatus::Paused {
                return Err(StoreError::Conflict("the agent is not paused"));
            }
            if before.is_stopped_by_another(attempt, now) {
                return Err(StoreError::Conflict("what runs of the agent is being stopped"));
            }
            let stopping = Some(attempt.from(now));
            Ok(Some(Change::to(Agent { intent: Some(Intent::Pausing), stopping, ..before.clone() })))
        };
        self.apply(scope, id, step).await
    }

    /// Lets it boot again.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for an agent that is not paused, or that somebody else holds; as [`Agents::transition_if`].
    pub async fn release_paused(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        attempt: &StopAttempt,
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| match before.status {
            AgentStatus::Paused if before.is_stopped_by(attempt) => {
                Ok(Some(Change::to(Agent { intent: None, stopping: None, ..before.clone() })))
            }
            _ => Err(StoreError::Conflict("the agent is not held any more")),
        };
        self.apply(scope, id, step).await
    }

    /// Notes that a paused agent is to boot ([`Intent::Resuming`]), a running one to boot again
    /// ([`Intent::Restarting`]), or one that is over to boot from a checkpoint, or files of its own that it has kept,
    /// with all of its running time before it ([`Intent::Retrying`]), with what `boot` says; a restarted one does not
    /// move. All claim what they will run, at the price of now; but for a restarted one they also take a place of their
    /// session's, and one of the `max_concurrent` that there are at their provider.
    ///
    /// # Errors
    /// [`StoreError::LimitExceeded`]; [`StoreError::ProviderFull`]; [`StoreError::Conflict`] when the session is not active,
    /// or it or the agent has changed since it was read, or the agent's state does not allow it (the caller reads both again),
    /// or there is no such checkpoint any more.
    pub async fn begin_again(
        &self,
        scope: &TenantScope,
        session: &Session,
        agent: &Agent,
        intent: Intent,
        boot: impl Into<NextBoot>,
    ) -> Result<Agent, StoreError> {
        let NextBoot { secrets, max_concurrent, checkpoint, moving_to } = boot.into();
        let (action, from) = match intent {
            Intent::Retrying => {
                let has_files = checkpoint.is_some() || agent.own_files;
                (AuditAction::AgentRetry, agent.can_be_retried(self.0.now_ms()) && has_files)
            }
            Intent::Resuming => {
                (AuditAction::AgentResume, agent.status == AgentStatus::Paused && agent.intent.is_none())
            }
            Intent::Restarting => {
                let runs = matches!(agent.status, AgentStatus::Ready | AgentStatus::Running);
                (AuditAction::AgentRestart, runs && agent.intent.is_none())
            }
            Intent::Pausing => return Err(StoreError::Conflict("a pause boots nothing")),
        };
        let is_kept = checkpoint.as_ref().is_none_or(|id| agent.kept_checkpoint(id).is_some());
        // What may be there of an earlier move is not gone yet.
        let is_taken = moving_to.as_ref().is_some_and(|target| agent.lives_on(target) || agent.may_be_left_on(target));
        if !from || !is_kept || is_taken || agent.session != session.id {
            return Err(StoreError::Conflict("the agent's state does not allow it"));
        }
        let from_status = agent.status;
        let own = scope.session(&session.id).ok_or(StoreError::NotFound)?;
        let agent = &self.catch_up(scope, agent.clone()).await?;
        if agent.status != from_status {
            return Err(StoreError::Conflict("the session or the agent has changed"));
        }
        let (now, rate) = (self.0.now_ms(), self.1.rate(&agent.provider));
        if let Some(reached) = agent.cost_cap_reached(now) {
            return Err(reached.into());
        }
        // One that is restarted has its place.
        let places = i64::from(intent != Intent::Restarting);
        let max_concurrent = max_concurrent.filter(|_| places > 0);
        let max_agents = session.limits.max_agents.filter(|_| places > 0);
        let limited = Session { limits: Limits { max_agents, ..session.limits.clone() }, ..session.clone() };
        let room = async { if places == 0 { self.expect_room(&own, session).await } else { Ok(()) } };
        let within = self.counters_within(scope, &own, &limited, Some(&agent.id));
        let (counters, ()) = try_join(within, room).await?;
        let mut allowance = metering::allowance(&limited, counters.as_ref(), &agent.unused(now), rate, now, false)?;
        for _ in 0..metering::CLAIMS {
            let mut after = agent.clone();
            let stopped = after.enter(AgentStatus::Booting, now);
            after.allow(allowance.ms, rate, now);
            let metered = stopped.and(after.meter.claim(rate, now, allowance.claim_ms));
            after.intent = Some(intent);
            after.moving_to.clone_from(&moving_to);
            after.has_place |= max_concurrent.is_some();
            if let Some(chosen) = checkpoint.as_ref().and_then(|id| after.kept_checkpoint(id)) {
                let snapshot = Snapshot { id: chosen.snapshot.clone(), bytes: chosen.bytes };
                (after.restores, after.snapshot) = (Some(chosen.id.clone()), Some(snapshot));
                after.own_files = false;
            }
            if intent == Intent::Retrying {
                after.begin_anew();
            }
            after.boots += 1;
            after.secrets.clone_from(&secrets);
            let update = CountersUpdate::of(&metered, now).add("active_agents", places).within(&limited.limits);
            let counts = !update.is_empty();
            let transaction = Transaction::default().check(&self.0, &own.key(), unchanged_and_active(session));
            let transaction = self.count(transaction, scope, &after, update, &metered, &agent.stored(now))?;
            let transaction = transaction.and(self.rewrite(scope, &mut after)?).audit(
                &self.0,
                scope,
                deed(&after, action).with(AuditOutcome::Started),
            )?;
            let transaction = transaction.log(&self.0, scope, [status_log(&after, Some(agent.status), None)])?;
            let place = transaction.len();
            let transaction = self.take_place(transaction, scope, &after, max_concurrent)?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(after),
                Committed::Refused { write: 1, row } if counts => {
                    let counters = Counters::read(row.unwrap_or_default())?;
                    allowance = metering::allowance(&limited, Some(&counters), &agent.unused(now), rate, now, true)?;
                }
                Committed::Refused { write, .. } if write == place => return Err(places::full(&after, max_concurrent)),
                Committed::Refused { .. } => {
                    return Err(StoreError::Conflict("the session or the agent has changed"));
                }
            }
        }
        Err(StoreError::Contended(metering::CLAIMS))
    }

    /// Takes a boot back that kept the agent's files and did not come to its end: the agent is paused. What it was to
    /// run with is removed before that; the caller has stopped its sandbox. `boots` tells which boot, and `cause` is
    /// what the log says of it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when another boot has followed or the agent is over;
    /// [`StoreError::Contended`].
    pub async fn back_to_paused(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        boots: u64,
        cause: Option<NewLog>,
    ) -> Result<Agent, StoreError> {
        let is_this =
            |agent: &Agent| agent.boots == boots && matches!(agent.intent, Some(Intent::Resuming | Intent::Restarting));
        let agent = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
        if is_this(&agent) {
            self.drop_copies(scope, id).await?;
        }
        let keep = |agent: &mut Agent| {
            agent.paused_by.get_or_insert(PausedBy::Upkeep);
            agent.snapshot.get_or_insert_with(|| Snapshot { id: SnapshotId::make(), bytes: None });
        };
        let holds = |agent: &Agent| is_this(agent) || (agent.boots == boots && agent.status == AgentStatus::Paused);
        self.transition_because(scope, id, AgentStatus::Paused, cause, holds, keep).await
    }

    /// Notes that an agent has a call that may be under way until then. It costs a write only for agents that are paused
    /// without calls, and at most one in half a minute.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer; [`StoreError::Contended`].
    pub async fn note_call(&self, scope: &TenantScope, agent: &Agent, until_ms: i64) -> Result<(), StoreError> {
        let is_known = agent.busy_until_ms.is_some_and(|known| until_ms < known.saturating_add(BUSY_STEP_MS));
        if agent.auto_pause_ms.is_none() || is_known {
            return Ok(());
        }
        let own = scope.session(&agent.session).ok_or(StoreError::NotFound)?;
        let mut transaction = Transaction::default();
        for key in [own.agent_key_of_platform(&agent.id), own.agents().row(agent.id.as_str())] {
            let busy = Expression::new("SET busy_until_ms = :until").value(":until", number(until_ms));
            let longer = "attribute_exists(pk) AND (attribute_not_exists(busy_until_ms) OR busy_until_ms < :until)";
            transaction = transaction.update(&self.0, &key, busy, longer);
        }
        // An agent that is not there any more has no call, and one whose other call takes longer is busy.
        transaction.commit(&self.0).await.map(|_| ())
    }

    /// Removes every copy beside an agent, also those of earlier boots.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn drop_copies(&self, scope: &TenantScope, id: &AgentId) -> Result<(), StoreError> {
        let partitions = [scope.agent_copies(id)?, scope.token_copies(id)?];
        let [copies, for_token] = partitions.each_ref().map(|partition| self.0.sort_keys(partition));
        let names = try_join(copies, for_token).await?;
        let keys = partitions.iter().zip([&names.0, &names.1]);
        let keys: Vec<_> = keys.flat_map(|(partition, names)| names.iter().map(|name| partition.row(name))).collect();
        self.0.delete_all(keys.into_iter()).await
    }
}
