//! Who is stopping an agent's sandbox. A provider is told which agent, and takes its time: one that was told by two of us
//! would, for the slower, stop what was resumed since. So who stops it says so in the agent's row first, for as long as that
//! may take; whoever comes meanwhile waits, and whoever comes later takes it up.

use super::changes::Change;
use super::{Agent, AgentStatus, Agents, Intent};
use crate::StoreError;
use serde::{Deserialize, Serialize};
use theazo_tenancy::{AgentId, TenantScope, make_random_bytes};

/// How long an attempt keeps others from it, milliseconds: longer than any stop is waited for.
pub const STOP_ATTEMPT_MS: i64 = 30_000;

/// One attempt to stop a sandbox.
#[derive(Clone, Debug)]
pub struct StopAttempt {
    id: String,
    /// Whether every other attempt is known to be dead.
    is_alone: bool,
}

impl StopAttempt {
    /// Nobody else's.
    pub fn make() -> Self {
        Self { id: hex::encode(make_random_bytes::<8>()), is_alone: false }
    }

    /// One beside which there can be no other, as when a local stack has just started.
    pub fn make_alone() -> Self {
        Self { is_alone: true, ..Self::make() }
    }

    pub(super) fn from(&self, now_ms: i64) -> Stopping {
        Stopping { by: self.id.clone(), until_ms: now_ms.saturating_add(STOP_ATTEMPT_MS) }
    }
}

/// Who is stopping a sandbox, as the row has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    by: String,
    /// Unix milliseconds.
    until_ms: i64,
}

impl Agent {
    /// Whether its sandbox is that attempt's to stop.
    pub fn is_stopped_by(&self, attempt: &StopAttempt) -> bool {
        self.stopping.as_ref().is_some_and(|stopping| stopping.by == attempt.id)
    }

    /// Whether somebody else is stopping its sandbox at this moment.
    pub(super) fn is_stopped_by_another(&self, attempt: &StopAttempt, now_ms: i64) -> bool {
        let is_other = |stopping: &Stopping| stopping.by != attempt.id && stopping.until_ms > now_ms;
        !attempt.is_alone && self.stopping.as_ref().is_some_and(is_other)
    }
}

impl Agents {
    /// Takes up the stop of an agent that is to be paused, unless somebody else is at it. Whose it is then, the agent says.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn take_up_stop(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        attempt: &StopAttempt,
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            let now = self.0.now_ms();
            let is_pausing = before.intent == Some(Intent::Pausing) && before.status != AgentStatus::Paused;
            if !is_pausing || before.is_stopped_by(attempt) || before.is_stopped_by_another(attempt, now) {
                return Ok(None);
            }
            Ok(Some(Change::to(Agent { stopping: Some(attempt.from(now)), ..before.clone() })))
        };
        self.apply(scope, id, step).await
    }

    /// Leaves a stop that did not come about to whoever comes next.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn give_up_stop(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        attempt: &StopAttempt,
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            Ok(before.is_stopped_by(attempt).then(|| Change::to(Agent { stopping: None, ..before.clone() })))
        };
        self.apply(scope, id, step).await
    }
}
