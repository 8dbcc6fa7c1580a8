//! Scopes: what a caller may reach, as types.
//!
//! Confinement is not a rule that an endpoint has to remember. A credential of one session has no way to a partition that
//! holds other sessions' rows: those are methods of [`PlatformScope`], which it cannot get; and what it names, it names
//! inside its own session's partitions. A credential of one agent has neither: it reaches that agent's rows.

use crate::keys::{Partition, TableKey, WorkRef, log_shard_of, usage_shard_of};
use crate::rows::{AGENTS, REPLAYS, audit_suffix, logs_suffix, usage_suffix};
use crate::{Actor, AgentId, AuditId, IssuedKey, LogId, PlatformId, PlatformScope, SessionId, SessionScope};
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

/// How far a credential reaches.
#[derive(Clone)]
pub(crate) enum Reach {
    /// The whole platform, in one mode.
    Platform,
    /// One session.
    Session(SessionId),
    /// One agent of that session, and nothing else of the session's.
    Agent(SessionId, AgentId),
}

/// The credential does not reach that. To the caller it is as what does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credential does not reach that")]
pub struct OutOfReach;

/// A tenant's rows, for reading. Made from a claim (whose reads are withheld until it is proven) or from a
/// [`TenantScope`]. Writing takes the latter.
#[derive(Clone)]
pub struct ReadScope {
    platform: PlatformId,
    mode: Mode,
    reach: Reach,
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
    pub(crate) fn proven(platform: PlatformId, mode: Mode, reach: Reach, actor: Actor) -> Self {
        Self { read: ReadScope { platform, mode, reach }, actor }
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

    /// The row of an audit entry that is being written.
    pub fn audit_key(&self, month: &str, entry: &AuditId) -> TableKey {
        self.partition(&audit_suffix(month)).row(entry.as_str())
    }

    /// The rows of a log entry that is being written: among its session's of that day, and among all the platform's.
    /// Nothing for another session. An agent writes to its session's log, which it cannot read, and to partitions of the
    /// platform's to which nobody else does.
    pub fn log_keys(&self, session: &SessionId, day: &str, entry: &LogId) -> Option<[TableKey; 2]> {
        let may_write = match &self.reach {
            Reach::Platform => true,
            Reach::Session(own) | Reach::Agent(own, _) => own == session,
        };
        let from_agent = matches!(self.reach, Reach::Agent(..));
        let shard = self.partition(&logs_suffix(day, log_shard_of(entry, from_agent)));
        let own = self.any_session(session).logs(day);
        may_write.then(|| [own, shard].map(|partition| partition.row(entry.as_str())))
    }

    /// The operator's note that an agent is alive, written in the transaction that creates it.
    pub fn work_key(&self, agent: &AgentId) -> TableKey {
        TableKey::work(&WorkRef { platform: self.platform.clone(), mode: self.mode, agent: agent.clone() })
    }

    /// The operator's note that a session's secrets are still to be removed.
    pub fn session_work_key(&self, session: &SessionId) -> TableKey {
        TableKey::session_work(&self.platform, self.mode, session)
    }

    /// The note that a provider of the platform's may have sandboxes that nobody owns.
    pub fn provider_work_key(&self, provider: &str) -> TableKey {
        TableKey::provider_work(&self.platform, self.mode, provider)
    }
}

impl ReadScope {
    pub(crate) fn claimed(platform: PlatformId, mode: Mode, reach: Reach) -> Self {
        Self { platform, mode, reach }
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

    /// The one session that it is confined to, for a session's or an agent's credential.
    pub fn confined_to(&self) -> Option<&SessionId> {
        match &self.reach {
            Reach::Platform => None,
            Reach::Session(own) | Reach::Agent(own, _) => Some(own),
        }
    }

    /// Whether a row that belongs to this session may be shown.
    pub fn sees(&self, session: &SessionId) -> bool {
        match &self.reach {
            Reach::Platform => true,
            Reach::Session(own) => own == session,
            Reach::Agent(..) => false,
        }
    }

    /// One session's rows, or nothing when the caller is confined to another session or to an agent. The answer to the
    /// caller is then the same as for a session that does not exist.
    pub fn session(&self, session: &SessionId) -> Option<SessionScope> {
        self.sees(session).then(|| self.any_session(session))
    }

    fn any_session(&self, session: &SessionId) -> SessionScope {
        SessionScope::claimed(&self.platform, self.mode, session)
    }

    /// What holds rows of all the platform's sessions.
    ///
    /// # Errors
    /// [`OutOfReach`] for the credential of one session or agent.
    pub fn platform_wide(&self) -> Result<PlatformScope, OutOfReach> {
        match self.reach {
            Reach::Platform => Ok(PlatformScope::proven(self.platform.clone(), self.mode)),
            Reach::Session(_) | Reach::Agent(..) => Err(OutOfReach),
        }
    }

    /// An agent's row. A caller who is confined to one session has it looked for among that session's agents, so that
    /// another's id names nothing.
    ///
    /// # Errors
    /// [`OutOfReach`] for another agent's token.
    pub fn agent_key(&self, agent: &AgentId) -> Result<TableKey, OutOfReach> {
        match &self.reach {
            Reach::Platform => Ok(self.partition(AGENTS).row(agent.as_str())),
            Reach::Session(own) => Ok(self.any_session(own).agents().row(agent.as_str())),
            Reach::Agent(session, own) if own == agent => Ok(self.any_session(session).agents().row(agent.as_str())),
            Reach::Agent(..) => Err(OutOfReach),
        }
    }

    /// The sealed copies of what an agent booted with, a row each, until it stops. They open only together with the
    /// agent's own row.
    ///
    /// # Errors
    /// [`OutOfReach`] for another agent's token.
    pub fn agent_copies(&self, agent: &AgentId) -> Result<Partition, OutOfReach> {
        self.agent_partition(agent, "copies")
    }

    /// Copies of the same values, sealed for the agent's token, a row each, until it stops.
    ///
    /// # Errors
    /// [`OutOfReach`] for another agent's token.
    pub fn token_copies(&self, agent: &AgentId) -> Result<Partition, OutOfReach> {
        self.agent_partition(agent, "token-copies")
    }

    /// What an agent reports of itself, a row for each kind.
    ///
    /// # Errors
    /// [`OutOfReach`] for another agent's token.
    pub fn agent_reports(&self, agent: &AgentId) -> Result<Partition, OutOfReach> {
        self.agent_partition(agent, "reports")
    }

    /// A simulated agent's files: an index, and pieces.
    ///
    /// # Errors
    /// [`OutOfReach`] for another agent's token.
    pub fn simulated_disk(&self, agent: &AgentId) -> Result<Partition, OutOfReach> {
        self.agent_partition(agent, "disk")
    }

    /// A row of a month's usage (`2026-11`) of that payer, for adding what the agent claims: the only row of it that an
    /// agent's own token reaches.
    ///
    /// # Errors
    /// [`OutOfReach`] for another agent's token.
    pub fn claimed_usage_key(
        &self,
        agent: &AgentId,
        month: &str,
        payer: &str,
        row: &str,
    ) -> Result<TableKey, OutOfReach> {
        match &self.reach {
            Reach::Agent(_, own) if own != agent => Err(OutOfReach),
            _ => Ok(self.partition(&usage_suffix(month, usage_shard_of(payer))).row(row)),
        }
    }

    fn agent_partition(&self, agent: &AgentId, suffix: &str) -> Result<Partition, OutOfReach> {
        match &self.reach {
            Reach::Agent(_, own) if own != agent => Err(OutOfReach),
            _ => Ok(self.partition(&format!("{agent}#{suffix}"))),
        }
    }

    /// The platform's own row: name, vault salt, key version.
    pub fn platform_key(&self) -> TableKey {
        TableKey::platform(&self.platform)
    }

    /// Names and versions of the platform's secrets, which every session inherits: one row.
    ///
    /// # Errors
    /// [`OutOfReach`] for an agent's token.
    pub fn secret_names_key(&self) -> Result<TableKey, OutOfReach> {
        Ok(self.shared("names")?.row("names"))
    }

    /// Sealed values of the platform's secrets, a row each.
    ///
    /// # Errors
    /// [`OutOfReach`] for an agent's token.
    pub fn secret_values(&self) -> Result<Partition, OutOfReach> {
        self.shared("values")
    }

    /// Configured providers, a row each.
    ///
    /// # Errors
    /// [`OutOfReach`] for an agent's token.
    pub fn providers(&self) -> Result<Partition, OutOfReach> {
        self.shared("providers")
    }

    /// How many of the platform's agents have a place at each of its providers, a row each.
    ///
    /// # Errors
    /// [`OutOfReach`] for an agent's token.
    pub fn provider_counters(&self) -> Result<Partition, OutOfReach> {
        self.shared("counters")
    }

    /// What the sessions of a platform have in common.
    fn shared(&self, suffix: &str) -> Result<Partition, OutOfReach> {
        match self.reach {
            Reach::Platform | Reach::Session(_) => Ok(self.partition(suffix)),
            Reach::Agent(..) => Err(OutOfReach),
        }
    }

    /// An answer to be given again, by a digest of who asked for what.
    pub fn replay_key(&self, digest: &str) -> TableKey {
        self.partition(REPLAYS).row(digest)
    }
}
