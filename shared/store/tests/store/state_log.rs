//! Every change of an agent's and of a session's state is on record, as what it is, and what changes nothing is not.

use crate::agents::new_agent;
use crate::support::World;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use theazo_store::{
    Agent, AgentStatus, Intent, Limits, LogEntry, LogFilter, LogLevel, LogSource, Logs, NewCheckpoint, NewSession,
    PageRequest, PausedBy, Reached, Session, SessionChanges, StoreError,
};
use theazo_tenancy::{LogId, TenantScope, UserId};

/// A session of a user, and what of its log was looked at.
struct Bed {
    world: World,
    scope: TenantScope,
    session: Session,
    seen: BTreeSet<LogId>,
}

/// An entry as it is compared: level, message and metadata.
type Said = (LogLevel, String, Value);

fn said(level: LogLevel, message: &str, metadata: Value) -> Said {
    (level, message.to_owned(), metadata)
}

impl Bed {
    async fn start() -> Self {
        let world = World::start().await;
        let scope = world.tenant().await;
        let new = NewSession { user: UserId::parse("ann"), ..NewSession::default() };
        let session = world.sessions().create(&scope, &new).await.unwrap();
        Self { world, scope, session, seen: BTreeSet::new() }
    }

    /// What has been written of the session since the last look, the earliest first. The platform reads the same.
    async fn news(&mut self) -> Vec<LogEntry> {
        let logs = Logs::new(self.world.table.clone());
        let mut pages = Vec::new();
        for session in [Some(self.session.id.clone()), None] {
            let filter = LogFilter { session, ..LogFilter::default() };
            let page = logs.list(&self.scope, &filter, &PageRequest { limit: 1000, after: None }).await.unwrap();
            assert!(page.next.is_none());
            pages.push(page.rows);
        }
        assert_eq!(pages[0], pages[1]);
        let mut fresh: Vec<LogEntry> = pages.remove(0).into_iter().rev().collect();
        fresh.retain(|entry| self.seen.insert(entry.id.clone()));
        for entry in &fresh {
            assert_eq!((&entry.session, entry.user_id.as_deref()), (&self.session.id, Some("ann")));
        }
        fresh
    }

    /// The same, as said by us about an agent, or about the session itself.
    async fn said_of(&mut self, agent: Option<&Agent>) -> Vec<Said> {
        let shown = |entry: LogEntry| {
            assert_eq!(entry.source, LogSource::System, "{entry:?}");
            assert_eq!(entry.agent.as_ref(), agent.map(|agent| &agent.id), "{entry:?}");
            assert_eq!(entry.provider.as_ref(), agent.map(|agent| &agent.provider), "{entry:?}");
            (entry.level, entry.message, serde_json::from_str(&entry.metadata.unwrap()).unwrap())
        };
        self.news().await.into_iter().map(shown).collect()
    }

    async fn booting(&mut self) -> Agent {
        self.world.agents().begin_boot(&self.scope, &self.session, new_agent()).await.unwrap()
    }

    async fn become_(&self, agent: &Agent, to: AgentStatus) -> Result<Agent, StoreError> {
        self.world.agents().transition(&self.scope, &agent.id, to, |_| {}).await
    }

    /// An agent in that status, whatever is on record of its way there.
    async fn agent_in(&mut self, status: AgentStatus) -> Agent {
        let mut agent = self.booting().await;
        let way: &[AgentStatus] = match status {
            AgentStatus::Booting => &[],
            AgentStatus::Ready | AgentStatus::Completed | AgentStatus::Failed => &[status],
            AgentStatus::Running | AgentStatus::Paused => &[AgentStatus::Ready, status],
        };
        for next in way {
            agent = self.become_(&agent, *next).await.unwrap();
        }
        self.news().await;
        agent
    }
}

