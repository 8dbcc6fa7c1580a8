//! The layout of the table's keys. Nothing outside this crate can make one from strings.
//!
//! | partition | sort key | holds |
//! |---|---|---|
//! | `credential#<SHA-256, hex>` | `credential` | an API key, a session's or an agent's token |
//! | `<platform>` | `platform` | a platform |
//! | `<platform>#standing` | `standing` | that a platform is suspended, while it is |
//! | `<platform>#keys` | `key_…` | what may be shown of an API key |
//! | `<platform>#<mode>#sessions` | `ses_…` | a session |
//! | `<platform>#<mode>#users` | the user id | the user's live session |
//! | `<platform>#<mode>#agents` | `agt_…` | an agent, for the platform |
//! | `<platform>#<mode>#live-agents` | `agt_…` | an agent that has not settled, without its texts |
//! | `<platform>#<mode>#names` | `names` | names and versions of the platform's secrets |
//! | `<platform>#<mode>#values` | `NAME` | a sealed value of the platform's secrets |
//! | `<platform>#<mode>#agt_…#copies` | `NAME`, `0<SHA-256, HEX>` | a sealed copy of what an agent booted with; what vouches for the list of them |
//! | `<platform>#<mode>#agt_…#token-copies` | the same | other ones, sealed for the agent's token |
//! | `<platform>#<mode>#agt_…#reports` | `models`, `progress`, `result` | what an agent reports of itself |
//! | `<platform>#<mode>#agt_…#disk` | `index`, `piece#…` | a simulated agent's files; in test mode only |
//! | `<platform>#<mode>#audit#<yyyy-mm>` | `aud_…` | an audit entry |
//! | `<platform>#<mode>#logs#<yyyy-mm-dd>#<shard>` | `log_…` | a log entry, for the platform |
//! | `<platform>#<mode>#replays` | SHA-256, hex | an answer to be given again |
//! | `<platform>#<mode>#providers` | `docker` … | a configured provider |
//! | `<platform>#<mode>#counters` | `docker` … | how many agents have a place at a provider that the platform limits |
//! | `<platform>#<mode>#ses_…#counters` | `counters` | a session's counters |
//! | `<platform>#<mode>#ses_…#agents` | `agt_…` | an agent, for its session |
//! | `<platform>#<mode>#ses_…#live-agents` | `agt_…` | the same, for its session |
//! | `<platform>#<mode>#ses_…#names` | `names` | names and versions of the session's secrets |
//! | `<platform>#<mode>#ses_…#values` | `NAME` | a sealed value of the session's secrets |
//! | `<platform>#<mode>#ses_…#logs#<yyyy-mm-dd>` | `log_…` | the same log entry, for its session |
//! | `<platform>#<mode>#usage#<yyyy-mm>#<shard>` | `day#…`, `user#…`, `user-day#…` | a month's usage, summed |
//! | `platforms` | `plt_…` | the operator's directory |
//! | `work#<shard>` | `agent#…`, `session#…`, `platform#…` | the operator's unfinished and running work |
//! | `orphans` | `<platform or ->#<provider>` | what was found in their accounts at a provider that no agent owns |
//! | `root` | `active`, `version#<n>` | the wrapped root keys |
//!
//! The ledger's table, which is outside the data table's backups, has one kind of row: `<platform>#<mode>#deleted` with
//! what was deleted or ended (`secret#platform#NAME`, `secret#ses_…#NAME`, `session#ses_…`, `tokens#ses_…`, `key#key_…`,
//! `rotated#key_…`, `platform`).
//!
//! Sealed values lie under partitions of their own suffix, so that a policy on leading keys keeps a function that
//! lists names from reading values.

use crate::{AgentId, KeyId, Mode, PlatformId, SessionId};

/// How many partitions the operator's work list is spread over.
pub const WORK_SHARDS: u8 = 16;

