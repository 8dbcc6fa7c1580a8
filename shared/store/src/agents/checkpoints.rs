//! Checkpoints: what is kept of an agent's files while it runs on. Each is in the agent's row before its provider is asked
//! for it, and until its provider has removed it, so that whatever is interrupted leaves a note to finish by. An agent that
//! is over keeps its checkpoints, to be retried from, until it is terminated or its time to be readable ends.

use super::changes::Change;
use super::{Agent, Agents};
use crate::transaction::{Committed, back_off};
use crate::{AuditAction, AuditOutcome, LogLevel, LogSource, NewLog, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use theazo_tenancy::{AgentId, CheckpointId, SnapshotId, TenantScope};

/// Most checkpoints that an agent has: with one more its oldest goes.
pub const MAX_CHECKPOINTS: usize = 10;
/// How long a checkpoint may be in the making before its process counts as dead, milliseconds, and one that was given up may
/// still come about: a service goes on when nobody waits for it, E2B for more than a minute. Its request gives up earlier.
pub const CHECKPOINT_GRACE_MS: i64 = 120_000;
/// Most entries in a row, those included that are still to be removed.
const MAX_ENTRIES: usize = 2 * MAX_CHECKPOINTS;

/// How far a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointState {
    /// Its provider is being asked for it.
    Making,
    /// It is there.
    Kept,
    /// Its provider may have something of it, which is to be removed.
    Removing,
    /// The same, of one that nobody waits for any more and that may still come about.
    GivenUp,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its id.
    pub id: CheckpointId,
    /// The id of the files that it keeps.
    pub snapshot: SnapshotId,
    /// How far it is.
    pub state: CheckpointState,
    /// What the agent was at, in its owner's words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub phase: Option<String>,
    /// How far it was, percent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub progress: Option<f64>,
    /// The owner's own notes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub metadata: BTreeMap<String, String>,
    /// Bytes in the files, where they could be counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    /// The boot in whose run it is made.
    boots: u64,
    /// Unix milliseconds.
    pub created_at_ms: i64,
}

/// A checkpoint to be made.
#[derive(Clone, Debug, Default)]
pub struct NewCheckpoint {
    /// What the agent is at.
    pub phase: Option<String>,
    /// How far it is, percent.
    pub progress: Option<f64>,
    /// The owner's own notes.
    pub metadata: BTreeMap<String, String>,
}

/// What the last checkpoint of an agent said. It stays when the checkpoint goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastCheckpoint {
    /// What the agent was at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub phase: Option<String>,
    /// How far it was, percent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub progress: Option<f64>,
    /// Unix milliseconds.
    pub created_at_ms: i64,
}

impl Checkpoint {
    /// Whether what its provider may have of it is to be removed: nobody makes it any more. `grace_ms` is how long a process
    /// may still be at it.
    pub fn is_left_over(&self, now_ms: i64, grace_ms: i64) -> bool {
        match self.state {
            CheckpointState::Making => now_ms.saturating_sub(self.created_at_ms) >= grace_ms,
            CheckpointState::Removing | CheckpointState::GivenUp => true,
            CheckpointState::Kept => false,
        }
    }

    /// Whether its provider may make it yet if nobody waits for it any more.
    pub fn may_come_late(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.created_at_ms) < CHECKPOINT_GRACE_MS
    }
}

impl Agent {
    /// Its checkpoints, oldest first: those that are there, and that its provider is not about to remove with it.
    pub fn kept_checkpoints(&self) -> impl DoubleEndedIterator<Item = &Checkpoint> {
        let stays = !self.terminated && !self.sandbox_gone;
        self.checkpoints.iter().filter(move |checkpoint| stays && checkpoint.state == CheckpointState::Kept)
    }

    /// One of them.
    pub fn kept_checkpoint(&self, id: &CheckpointId) -> Option<&Checkpoint> {
        self.kept_checkpoints().find(|checkpoint| checkpoint.id == *id)
    }