/// What is on record of an agent's new status.
fn status(to: AgentStatus, from: Option<AgentStatus>) -> Said {
    let level = if to == AgentStatus::Failed { LogLevel::Error } else { LogLevel::Info };
    let message = format!("agent is {}", to.as_str());
    let from = from.map(AgentStatus::as_str);
    said(level, &message, json!({ "event": "agent.status", "status": to.as_str(), "from": from }))
}

#[tokio::test]
async fn every_move_that_an_agent_can_make_is_on_record_once_with_where_it_came_from_and_no_other_is() {
    let mut bed = Bed::start().await;
    bed.news().await;
    let agent = bed.booting().await;
    assert_eq!(bed.said_of(Some(&agent)).await, [status(AgentStatus::Booting, None)]);
    let mut moves = 0;
    for from in AgentStatus::ALL {
        for to in AgentStatus::ALL {
            let agent = bed.agent_in(from).await;
            let moved = bed.become_(&agent, to).await;
            let expected = match from.can_become(to) {
                true => vec![status(to, Some(from))],
                false => Vec::new(),
            };
            assert_eq!(moved.is_ok(), from.can_become(to) || from == to, "{from:?} {to:?}");
            assert_eq!(bed.said_of(Some(&agent)).await, expected, "{from:?} {to:?}");
            moves += expected.len();
        }
    }
    assert_eq!(moves, 17);
}

#[tokio::test]
async fn every_way_to_boot_again_and_back_is_on_record() {
    use AgentStatus::{Booting, Failed, Paused, Ready};
    let mut bed = Bed::start().await;
    let agents = bed.world.agents();
    let mut agent = bed.agent_in(Ready).await;
    let scope = bed.scope.clone();
    for (intent, from) in [(Intent::Restarting, Ready), (Intent::Resuming, Paused)] {
        agent = agents.begin_again(&scope, &bed.session, &agent, intent, Vec::new()).await.unwrap();
        assert_eq!(bed.said_of(Some(&agent)).await, [status(Booting, Some(from))], "{intent:?}");
        // Interrupted, it is paused.
        agent = agents.back_to_paused(&scope, &agent.id, agent.boots, None).await.unwrap();
        assert_eq!(bed.said_of(Some(&agent)).await, [status(Paused, Some(Booting))], "{intent:?}");
    }
    agent = agents.begin_again(&scope, &bed.session, &agent, Intent::Resuming, Vec::new()).await.unwrap();
    agent = agents.become_ready(&scope, &agent.id, None, |_| true, |_| {}).await.unwrap();
    let expected = [status(Booting, Some(Paused)), status(Ready, Some(Booting))];
    assert_eq!(bed.said_of(Some(&agent)).await, expected);
    // A checkpoint, and what boots from it once the agent has failed.
    let (_, id) = agents.begin_checkpoint(&scope, &agent.id, NewCheckpoint::default()).await.unwrap();
    assert_eq!(bed.said_of(Some(&agent)).await, []);
    agents.finish_checkpoint(&scope, &agent.id, &id, Some(5)).await.unwrap();
    let made = said(LogLevel::Info, "agent has a checkpoint", json!({ "event": "agent.checkpoint", "checkpoint": id }));
    assert_eq!(bed.said_of(Some(&agent)).await, [made]);
    agent = bed.become_(&agent, Failed).await.unwrap();
    agent = agents.settle_all_but_kept(&scope, &agent.id).await.unwrap();
    let boot = theazo_store::NextBoot { checkpoint: Some(id), ..theazo_store::NextBoot::default() };
    agent = agents.begin_again(&scope, &bed.session, &agent, Intent::Retrying, boot).await.unwrap();
    let expected = [status(Failed, Some(Ready)), status(Booting, Some(Failed))];
    assert_eq!(bed.said_of(Some(&agent)).await, expected);
}