/// How many partitions a platform's log entries of one day are spread over. One takes about 1,000 entries a second
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html>); reading newest
/// first asks all of them. Half of them take what agents report of themselves, so that agents that flood theirs do not
/// hold up the entries that changes of state write in their transactions.
pub const LOG_SHARDS: u8 = 4;

/// How many partitions a platform's usage of a month is spread over.
pub const USAGE_SHARDS: u8 = 16;

/// A row's whole key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableKey {
    pk: String,
    sk: String,
}

/// A partition's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition(String);

/// An agent in the operator's work list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkRef {
    /// Whose agent.
    pub platform: PlatformId,
    /// In which mode.
    pub mode: Mode,
    /// Which agent.
    pub agent: AgentId,
}

impl Partition {
    pub(crate) fn new(pk: String) -> Self {
        Self(pk)
    }

    /// One that holds a platform's rows of one mode, and nobody else's.
    pub(crate) fn of_platform(platform: &PlatformId, mode: Mode, suffix: &str) -> Self {
        Self(format!("{platform}#{}#{suffix}", mode.as_str()))
    }

    /// The partition key.
    pub fn pk(&self) -> &str {
        &self.0
    }

    /// A row of this partition.
    pub fn row(&self, sk: &str) -> TableKey {
        TableKey { pk: self.0.clone(), sk: sk.to_owned() }
    }
}

fn shard_of(id: &str) -> u32 {
    crc32fast::hash(id.as_bytes()) % u32::from(WORK_SHARDS)
}

/// Which of a day's partitions that log entry is in.
pub(crate) fn log_shard_of(entry: &crate::LogId, from_agent: bool) -> u8 {
    let shard = u8::try_from(crc32fast::hash(entry.as_str().as_bytes()) % u32::from(LOG_SHARDS / 2)).unwrap_or(0);
    if from_agent { LOG_SHARDS / 2 + shard } else { shard }
}

/// Which of a month's partitions the usage of that payer is in.
pub(crate) fn usage_shard_of(payer: &str) -> u8 {
    u8::try_from(crc32fast::hash(payer.as_bytes()) % u32::from(USAGE_SHARDS)).unwrap_or(0)
}

impl TableKey {
    /// The partition key.
    pub fn pk(&self) -> &str {
        &self.pk
    }

    /// The sort key.
    pub fn sk(&self) -> &str {
        &self.sk
    }

    fn new(pk: String, sk: String) -> Self {
        Self { pk, sk }
    }

    pub(crate) fn credential(hash: &[u8; 32]) -> Self {
        Self::new(format!("credential#{}", hex::encode(hash)), "credential".into())
    }

    pub(crate) fn platform(platform: &PlatformId) -> Self {
        Self::new(platform.to_string(), "platform".into())
    }

    /// A partition of its own: every function may read it, and of the platform's row few.
    pub(crate) fn standing(platform: &PlatformId) -> Self {
        Self::new(format!("{platform}#standing"), "standing".into())
    }

    pub(crate) fn api_keys(platform: &PlatformId) -> Partition {
        Partition::new(format!("{platform}#keys"))
    }

    pub(crate) fn api_key(platform: &PlatformId, key: &KeyId) -> Self {
        Self::api_keys(platform).row(key.as_str())
    }

    pub(crate) fn work(work: &WorkRef) -> Self {
        let WorkRef { platform, mode, agent } = work;
        Self::new(format!("work#{:x}", shard_of(agent.as_str())), format!("agent#{platform}#{}#{agent}", mode.as_str()))
    }

    pub(crate) fn session_work(platform: &PlatformId, mode: Mode, session: &SessionId) -> Self {
        Self::new(
            format!("work#{:x}", shard_of(session.as_str())),
            format!("session#{platform}#{}#{session}", mode.as_str()),
        )
    }

    pub(crate) fn provider_work(platform: &PlatformId, mode: Mode, provider: &str) -> Self {
        Self::new(
            format!("work#{:x}", shard_of(platform.as_str())),
            format!("provider#{platform}#{}#{provider}", mode.as_str()),
        )
    }

