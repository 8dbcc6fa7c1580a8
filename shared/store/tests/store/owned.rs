//! Agents' rows that somebody has put where they do not belong, or that have no tag of this deployment's.

use crate::agents::new_agent;
use crate::support::{World, number, text};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use theazo_store::{Agent, AgentFilter, AgentStatus, Agents, Clock, Limits, NewSession, PageRequest, Session, now_ms};
use theazo_tenancy::{SessionScope, TableKey, TenantScope};

const PAGE: PageRequest = PageRequest { limit: 100, after: None };

/// The four rows of an agent in a session.
fn rows(scope: &TenantScope, session: &Session, agent: &Agent) -> [TableKey; 4] {
    let own = scope.session(&session.id).unwrap();
    let id = &agent.id;
    [
        own.agent_key_of_platform(id),
        own.agents().row(id.as_str()),
        own.live_agent_key_of_platform(id),
        own.live_agents().row(id.as_str()),
    ]
}

/// How many agents each way to read more than one shows: of the platform, of the session, and what has not settled of both.
async fn shown(agents: &Agents, scope: &TenantScope, own: &SessionScope) -> [usize; 4] {
    let filter = AgentFilter::default();
    [
        agents.list(scope, &filter, &PAGE).await.unwrap().rows.len(),
        agents.list_of_session(own, &filter, &PAGE).await.unwrap().rows.len(),
        agents.unsettled_of_platform(scope).await.unwrap().len(),
        agents.unsettled_of_session(own).await.unwrap().len(),
    ]
}

#[tokio::test]
async fn a_row_that_was_put_elsewhere_is_nobodys_agent_in_any_list_and_uses_up_no_limit() {
    let world = World::start().await;
    let now = Arc::new(AtomicI64::new(now_ms()));
    let clock = now.clone();
    let table = world.table.clone().with_clock(Clock::new(move || clock.load(Ordering::Relaxed)));
    let agents = Agents::new(table.clone());
    let (scope, other) = (world.tenant().await, world.tenant().await);
    let limits = Limits { max_compute_minutes: Some(10), ..Limits::default() };
    let limited = world.sessions().create(&scope, &NewSession { limits, ..NewSession::default() }).await.unwrap();
    let own = scope.session(&limited.id).unwrap();
    let beside = world.session(&scope).await;

    // One that runs for long, of another session and of another platform.
    for (owner, session) in [(&scope, &beside), (&other, &world.session(&other).await)] {
        let before = shown(&agents, &scope, &own).await;
        let agent = agents.begin_boot(owner, session, new_agent()).await.unwrap();
        agents.transition(owner, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
        for (from, to) in rows(owner, session, &agent).iter().zip(rows(&scope, &limited, &agent)) {
            let mut row = world.row(from).await.unwrap();
            row.insert("session".into(), text(limited.id.as_str()));
            row.insert("timeout_ms".into(), number(24 * 60 * 60_000));
            world.put(&to, row).await;
        }
        now.fetch_add(20 * 60_000, Ordering::Relaxed);
        assert_eq!(shown(&agents, &scope, &own).await, before);
        assert!(agents.get(&scope, &agent.id).await.unwrap().is_none());
        assert!(agents.left_of_session(&own).await.unwrap().has_strangers);
        // Twenty minutes of another's are not this session's.
        let started = agents.begin_boot(&scope, &limited, new_agent()).await.unwrap();
        assert_eq!(shown(&agents, &scope, &own).await, before.map(|count| count + 1));
        agents.transition(&scope, &started.id, AgentStatus::Completed, |_| {}).await.unwrap();
        agents.settle(&scope, &started.id).await.unwrap();

        // Who has no key looks after it all the same.
        let unkeyed = Agents::new(table.clone().without_credential_key());
        assert!(unkeyed.get(&scope, &agent.id).await.unwrap().is_some());
        let left = unkeyed.left_of_session(&own).await.unwrap();
        assert!(!left.has_strangers && left.agents.iter().any(|left| left.id == agent.id));
        for place in rows(&scope, &limited, &agent) {
            world.remove(&place).await;
        }
    }
}