#[tokio::test]
async fn why_an_agent_is_paused_is_on_record_where_nobody_called_for_it_and_then_that_it_is() {
    use AgentStatus::{Paused, Ready};
    let mut bed = Bed::start().await;
    let reached = Reached { limit: "maxCost", used: 7, max: 5 };
    let reasons: [(theazo_store::PauseReason, Option<Said>); 8] = [
        (PausedBy::Platform.into(), None),
        (PausedBy::Session.into(), None),
        (PausedBy::Suspension.into(), None),
        (PausedBy::Upkeep.into(), None),
        (
            PausedBy::Idle.into(),
            Some(said(LogLevel::Info, "agent has had nothing to do", json!({ "event": "agent.idle" }))),
        ),
        (
            PausedBy::Limit.into(),
            Some(said(
                LogLevel::Warn,
                "agent has reached a limit that held when its run began",
                json!({ "event": "agent.limit" }),
            )),
        ),
        (
            PausedBy::Operator.into(),
            Some(said(
                LogLevel::Warn,
                "the operator has suspended the platform",
                json!({ "event": "platform.suspended" }),
            )),
        ),
        (
            reached.into(),
            Some(said(
                LogLevel::Warn,
                "agent has reached a limit: maxCost",
                json!({ "event": "agent.limit", "limit": "maxCost", "used": 7, "max": 5 }),
            )),
        ),
    ];
    for (reason, expected) in reasons {
        let agent = bed.agent_in(Ready).await;
        let agents = bed.world.agents();
        agents.begin_pause(&bed.scope, &agent.id, reason).await.unwrap();
        assert_eq!(bed.said_of(Some(&agent)).await, Vec::from_iter(expected));
        // Once more is nothing new.
        agents.begin_pause(&bed.scope, &agent.id, PausedBy::Session).await.unwrap();
        assert_eq!(bed.said_of(Some(&agent)).await, []);
        for expected in [vec![status(Paused, Some(Ready))], Vec::new()] {
            agents.finish_pause(&bed.scope, &agent.id, None).await.unwrap();
            assert_eq!(bed.said_of(Some(&agent)).await, expected);
        }
    }
}

#[tokio::test]
async fn every_change_of_a_session_is_on_record_once_with_what_it_then_is_and_what_changes_nothing_is_not() {
    let mut bed = Bed::start().await;
    let (sessions, scope, id) = (bed.world.sessions(), bed.scope.clone(), bed.session.id.clone());
    let entry = |message: &str, status: &str, limits: &Value| {
        said(LogLevel::Info, message, json!({ "event": "session.status", "status": status, "limits": limits }))
    };
    let mut limits = json!(bed.session.limits);
    assert_eq!(bed.said_of(None).await, [entry("session created", "active", &limits)]);
    let changes = SessionChanges {
        limits: Some(Limits { max_agents: Some(3), ..Limits::default() }),
        ..SessionChanges::default()
    };
    for _ in 0..2 {
        let changed = sessions.change(&scope, &id, &changes).await.unwrap();
        limits = json!(changed.limits);
        assert_eq!(limits["maxAgents"], 3);
        assert_eq!(bed.said_of(None).await, [entry("session changed", "active", &limits)]);
    }
    sessions.change(&scope, &id, &SessionChanges::default()).await.unwrap();
    assert_eq!(bed.said_of(None).await, []);
    for (message, status, pauses) in [("session paused", "paused", true), ("session resumed", "active", false)] {
        for expected in [vec![entry(message, status, &limits)], Vec::new()] {
            match pauses {
                true => sessions.pause(&scope, &id).await.unwrap(),
                false => sessions.resume(&scope, &id).await.unwrap(),
            };
            assert_eq!(bed.said_of(None).await, expected, "{message}");
        }
    }
    for expected in [vec![entry("session terminated", "terminated", &limits)], Vec::new()] {
        sessions.terminate(&scope, &id).await.unwrap();
        assert_eq!(bed.said_of(None).await, expected);
    }
    for refused in [sessions.pause(&scope, &id).await, sessions.resume(&scope, &id).await] {
        assert!(matches!(refused, Err(StoreError::Conflict(_))));
    }
    assert_eq!(bed.said_of(None).await, []);
}
