//! Scopes: what a caller may reach, as a type.

use crate::keys::{LOG_SHARDS, Partition, TableKey, USAGE_SHARDS, WorkRef, usage_shard_of};
use crate::{Actor, AgentId, IssuedKey, LogId, PlatformId, SessionId, UserId};
use std::ops::Deref;

/// A platform's two worlds, which never see each other's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Real compute, metered.
    Live,
    /// The simulated provider; nothing leaves the service.
    Test,
}

impl Mode {
    /// The name in table keys, in the vault's context and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Live, Self::Test].into_iter().find(|mode| mode.as_str() == name)
    }

    /// The mode's letter in tokens whose prefix does not tell it.
    pub(crate) const fn letter(self) -> &'static str {
        match self {
            Self::Live => "l",
            Self::Test => "t",
        }
    }

    pub(crate) const fn key_prefix(self) -> &'static str {
        match self {
            Self::Live => "th_live_",
            Self::Test => "th_test_",
        }
    }
}

/// A tenant's rows, for reading. Made from a claim (whose reads are withheld until it is proven) or from a
/// [`TenantScope`]. Writing takes the latter.
#[derive(Clone)]
pub struct ReadScope {
    platform: PlatformId,
    mode: Mode,
    /// The one session a session's credential is confined to.
    only: Option<SessionId>,
}

/// A tenant's rows, for reading and writing, in the name of an [`Actor`]. Only a proven principal, or the operator,
/// has one.
#[derive(Clone)]
pub struct TenantScope {
    read: ReadScope,
    actor: Actor,
}

impl Deref for TenantScope {
    type Target = ReadScope;

    fn deref(&self) -> &ReadScope {
        &self.read
    }
}

impl TenantScope {
    pub(crate) fn proven(platform: PlatformId, mode: Mode, only: Option<SessionId>, actor: Actor) -> Self {
        Self { read: ReadScope { platform, mode, only }, actor }
    }

    /// Who writes.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// What was deleted of the platform's, in the ledger's own table.
    pub fn ledger(&self) -> Partition {
        self.partition("deleted")
    }

    /// The row of one of the platform's credentials, by the SHA-256 that was noted when it was made.
    pub fn credential_key_of(&self, hash: &[u8; 32]) -> TableKey {
        TableKey::credential(hash)
    }

    /// The row of a credential that is being made, by the SHA-256 of its text.
    pub fn new_credential_key(&self, issued: &IssuedKey) -> TableKey {
        TableKey::credential(&issued.hash)
    }

    /// The operator's note that an agent is alive, written in the transaction that creates it.
    pub fn work_key(&self, agent: &AgentId) -> TableKey {
        TableKey::work(&WorkRef { platform: self.platform.clone(), mode: self.mode, agent: agent.clone() })
    }

    /// The operator's note that a session's secrets are still to be removed.
    pub fn session_work_key(&self, session: &SessionId) -> TableKey {
        TableKey::session_work(&self.platform, self.mode, session)
    }
}

impl ReadScope {
    pub(crate) fn claimed(platform: PlatformId, mode: Mode, only: Option<SessionId>) -> Self {
        Self { platform, mode, only }
    }

    fn partition(&self, suffix: &str) -> Partition {
        Partition::new(format!("{}#{}#{suffix}", self.platform, self.mode.as_str()))
    }

    /// The platform.
    pub fn platform(&self) -> &PlatformId {
        &self.platform
    }

    /// Live or test.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The one session that it is confined to, for a session's or an agent's credential.
    pub fn confined_to(&self) -> Option<&SessionId> {
        self.only.as_ref()
    }

    /// Whether a row that belongs to this session may be shown.
    pub fn sees(&self, session: &SessionId) -> bool {
        self.only.as_ref().is_none_or(|only| only == session)
    }

    /// One session's rows, or nothing when the caller is confined to another session. The answer to the caller is
    /// then the same as for a session that does not exist.
    pub fn session(&self, session: &SessionId) -> Option<SessionScope> {
        self.sees(session).then(|| SessionScope {
            prefix: format!("{}#{}#{session}", self.platform, self.mode.as_str()),
            session: session.clone(),
        })
    }

    /// The platform's own row: name, vault salt, key version.
    pub fn platform_key(&self) -> TableKey {
        TableKey::platform(&self.platform)
    }

