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

    /// Which moves there are. An agent that is over stays over.
    pub const fn can_become(self, to: Self) -> bool {
        match self {
            Self::Booting => matches!(to, Self::Ready | Self::Completed | Self::Failed),
            Self::Ready => matches!(to, Self::Running | Self::Paused | Self::Completed | Self::Failed),
            Self::Running => matches!(to, Self::Ready | Self::Paused | Self::Completed | Self::Failed),
            Self::Paused => matches!(to, Self::Booting | Self::Completed | Self::Failed),
            Self::Completed | Self::Failed => false,
        }
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
        assert!(!AgentStatus::Booting.can_become(AgentStatus::Paused));
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