    pub(crate) fn platform_work(platform: &PlatformId) -> Self {
        Self::new(format!("work#{:x}", shard_of(platform.as_str())), format!("platform#{platform}"))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "keys are made here without a caller")]
mod tests {
    use super::*;
    use crate::scope::Reach;
    use crate::{Actor, ActorKind, LogId, Operator, ReadScope, TenantScope, UserId};
    use std::collections::HashSet;

    #[test]
    fn every_tenant_partition_begins_with_the_platform_and_no_two_are_alike() {
        let operator = Operator::assume();
        let platform = PlatformId::make();
        let mut seen = HashSet::new();
        for mode in [Mode::Live, Mode::Test] {
            let scope = operator.tenant(&platform, mode);
            let wide = scope.platform_wide().unwrap();
            let session = scope.session(&SessionId::make()).unwrap();
            let agent = AgentId::make();
            let partitions = [
                wide.sessions(),
                wide.agents(),
                wide.live_agents(),
                scope.secret_values().unwrap(),
                scope.providers().unwrap(),
                scope.provider_counters().unwrap(),
                wide.replays(),
                wide.audit("2026-11"),
                scope.agent_copies(&agent).unwrap(),
                scope.token_copies(&agent).unwrap(),
                scope.agent_reports(&agent).unwrap(),
                scope.simulated_disk(&agent).unwrap(),
                wide.usage("2026-11", "u#x"),
                scope.ledger(),
                session.agents(),
                session.live_agents(),
                session.secret_values(),
            ];
            let keys = [
                scope.secret_names_key().unwrap(),
                wide.user_key(&UserId::parse("x#values").unwrap()),
                session.counters_key(),
                session.secret_names_key(),
            ];
            for pk in partitions.iter().map(Partition::pk).chain(keys.iter().map(TableKey::pk)) {
                assert!(pk.starts_with(&format!("{platform}#{}#", mode.as_str())), "{pk}");
                assert!(seen.insert(pk.to_owned()), "{pk} twice");
            }
        }
    }

    #[test]
    fn a_scope_confined_to_one_session_gives_no_other() {
        let own = SessionId::make();
        let actor = Actor::ours(ActorKind::Session);
        let scope = TenantScope::proven(PlatformId::make(), Mode::Live, Reach::Session(own.clone()), actor);
        let session = scope.session(&own).unwrap();
        assert!(scope.session(&SessionId::make()).is_none());
        assert!(scope.platform_wide().is_err());
        // Whatever agent it names is looked for among its own.
        let agent = AgentId::make();
        assert_eq!(scope.agent_key(&agent), Ok(session.agents().row(agent.as_str())));
        assert!(scope.secret_values().is_ok(), "what sessions inherit");
        assert_eq!(session.standing_key(), Operator::assume().standing_key(scope.platform()));
    }

    #[test]
    fn a_scope_confined_to_one_agent_gives_that_agents_rows_and_nothing_of_its_session() {
        let (session, own, other) = (SessionId::make(), AgentId::make(), AgentId::make());
        let reach = Reach::Agent(session.clone(), own.clone());
        let scope = TenantScope::proven(PlatformId::make(), Mode::Live, reach, Actor::ours(ActorKind::Agent));
        assert!(scope.session(&session).is_none() && !scope.sees(&session));
        assert!(scope.platform_wide().is_err());
        assert!(scope.secret_names_key().is_err() && scope.secret_values().is_err());
        assert!(scope.providers().is_err() && scope.provider_counters().is_err());
        let operator = Operator::assume().tenant(scope.platform(), Mode::Live);
        let row = operator.session(&session).unwrap().agents().row(own.as_str());
        assert_eq!(scope.agent_key(&own), Ok(row));
        assert_eq!(scope.agent_copies(&own), operator.agent_copies(&own));
        assert!(scope.agent_key(&other).is_err() && scope.agent_copies(&other).is_err());
        for partition in [ReadScope::simulated_disk, ReadScope::token_copies, ReadScope::agent_reports] {
            assert!(partition(&scope, &own).is_ok() && partition(&scope, &other).is_err());
        }
        let claimed = |agent: &AgentId| scope.claimed_usage_key(agent, "1970-01", "u#a", "models#01#u#a");
        let usage = operator.platform_wide().unwrap().usage("1970-01", "u#a");
        assert_eq!(claimed(&own), Ok(usage.row("models#01#u#a")));
        assert!(claimed(&other).is_err());
        let entry = LogId::make_at(0);
        assert!(scope.log_keys(&session, "1970-01-01", &entry).is_some(), "it adds to its session's log");
        assert!(scope.log_keys(&SessionId::make(), "1970-01-01", &entry).is_none());
    }