    /// What may be shown of the platform's API keys, a row each.
    pub fn api_keys(&self) -> Partition {
        TableKey::api_keys(&self.platform)
    }

    /// All sessions, a row each.
    pub fn sessions(&self) -> Partition {
        self.partition("sessions")
    }

    /// The pointer from an end user to their live session.
    pub fn user_key(&self, user: &UserId) -> TableKey {
        self.partition("users").row(user.as_str())
    }

    /// All agents, a row each.
    pub fn agents(&self) -> Partition {
        self.partition("agents")
    }

    /// The platform's agents that have not settled, a row each: few, however many there have been.
    pub fn live_agents(&self) -> Partition {
        self.partition("live-agents")
    }

    /// Names and versions of the platform's secrets: one row.
    pub fn secret_names_key(&self) -> TableKey {
        self.partition("names").row("names")
    }

    /// Sealed values of the platform's secrets, a row each.
    pub fn secret_values(&self) -> Partition {
        self.partition("values")
    }

    /// The sealed copies of what an agent booted with, a row each, until it stops.
    pub fn agent_copies(&self, agent: &AgentId) -> Partition {
        self.partition(&format!("{agent}#copies"))
    }

    /// Copies of the same values, sealed for the agent's token, a row each, until it stops.
    pub fn token_copies(&self, agent: &AgentId) -> Partition {
        self.partition(&format!("{agent}#token-copies"))
    }

    /// What an agent reports of itself, a row for each kind.
    pub fn agent_reports(&self, agent: &AgentId) -> Partition {
        self.partition(&format!("{agent}#reports"))
    }

    /// A simulated agent's files: an index, and pieces.
    pub fn simulated_disk(&self, agent: &AgentId) -> Partition {
        self.partition(&format!("{agent}#disk"))
    }

    /// A calendar month's audit entries (`2026-11`), a row each: a busy platform's trail does not pile up in one
    /// partition for ever.
    pub fn audit(&self, month: &str) -> Partition {
        self.partition(&format!("audit#{month}"))
    }

    /// The log entries of a day (`2026-11-25`) over all sessions, a row each, spread over [`LOG_SHARDS`] partitions.
    pub fn logs(&self, day: &str) -> impl Iterator<Item = Partition> {
        (0..LOG_SHARDS).map(move |shard| self.partition(&format!("logs#{day}#{shard:x}")))
    }

    /// The one of those partitions that an entry lies in.
    pub fn log_shard(&self, day: &str, id: &LogId) -> Partition {
        self.partition(&format!("logs#{day}#{:x}", crc32fast::hash(id.as_str().as_bytes()) % u32::from(LOG_SHARDS)))
    }

    /// A calendar month's usage (`2026-11`) of that payer: an end user, or a session without one.
    pub fn usage(&self, month: &str, payer: &str) -> Partition {
        self.usage_shard(month, usage_shard_of(payer))
    }

    /// A calendar month's usage of all payers.
    pub fn all_usage(&self, month: &str) -> impl Iterator<Item = Partition> {
        (0..USAGE_SHARDS).map(move |shard| self.usage_shard(month, shard))
    }

    fn usage_shard(&self, month: &str, shard: u8) -> Partition {
        self.partition(&format!("usage#{month}#{shard:x}"))
    }

    /// Answers to be given again, a row each.
    pub fn replays(&self) -> Partition {
        self.partition("replays")
    }

    /// Configured providers, a row each.
    pub fn providers(&self) -> Partition {
        self.partition("providers")
    }
}

/// One session's rows.
#[derive(Clone)]
pub struct SessionScope {
    prefix: String,
    session: SessionId,
}

impl SessionScope {
    fn partition(&self, suffix: &str) -> Partition {
        Partition::new(format!("{}#{suffix}", self.prefix))
    }

    /// The session.
    pub fn id(&self) -> &SessionId {
        &self.session
    }

    /// Counters that limit: agents, milliseconds of compute, and their cost by day and month.
    pub fn counters_key(&self) -> TableKey {
        self.partition("counters").row("counters")
    }

    /// The session's agents, a row each; the same rows as in [`ReadScope::agents`].
    pub fn agents(&self) -> Partition {
        self.partition("agents")
    }

    /// The session's agents that have not settled, a row each.
    pub fn live_agents(&self) -> Partition {
        self.partition("live-agents")
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
