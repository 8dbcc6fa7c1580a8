//! Moves of agents from one of their platform's hosts to another. A move is part of a boot: the row names the host that the
//! agent moves to before that one is asked for anything, and the agent lives there from the moment that its boot is ready.
//! However the boot ends, one of the two hosts may keep something that is of no use any more; the row says so until it is
//! known to be gone.

use super::changes::Change;
use super::{Agent, AgentStatus, Agents};
use crate::{LogLevel, LogSource, NewLog, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use theazo_tenancy::{AgentId, TenantScope};

/// A host that may have something of an agent that does not live there. Nothing moves to it as long as that is so: whoever
/// removes what is left there must not meet what was just brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOn {
    /// Which host, `host:port`.
    pub host: String,
    /// When somebody last made something there or began to remove it, Unix milliseconds.
    pub since_ms: i64,
}

impl Agent {
    /// Whether a host is where it lives, or where it is about to.
    pub fn lives_on(&self, host: &str) -> bool {
        [&self.host, &self.moving_to].into_iter().any(|own| own.as_deref() == Some(host))
    }

    /// Whether a host may have something of it, which is to be removed.
    pub fn may_be_left_on(&self, host: &str) -> bool {
        self.left_on.iter().any(|left| left.host == host)
    }

    /// Hosts on which it may have something and does not live, nor did before the present boot.
    pub fn elsewhere(&self) -> impl Iterator<Item = &str> {
        self.moving_to.as_deref().into_iter().chain(self.left_on.iter().map(|left| left.host.as_str()))
    }

    /// Ends the move that its boot began with: it lives where it runs, and otherwise where it did before.
    pub(super) fn end_move(&mut self, status: AgentStatus, now_ms: i64) {
        let Some(target) = self.moving_to.take() else { return };
        let left = match status {
            AgentStatus::Ready | AgentStatus::Running => self.host.replace(target),
            _ => Some(target),
        };
        if let Some(host) = left {
            self.leave(host, now_ms);
        }
    }

    fn leave(&mut self, host: String, now_ms: i64) {
        self.left_on.retain(|left| left.host != host);
        self.left_on.push(LeftOn { host, since_ms: now_ms });
    }
}

/// What the log says of an agent that is ready on another host than before. Which hosts those are is the platform's own
/// affair, and its users read the log too.
pub(super) fn moved(before: &Agent, after: &Agent) -> Option<NewLog> {
    (before.host != after.host).then(|| {
        NewLog::of_agent(after, LogLevel::Info, LogSource::System, "agent has moved to another host")
            .metadata(&json!({ "event": "agent.moved" }))
    })
}

fn change(after: Agent) -> Option<Change> {
    Some(Change::to(after))
}

impl Agents {
    /// Notes that a host may have something of an agent that does not live there, and that it is about to be removed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when it lives there, or is about to; [`StoreError::Contended`].
    pub async fn note_left(&self, scope: &TenantScope, id: &AgentId, host: &str) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            if before.lives_on(host) {
                return Err(StoreError::Conflict("the agent lives on that host"));
            }
            if before.sandbox_gone {
                return Err(StoreError::Conflict("nobody looks after the agent any more"));
            }
            let mut after = before.clone();
            after.leave(host.to_owned(), self.0.now_ms());
            Ok(change(after))
        };
        self.apply(scope, id, step).await
    }

    /// Forgets a host that has nothing of an agent any more, unless somebody has noted it again since it was read.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn forget_left(&self, scope: &TenantScope, id: &AgentId, left: &LeftOn) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            let mut after = before.clone();
            after.left_on.retain(|other| other != left);
            Ok(if after.left_on.len() == before.left_on.len() { None } else { change(after) })
        };
        self.apply(scope, id, step).await
    }
}