    /// Whether it has files which stay although it is over: checkpoints, or its own.
    pub fn keeps_files(&self, now_ms: i64) -> bool {
        self.is_readable(now_ms) && (self.keeps_own_files() || self.kept_checkpoints().next().is_some())
    }

    /// Whether its own are among them, as long as it keeps any.
    pub fn keeps_own_files(&self) -> bool {
        self.own_files && !self.terminated && !self.sandbox_gone
    }

    /// Whether it is over, but has files that it can be booted on again.
    pub fn can_be_retried(&self, now_ms: i64) -> bool {
        self.status.is_over() && self.only_kept && self.keeps_files(now_ms)
    }

    /// As it is when a retry begins: all of its running time is before it.
    pub(super) fn begin_anew(&mut self) {
        (self.ran_before_ms, self.ended_at_ms, self.boot_writes_until_ms) = (0, None, None);
        (self.only_kept, self.paused_by, self.silence) = (false, None, None);
    }

    /// Whether a process may be asking its provider for a checkpoint.
    pub(super) fn is_being_kept(&self, now_ms: i64) -> bool {
        self.checkpoints.iter().any(|checkpoint| {
            checkpoint.state == CheckpointState::Making && !checkpoint.is_left_over(now_ms, CHECKPOINT_GRACE_MS)
        })
    }
}

/// A change of nothing but checkpoints.
fn change(after: Agent, outcome: Option<AuditOutcome>, news: Option<NewLog>) -> Option<Change> {
    let deeds = outcome.map(|outcome| (AuditAction::AgentCheckpoint, outcome)).into_iter().collect();
    Some(Change { deeds, news, ..Change::to(after) })
}

fn entry<'a>(agent: &'a mut Agent, id: &CheckpointId) -> Option<&'a mut Checkpoint> {
    agent.checkpoints.iter_mut().find(|checkpoint| checkpoint.id == *id)
}

impl Agents {
    /// Notes that a checkpoint is about to be made of an agent that runs. Gives the agent with it, and its id.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for an agent that does not take calls, or of which another is
    /// being made; [`StoreError::Contended`].
    pub async fn begin_checkpoint(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        new: NewCheckpoint,
    ) -> Result<(Agent, CheckpointId), StoreError> {
        let (checkpoint, snapshot) = (CheckpointId::make(), SnapshotId::make());
        let step = |before: &Agent| {
            let now = self.0.now_ms();
            if before.checkpoints.iter().any(|there| there.id == checkpoint) {
                return Ok(None);
            }
            if !before.takes_calls() {
                return Err(StoreError::Conflict("the agent's state does not allow it"));
            }
            if before.is_being_kept(now) {
                return Err(StoreError::Conflict("another checkpoint is being made"));
            }
            if before.checkpoints.len() >= MAX_ENTRIES {
                return Err(StoreError::Conflict("earlier checkpoints are still being removed"));
            }
            let mut after = before.clone();
            after.checkpoints.push(Checkpoint {
                id: checkpoint.clone(),
                snapshot: snapshot.clone(),
                state: CheckpointState::Making,
                phase: new.phase.clone(),
                progress: new.progress,
                metadata: new.metadata.clone(),
                bytes: None,
                boots: before.boots,
                created_at_ms: now,
            });
            Ok(change(after, Some(AuditOutcome::Started), None))
        };
        Ok((self.apply(scope, id, step).await?, checkpoint))
    }

