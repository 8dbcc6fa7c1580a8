//! The operator, who acts for every tenant and reads from keys whose they are.

use crate::keys::{Partition, TableKey, WORK_SHARDS, WorkRef};
use crate::scope::Reach;
use crate::{Actor, ActorKind, AgentId, KeyId, Mode, PlatformId, SessionId, TenantScope};

/// Where sealed values lie, as read from a partition's key. It says where to look; what a value is bound to proves
/// whether it belongs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedPlace {
    /// Whose.
    pub platform: PlatformId,
    /// In which mode.
    pub mode: Mode,
    /// Of what.
    pub owner: SealedOwner,
}

/// What sealed values belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealedOwner {
    /// The platform itself.
    Platform,
    /// A session.
    Session(SessionId),
    /// An agent: copies of what it booted with.
    Agent(AgentId),
}

/// The operator of the deployment: the command line, scheduled functions, the local stack's set-up. Endpoints that
/// callers reach must never hold one; the functions crate forbids [`Operator::assume`] by lint.
pub struct Operator(ActorKind);

impl Operator {
    /// Takes the operator's part. Every call site is one where no caller's credential is at hand.
    pub fn assume() -> Self {
        Self(ActorKind::Operator)
    }

    /// The same part, as the deployment's own upkeep rather than a person plays it.
    #[must_use]
    pub fn on_schedule(self) -> Self {
        Self(ActorKind::System)
    }

    /// A tenant's scope, without a credential.
    pub fn tenant(&self, platform: &PlatformId, mode: Mode) -> TenantScope {
        TenantScope::proven(platform.clone(), mode, Reach::Platform, Actor::ours(self.0))
    }

    /// The directory of platforms.
    pub fn directory(&self) -> Partition {
        Partition::new("platforms".into())
    }

    /// A platform's own row.
    pub fn platform_key(&self, platform: &PlatformId) -> TableKey {
        TableKey::platform(platform)
    }

    /// That a platform is suspended.
    pub fn standing_key(&self, platform: &PlatformId) -> TableKey {
        TableKey::standing(platform)
    }

    /// What may be shown of a platform's API key.
    pub fn api_key_key(&self, platform: &PlatformId, key: &KeyId) -> TableKey {
        TableKey::api_key(platform, key)
    }

    /// A credential's row.
    pub fn credential_key(&self, hash: &[u8; 32]) -> TableKey {
        TableKey::credential(hash)
    }

    /// The wrapped root keys.
    pub fn root_keys(&self) -> Partition {
        Partition::new("root".into())
    }

    /// Whose sealed values the partition holds, if it holds any.
    pub fn parse_sealed(&self, pk: &str) -> Option<SealedPlace> {
        let mut parts = pk.split('#');
        let platform = PlatformId::parse(parts.next()?).ok()?;
        let mode = Mode::parse(parts.next()?)?;
        let owner = match (parts.next()?, parts.next(), parts.next()) {
            ("values", None, None) => SealedOwner::Platform,
            (session, Some("values"), None) => SealedOwner::Session(SessionId::parse(session).ok()?),
            (agent, Some("copies"), None) => SealedOwner::Agent(AgentId::parse(agent).ok()?),
            _ => return None,
        };
        Some(SealedPlace { platform, mode, owner })
    }

    /// The partitions of the work list.
    pub fn work(&self) -> impl Iterator<Item = Partition> {
        (0..WORK_SHARDS).map(|shard| Partition::new(format!("work#{shard:x}")))
    }

    /// The note that a platform's deletion is not finished.
    pub fn platform_work_key(&self, platform: &PlatformId) -> TableKey {
        TableKey::platform_work(platform)
    }

    /// What was found at providers that no agent owns, a row for each platform and provider.
    pub fn orphans(&self) -> Partition {
        Partition::new("orphans".into())
    }

    /// The platform that a row of the work list names, if it names one.
    pub fn parse_platform_work(&self, sk: &str) -> Option<PlatformId> {
        PlatformId::parse(sk.strip_prefix("platform#")?).ok()
    }

    /// Whose deletions a partition of the ledger's table holds.
    pub fn parse_ledger(&self, pk: &str) -> Option<(PlatformId, Mode)> {
        let mut parts = pk.split('#');
        let platform = PlatformId::parse(parts.next()?).ok()?;
        let mode = Mode::parse(parts.next()?)?;
        (parts.next() == Some("deleted") && parts.next().is_none()).then_some((platform, mode))
    }

    /// The agent that a row of the work list names, if it names one.
    pub fn parse_agent_work(&self, sk: &str) -> Option<WorkRef> {
        let (platform, mode, agent) = split_work(sk, "agent#")?;
        Some(WorkRef { platform, mode, agent: AgentId::parse(agent).ok()? })
    }

    /// The session that a row of the work list names, if it names one.
    pub fn parse_session_work(&self, sk: &str) -> Option<(PlatformId, Mode, SessionId)> {
        let (platform, mode, session) = split_work(sk, "session#")?;
        Some((platform, mode, SessionId::parse(session).ok()?))
    }