    #[test]
    fn a_session_writes_its_agents_and_itself_where_the_platform_reads_them() {
        let (session, agent) = (SessionId::make(), AgentId::make());
        let scope = Operator::assume().tenant(&PlatformId::make(), Mode::Test);
        let (wide, own) = (scope.platform_wide().unwrap(), scope.session(&session).unwrap());
        assert_eq!(own.key(), wide.sessions().row(session.as_str()));
        assert_eq!(own.agent_key_of_platform(&agent), wide.agents().row(agent.as_str()));
        assert_eq!(own.live_agent_key_of_platform(&agent), wide.live_agents().row(agent.as_str()));
        assert_eq!(scope.agent_key(&agent), Ok(wide.agents().row(agent.as_str())));
        assert_eq!(scope.replay_key("x"), wide.replays().row("x"));
        let entry = crate::AuditId::make();
        assert_eq!(scope.audit_key("2026-11", &entry), wide.audit("2026-11").row(entry.as_str()));
        let usage = wide.usage("2026-11", "u#x");
        assert!(wide.all_usage("2026-11").any(|shard| shard == usage));
        assert_eq!(own.usage_key_of_platform("2026-11", "u#x", "row"), usage.row("row"));
        for entry in (0..20).map(LogId::make_at) {
            let [of_session, of_all] = scope.log_keys(&session, "2026-11-25", &entry).unwrap();
            assert_eq!(of_session, own.logs("2026-11-25").row(entry.as_str()));
            assert!(wide.logs("2026-11-25").any(|shard| shard.row(entry.as_str()) == of_all));
        }
    }

    #[test]
    fn days_and_months_have_partitions_of_their_own_under_names_that_stay() {
        let scope = Operator::assume().tenant(&PlatformId::make(), Mode::Test);
        let wide = scope.platform_wide().unwrap();
        let own = |suffix: &str| format!("{}#test#{suffix}", scope.platform());
        assert_eq!(wide.audit("2026-11").pk(), own("audit#2026-11"));
        let days: Vec<_> = wide.logs("2026-11-25").map(|partition| partition.pk().to_owned()).collect();
        assert_eq!(days, ["0", "1", "2", "3"].map(|shard| own(&format!("logs#2026-11-25#{shard}"))));
        let months: Vec<_> = wide.all_usage("2026-11").map(|partition| partition.pk().to_owned()).collect();
        assert_eq!((months.len(), &months[15]), (16, &own("usage#2026-11#f")));
        // Entries, payers and live agents are spread over all of them.
        for (from_agent, expected) in [(false, [0, 1]), (true, [2, 3])] {
            let shards = (0..200).map(|at_ms| log_shard_of(&LogId::make_at(at_ms), from_agent));
            assert_eq!(shards.collect::<HashSet<u8>>(), HashSet::from(expected));
        }
        let shards: HashSet<u8> = (0..500).map(|user| usage_shard_of(&format!("u#{user}"))).collect();
        assert_eq!(shards, (0..USAGE_SHARDS).collect());
        let shards: HashSet<u32> = (0..500).map(|_| shard_of(AgentId::make().as_str())).collect();
        assert_eq!(shards, (0..u32::from(WORK_SHARDS)).collect());
    }
}
