//! Why agents are paused: who did it, what the log says of it, and what must still be so when it is written. Who decides has
//! read something before, and whoever resumes a session, raises its limit or calls an agent meanwhile is not to find it
//! paused for what is over.

use super::{Agent, PausedBy};
use crate::sessions::{has_limits, is_paused};
use crate::table::number;
use crate::transaction::Expression;
use crate::{Limits, LogLevel, LogSource, NewLog, Reached, Session, StoreError};
use serde_json::json;
use theazo_metering::Day;
use theazo_tenancy::{SessionScope, TableKey};

/// Why an agent is paused.
pub struct PauseReason {
    by: PausedBy,
    reached: Option<Reached>,
    premise: Premise,
}

/// As long as what an agent is paused.
enum Premise {
    /// Whatever else there is: somebody wants it so.
    Always,
    Idle,
    SessionPaused,
    /// Its session has the limits that it had, and it is the same day by UTC, to whose end costs are counted.
    SameLimits(Box<Limits>, Day),
    PlatformSuspended,
}

impl From<PausedBy> for PauseReason {
    fn from(by: PausedBy) -> Self {
        Self { by, reached: None, premise: Premise::Always }
    }
}

impl From<Reached> for PauseReason {
    fn from(reached: Reached) -> Self {
        Self { reached: Some(reached), ..PausedBy::Limit.into() }
    }
}

impl PauseReason {
    /// That its session is paused, as long as it is.
    pub fn session_paused() -> Self {
        Self { premise: Premise::SessionPaused, ..PausedBy::Suspension.into() }
    }

    /// That its session, as it was read at `at_ms`, or the agent itself has reached a limit, as long as nobody has changed the
    /// session's limits and, where more agents run than may, as long as they do.
    pub fn limit(reached: Reached, session: &Session, at_ms: i64) -> Self {
        let premise = Premise::SameLimits(Box::new(session.limits.clone()), Day::of(at_ms));
        Self { premise, ..reached.into() }
    }

    /// That its platform is suspended, as long as it is.
    pub fn platform_suspended() -> Self {
        Self { premise: Premise::PlatformSuspended, ..PausedBy::Operator.into() }
    }

    /// That it has had nothing to do, as long as nobody calls it.
    pub fn idle() -> Self {
        Self { premise: Premise::Idle, ..PausedBy::Idle.into() }
    }

    pub(super) fn by(&self) -> PausedBy {
        self.by
    }

    /// Whether it holds, as far as an agent's own row tells.
    pub(super) fn holds_of(&self, agent: &Agent, now_ms: i64) -> bool {
        match &self.premise {
            Premise::Idle => agent.is_idle(now_ms),
            Premise::SameLimits(_, day) => *day == Day::of(now_ms),
            Premise::Always | Premise::SessionPaused | Premise::PlatformSuspended => true,
        }
    }

    /// What other rows must say for it to hold.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for limits that are none.
    pub(super) fn premises(&self, session: &SessionScope) -> Result<Vec<(TableKey, Expression)>, StoreError> {
        Ok(match &self.premise {
            Premise::Always | Premise::Idle => Vec::new(),
            Premise::SessionPaused => vec![(session.key(), is_paused())],
            Premise::SameLimits(limits, _) => {
                let is_crowded = self.reached.filter(|reached| reached.limit == "maxAgents").map(|reached| {
                    let still = Expression::new("active_agents > :max").value(":max", number(reached.max));
                    (session.counters_key(), still)
                });
                [(session.key(), has_limits(limits)?)].into_iter().chain(is_crowded).collect()
            }
            Premise::PlatformSuspended => {
                vec![(session.standing_key(), Expression::new("attribute_exists(pk)"))]
            }
        })
    }

    pub(super) fn log(&self, agent: &Agent) -> Option<NewLog> {
        if let Some(Reached { limit, used, max }) = self.reached {
            let message = format!("agent has reached a limit: {limit}");
            let details = json!({ "event": "agent.limit", "limit": limit, "used": used, "max": max });
            return Some(NewLog::of_agent(agent, LogLevel::Warn, LogSource::System, message).metadata(&details));
        }
        let (level, message, event) = match self.by {
            PausedBy::Idle => (LogLevel::Info, "agent has had nothing to do", "agent.idle"),
            PausedBy::Limit => {
                (LogLevel::Warn, "agent has reached a limit that held when its run began", "agent.limit")
            }
            PausedBy::Operator => (LogLevel::Warn, "the operator has suspended the platform", "platform.suspended"),
            PausedBy::Platform | PausedBy::Session | PausedBy::Suspension | PausedBy::Upkeep => return None,
        };
        Some(NewLog::of_agent(agent, level, LogSource::System, message).metadata(&json!({ "event": event })))
    }
}
