//! The agent's state machine.

use serde::{Deserialize, Serialize};

/// Where an agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentStatus {
    /// Recorded; its provider is being asked.
    Booting,
    /// Its sandbox runs and takes calls.
    Ready,
    /// A managed run is under way.
    Running,
    /// Stopped, files kept.
    Paused,
    /// Over: ended by its owner or its time.
    Completed,
    /// Over: its sandbox could not be made or was lost.
    Failed,
}

impl AgentStatus {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Booting, Self::Ready, Self::Running, Self::Paused, Self::Completed, Self::Failed];

    /// The name on the wire and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether nothing of it runs any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }

    /// Whether its sandbox takes calls.
    pub const fn takes_calls(self) -> bool {
        matches!(self, Self::Ready | Self::Running)
    }

    /// Whether it counts against its session's limit of agents. A paused one does not: it costs no compute, and takes a
    /// place again when it is resumed.
    pub const fn takes_place(self) -> bool {
        matches!(self, Self::Booting | Self::Ready | Self::Running)
    }

    /// Which moves there are. An agent that is over stays over; what takes it out of that is a retry alone, which is a boot
    /// and no move of its own. What runs boots again in a restart, and a boot of an agent
    /// that has files is taken back to where it keeps them.
    pub const fn can_become(self, to: Self) -> bool {
        match self {
            Self::Booting => matches!(to, Self::Ready | Self::Paused | Self::Completed | Self::Failed),
            Self::Ready => matches!(to, Self::Running | Self::Booting | Self::Paused | Self::Completed | Self::Failed),
            Self::Running => matches!(to, Self::Ready | Self::Booting | Self::Paused | Self::Completed | Self::Failed),
            Self::Paused => matches!(to, Self::Booting | Self::Completed | Self::Failed),
            Self::Completed | Self::Failed => false,
        }
    }
}

/// What is being done to an agent where its status alone does not tell. It is recorded before the provider is asked, so
/// that what was interrupted can be finished or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// It takes no calls any more and is being stopped. Its status is still that of a running one. Once begun, this is
    /// only ever finished: nobody knows how far the provider got.
    Pausing,
    /// A paused one boots. Interrupted, it is paused again.
    Resuming,
    /// A running one boots again. Interrupted, it is paused: its files are safe, and a resume is what is left to do.
    Restarting,
    /// One that was over boots from a checkpoint. Interrupted, it has failed again, and keeps its checkpoints.
    Retrying,
}

/// Who paused an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PausedBy {
    /// The platform, that one agent.
    Platform,
    /// The holder of the session's token.
    Session,
    /// The platform, with all of the session. Resuming the session resumes it.
    Suspension,
    /// A limit was reached.
    Limit,
    /// It had nothing to do for as long as its creator said.
    Idle,
    /// A restart was interrupted.
    Upkeep,
    /// The operator has suspended the platform.
    Operator,
}

impl PausedBy {
    /// Whether the holder of the session's token cannot undo it. What a limit has paused they may resume as soon as the
    /// limit allows it; until then the boot itself is refused.
    pub const fn binds_session(self) -> bool {
        matches!(self, Self::Platform | Self::Suspension | Self::Operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_over_stays_over() {
        for from in AgentStatus::ALL.into_iter().filter(|status| status.is_over()) {
            assert!(AgentStatus::ALL.into_iter().all(|to| !from.can_become(to)));
        }
    }

    #[test]
    fn every_agent_that_is_not_over_can_be_ended() {
        for from in AgentStatus::ALL.into_iter().filter(|status| !status.is_over()) {
            assert!(from.can_become(AgentStatus::Completed) && from.can_become(AgentStatus::Failed));
        }
        assert!(!AgentStatus::Paused.can_become(AgentStatus::Ready));
    }

    #[test]
    fn names_are_distinct_and_parse_back() {
        for status in AgentStatus::ALL {
            assert_eq!(AgentStatus::parse(status.as_str()), Some(status));
        }
        assert_eq!(AgentStatus::parse("Ready"), None);
    }
}
