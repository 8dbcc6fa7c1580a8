//! The partitions of a platform's rows and of a session's, for those who have proven that they may reach them: only a scope
//! hands these out.

use crate::keys::{LOG_SHARDS, Partition, TableKey, USAGE_SHARDS, usage_shard_of};
use crate::{AgentId, Mode, PlatformId, SessionId, UserId};

pub(crate) fn audit_suffix(month: &str) -> String {
    format!("audit#{month}")
}

pub(crate) fn logs_suffix(day: &str, shard: u8) -> String {
    format!("logs#{day}#{shard:x}")
}

pub(crate) fn usage_suffix(month: &str, shard: u8) -> String {
    format!("usage#{month}#{shard:x}")
}

pub(crate) const AGENTS: &str = "agents";
pub(crate) const LIVE_AGENTS: &str = "live-agents";
pub(crate) const REPLAYS: &str = "replays";
pub(crate) const SESSIONS: &str = "sessions";

/// Partitions that hold rows of all the platform's sessions. Only who is confined to none of them has it.
#[derive(Clone)]
pub struct PlatformScope {
    platform: PlatformId,
    mode: Mode,
}

impl PlatformScope {
    pub(crate) fn proven(platform: PlatformId, mode: Mode) -> Self {
        Self { platform, mode }
    }

    fn partition(&self, suffix: &str) -> Partition {
        Partition::of_platform(&self.platform, self.mode, suffix)
    }

    /// The platform.
    pub fn platform(&self) -> &PlatformId {
        &self.platform
    }

    /// Live or test.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What may be shown of the platform's API keys, a row each.
    pub fn api_keys(&self) -> Partition {
        TableKey::api_keys(&self.platform)
    }

    /// All sessions, a row each.
    pub fn sessions(&self) -> Partition {
        self.partition(SESSIONS)
    }

    /// The pointer from an end user to their live session.
    pub fn user_key(&self, user: &UserId) -> TableKey {
        self.partition("users").row(user.as_str())
    }

    /// All agents, a row each.
    pub fn agents(&self) -> Partition {
        self.partition(AGENTS)
    }

    /// The platform's agents that have not settled, a row each: few, however many there have been.
    pub fn live_agents(&self) -> Partition {
        self.partition(LIVE_AGENTS)
    }

    /// A calendar month's audit entries (`2026-11`), a row each: a busy platform's trail does not pile up in one
    /// partition for ever.
    pub fn audit(&self, month: &str) -> Partition {
        self.partition(&audit_suffix(month))
    }

    /// The log entries of a day (`2026-11-25`) over all sessions, a row each, spread over [`LOG_SHARDS`] partitions.
    pub fn logs(&self, day: &str) -> impl Iterator<Item = Partition> {
        (0..LOG_SHARDS).map(move |shard| self.partition(&logs_suffix(day, shard)))
    }

    /// A calendar month's usage (`2026-11`) of that payer: an end user, or a session without one.
    pub fn usage(&self, month: &str, payer: &str) -> Partition {
        self.partition(&usage_suffix(month, usage_shard_of(payer)))
    }

    /// A calendar month's usage of all payers.
    pub fn all_usage(&self, month: &str) -> impl Iterator<Item = Partition> {
        (0..USAGE_SHARDS).map(move |shard| self.partition(&usage_suffix(month, shard)))
    }

    /// Answers to be given again, a row each.
    pub fn replays(&self) -> Partition {
        self.partition(REPLAYS)
    }
}

/// One session's rows.
#[derive(Clone)]
pub struct SessionScope {
    platform: PlatformId,
    mode: Mode,
    session: SessionId,
}

impl SessionScope {
    pub(crate) fn claimed(platform: &PlatformId, mode: Mode, session: &SessionId) -> Self {
        Self { platform: platform.clone(), mode, session: session.clone() }
    }

    fn partition(&self, suffix: &str) -> Partition {
        Partition::of_platform(&self.platform, self.mode, &format!("{}#{suffix}", self.session))
    }

    fn of_platform(&self, suffix: &str, row: &str) -> TableKey {
        Partition::of_platform(&self.platform, self.mode, suffix).row(row)
    }

    /// Whose it is.
    pub fn platform(&self) -> &PlatformId {
        &self.platform
    }

    /// Live or test.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The session.
    pub fn id(&self) -> &SessionId {
        &self.session
    }

    /// Its own row among the platform's sessions.
    pub fn key(&self) -> TableKey {
        self.of_platform(SESSIONS, self.session.as_str())
    }

    /// That its platform is suspended.
    pub fn standing_key(&self) -> TableKey {
        TableKey::standing(self.platform())
    }

    /// Counters that limit: agents, milliseconds of compute, and their cost by day and month.
    pub fn counters_key(&self) -> TableKey {
        self.partition("counters").row("counters")
    }

    /// The session's agents, a row each; the same rows as in [`PlatformScope::agents`].
    pub fn agents(&self) -> Partition {
        self.partition(AGENTS)
    }

    /// The session's agents that have not settled, a row each.
    pub fn live_agents(&self) -> Partition {
        self.partition(LIVE_AGENTS)
    }

    /// The row of one of its agents among the platform's, for writing beside the one in [`SessionScope::agents`].
    pub fn agent_key_of_platform(&self, agent: &AgentId) -> TableKey {
        self.of_platform(AGENTS, agent.as_str())
    }

    /// Likewise, beside the one in [`SessionScope::live_agents`].
    pub fn live_agent_key_of_platform(&self, agent: &AgentId) -> TableKey {
        self.of_platform(LIVE_AGENTS, agent.as_str())
    }

    /// A row of a month's usage (`2026-11`) of that payer among the platform's, for adding to it.
    pub fn usage_key_of_platform(&self, month: &str, payer: &str, row: &str) -> TableKey {
        self.of_platform(&usage_suffix(month, usage_shard_of(payer)), row)
    }

    /// Names and versions of the session's secrets: one row.
    pub fn secret_names_key(&self) -> TableKey {
        self.partition("names").row("names")
    }

    /// Sealed values of the session's secrets, a row each.
    pub fn secret_values(&self) -> Partition {
        self.partition("values")
    }

    /// The session's log entries of a day (`2026-11-25`), a row each.
    pub fn logs(&self, day: &str) -> Partition {
        self.partition(&format!("logs#{day}"))
    }
}