    /// Notes that a checkpoint is there, with that many bytes of files. Beyond [`MAX_CHECKPOINTS`] the oldest are to be
    /// removed from then on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when the run that it was to be made of has ended meanwhile: nobody
    /// knows of which moment it is; [`StoreError::Contended`].
    pub async fn finish_checkpoint(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        checkpoint: &CheckpointId,
        bytes: Option<u64>,
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            let mut after = before.clone();
            let (takes_calls, boots) = (before.takes_calls(), before.boots);
            let made = entry(&mut after, checkpoint);
            let Some(made) = made else { return Err(StoreError::Conflict("the checkpoint was given up")) };
            match made.state {
                CheckpointState::Kept => return Ok(None),
                CheckpointState::Making if takes_calls && made.boots == boots => {}
                _ => return Err(StoreError::Conflict("the agent has changed while its checkpoint was made")),
            }
            (made.state, made.bytes) = (CheckpointState::Kept, bytes);
            let (phase, progress, created_at_ms) = (made.phase.clone(), made.progress, made.created_at_ms);
            after.last_checkpoint = Some(LastCheckpoint { phase, progress, created_at_ms });
            let surplus = after.kept_checkpoints().count().saturating_sub(MAX_CHECKPOINTS);
            let kept = after.checkpoints.iter_mut().filter(|there| there.state == CheckpointState::Kept);
            kept.take(surplus).for_each(|oldest| oldest.state = CheckpointState::Removing);
            let news = NewLog::of_agent(&after, LogLevel::Info, LogSource::System, "agent has a checkpoint")
                .metadata(&json!({ "event": "agent.checkpoint", "checkpoint": checkpoint }));
            Ok(change(after, Some(AuditOutcome::Succeeded), Some(news)))
        };
        self.apply(scope, id, step).await
    }

    /// Notes that a checkpoint that was not finished is to be removed, now and, if it `may_come` about yet, later once more.
    /// One that is there, or removed already, stays so.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn give_up_checkpoint(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        checkpoint: &CheckpointId,
        may_come: bool,
    ) -> Result<Agent, StoreError> {
        let next = if may_come { CheckpointState::GivenUp } else { CheckpointState::Removing };
        let step = |before: &Agent| {
            let mut after = before.clone();
            match entry(&mut after, checkpoint) {
                Some(making) if making.state == CheckpointState::Making => making.state = next,
                _ => return Ok(None),
            }
            Ok(change(after, Some(AuditOutcome::Failed), None))
        };
        self.apply(scope, id, step).await
    }

    /// Forgets a checkpoint of which its provider has nothing any more, unless that may still come.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn forget_checkpoint(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        checkpoint: &CheckpointId,
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            let mut after = before.clone();
            let now = self.0.now_ms();
            let is_removed = |there: &Checkpoint| match there.state {
                CheckpointState::Removing => there.id == *checkpoint,
                CheckpointState::GivenUp => there.id == *checkpoint && !there.may_come_late(now),
                CheckpointState::Making | CheckpointState::Kept => false,
            };
            after.checkpoints.retain(|there| !is_removed(there));
            Ok(if after.checkpoints.len() == before.checkpoints.len() { None } else { change(after, None, None) })
        };
        self.apply(scope, id, step).await
    }

    /// Notes that an agent that is over will not be retried, so that nothing of it is to stay.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for one that is not over; [`StoreError::Contended`].
    pub async fn terminate_over(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            if !before.status.is_over() {
                return Err(StoreError::Conflict("the agent is not over"));
            }
            if before.terminated || before.sandbox_gone {
                return Ok(None);
            }
            let mut after = before.clone();
            after.terminated = true;
            let deeds = vec![(AuditAction::AgentEnd, AuditOutcome::Succeeded)];
            Ok(Some(Change { deeds, ..Change::to(after) }))
        };
        self.apply(scope, id, step).await
    }

    /// Notes that of an agent that is over the provider holds what it keeps and nothing else, and removes the copies of
    /// what it booted with. It stays on the work list. One that keeps nothing, or was ended while it booted and may
    /// still be written beside, stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for an agent that has not ended; [`StoreError::Contended`].
    pub async fn settle_all_but_kept(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        for attempt in 0..super::changes::ATTEMPTS {
            let mut agent = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            if !agent.status.is_over() {
                return Err(StoreError::Conflict("the agent has not ended"));
            }
            let now = self.0.now_ms();
            let is_written = agent.boot_writes_until_ms.is_some_and(|until| until > now);
            if agent.only_kept || is_written || !agent.keeps_files(now) {
                return Ok(agent);
            }
            self.remove_copies(scope, &agent).await?;
            agent.only_kept = true;
            match self.rewrite(scope, &mut agent)?.commit(&self.0).await? {
                Committed::Yes => return Ok(agent),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(super::changes::ATTEMPTS))
    }
}