    /// The configured provider that a row of the work list names, if it names one.
    pub fn parse_provider_work(&self, sk: &str) -> Option<(PlatformId, Mode, String)> {
        let (platform, mode, provider) = split_work(sk, "provider#")?;
        Some((platform, mode, provider.to_owned()))
    }
}

fn split_work<'a>(sk: &'a str, kind: &str) -> Option<(PlatformId, Mode, &'a str)> {
    let mut parts = sk.strip_prefix(kind)?.split('#');
    let platform = PlatformId::parse(parts.next()?).ok()?;
    let mode = Mode::parse(parts.next()?)?;
    let id = parts.next()?;
    parts.next().is_none().then_some((platform, mode, id))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "keys are made here without a caller")]
mod tests {
    use super::*;

    #[test]
    fn a_partition_of_sealed_values_names_its_owner_and_no_other_partition_does() {
        let operator = Operator::assume();
        let (platform, session, agent) = (PlatformId::make(), SessionId::make(), AgentId::make());
        let scope = operator.tenant(&platform, Mode::Test);
        let own = scope.session(&session).unwrap();
        for (pk, owner) in [
            (scope.secret_values().unwrap(), SealedOwner::Platform),
            (own.secret_values(), SealedOwner::Session(session)),
            (scope.agent_copies(&agent).unwrap(), SealedOwner::Agent(agent.clone())),
        ] {
            let place = SealedPlace { platform: platform.clone(), mode: Mode::Test, owner };
            assert_eq!(operator.parse_sealed(pk.pk()), Some(place));
            assert_eq!(operator.parse_sealed(&format!("{}#x", pk.pk())), None);
        }
        for other in [
            scope.platform_wide().unwrap().agents().pk(),
            scope.simulated_disk(&agent).unwrap().pk(),
            // Keys of the deployment's do not open these, so no rotation may take them for what they do open.
            scope.token_copies(&agent).unwrap().pk(),
            scope.secret_names_key().unwrap().pk(),
            own.agents().pk(),
            "root",
            "work#0",
            "",
        ] {
            assert_eq!(operator.parse_sealed(other), None, "{other}");
        }
    }

    #[test]
    fn a_work_row_names_its_agent_again_and_nothing_else_does() {
        let operator = Operator::assume();
        let work = WorkRef { platform: PlatformId::make(), mode: Mode::Test, agent: AgentId::make() };
        let key = operator.tenant(&work.platform, work.mode).work_key(&work.agent);
        assert_eq!(operator.parse_agent_work(key.sk()), Some(work.clone()));
        assert_eq!(operator.parse_session_work(key.sk()), None);
        assert!(operator.work().any(|partition| partition.pk() == key.pk()));
        assert_eq!(operator.parse_agent_work(&format!("{}#x", key.sk())), None);
        assert_eq!(operator.parse_agent_work("agent#plt#live#agt"), None);
        let platform = operator.platform_work_key(&work.platform);
        assert_eq!(operator.parse_platform_work(platform.sk()), Some(work.platform));
        assert!(operator.work().any(|partition| partition.pk() == platform.pk()));
        assert_eq!(operator.parse_platform_work(key.sk()), None);
        assert_eq!(operator.parse_agent_work(platform.sk()), None);
    }

    #[test]
    fn a_work_row_names_its_session_or_provider_again_and_nothing_else_does() {
        let operator = Operator::assume();
        let (platform, session) = (PlatformId::make(), SessionId::make());
        let scope = operator.tenant(&platform, Mode::Live);
        let (of_session, of_provider) = (scope.session_work_key(&session), scope.provider_work_key("docker"));
        for key in [&of_session, &of_provider] {
            assert!(operator.work().any(|partition| partition.pk() == key.pk()));
            assert_eq!(operator.parse_agent_work(key.sk()), None);
            assert_eq!(operator.parse_platform_work(key.sk()), None);
        }
        assert_eq!(operator.parse_session_work(of_session.sk()), Some((platform.clone(), Mode::Live, session)));
        assert_eq!(operator.parse_provider_work(of_provider.sk()), Some((platform, Mode::Live, "docker".into())));
        for other in [of_provider.sk(), &format!("{}#x", of_session.sk()), ""] {
            assert_eq!(operator.parse_session_work(other), None, "{other}");
        }
        for other in [of_session.sk(), &format!("{}#x", of_provider.sk()), ""] {
            assert_eq!(operator.parse_provider_work(other), None, "{other}");
        }
    }

    #[test]
    fn a_partition_of_the_ledger_names_its_tenant_and_no_other_partition_does() {
        let operator = Operator::assume();
        let scope = operator.tenant(&PlatformId::make(), Mode::Test);
        let ledger = scope.ledger();
        assert_eq!(operator.parse_ledger(ledger.pk()), Some((scope.platform().clone(), Mode::Test)));
        for other in [scope.platform_wide().unwrap().sessions().pk(), &format!("{}#x", ledger.pk()), "platforms", ""] {
            assert_eq!(operator.parse_ledger(other), None, "{other}");
        }
    }
}
