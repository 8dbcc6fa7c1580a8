//! Agents that move to another of their platform's hosts when they boot again: where they live then, and what is remembered
//! of the other one.

use crate::agents::new_agent;
use crate::support::World;
use theazo_store::{Agent, AgentStatus, Intent, LeftOn, NewAgent, NextBoot, PausedBy, Session, StoreError};
use theazo_tenancy::TenantScope;

const ONE: &str = "one.example.com:2376";
const TWO: &str = "two.example.com:2376";

async fn paused_on(world: &World, scope: &TenantScope, session: &Session, host: &str) -> Agent {
    let new = NewAgent { host: Some(host.into()), ..new_agent() };
    let agents = world.agents();
    let agent = agents.begin_boot(scope, session, new).await.unwrap();
    agents.transition(scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
    agents.begin_pause(scope, &agent.id, PausedBy::Platform).await.unwrap();
    agents.finish_pause(scope, &agent.id, Some(12)).await.unwrap()
}

async fn move_to(
    world: &World,
    scope: &TenantScope,
    session: &Session,
    agent: &Agent,
    host: &str,
) -> Result<Agent, StoreError> {
    let session = world.sessions().get(scope, &session.id).await.unwrap().unwrap();
    let next = NextBoot { moving_to: Some(host.into()), ..NextBoot::default() };
    world.agents().begin_again(scope, &session, agent, Intent::Resuming, next).await
}

fn hosts(agent: &Agent) -> (Option<&str>, Option<&str>, Vec<&str>) {
    let left = agent.left_on.iter().map(|left| left.host.as_str()).collect();
    (agent.host.as_deref(), agent.moving_to.as_deref(), left)
}

#[tokio::test]
async fn an_agent_lives_on_another_host_from_the_moment_that_its_boot_there_is_ready_and_not_before() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = paused_on(&world, &scope, &session, ONE).await;
    let begun = move_to(&world, &scope, &session, &agent, TWO).await.unwrap();
    assert_eq!((begun.status, hosts(&begun)), (AgentStatus::Booting, (Some(ONE), Some(TWO), vec![])));
    assert!(begun.lives_on(ONE) && begun.lives_on(TWO));
    assert_eq!(begun.elsewhere().collect::<Vec<_>>(), [TWO]);
    // It fails.
    let back = agents.back_to_paused(&scope, &agent.id, begun.boots, None).await.unwrap();
    assert_eq!((back.status, hosts(&back)), (AgentStatus::Paused, (Some(ONE), None, vec![TWO])));
    assert!(!back.lives_on(TWO) && back.may_be_left_on(TWO));

    // What may be there keeps it from moving there, until somebody knows that nothing is.
    let refused = move_to(&world, &scope, &session, &back, TWO).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    let refused = move_to(&world, &scope, &session, &back, ONE).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "it is there: {refused:?}");
    let forgotten = agents.forget_left(&scope, &agent.id, &back.left_on[0]).await.unwrap();
    assert_eq!(hosts(&forgotten), (Some(ONE), None, vec![]));
    let refused = move_to(&world, &scope, &session, &back, TWO).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "it was read before that");

    move_to(&world, &scope, &session, &forgotten, TWO).await.unwrap();
    let ready = agents.become_ready(&scope, &agent.id, None, |_| true, |_| {}).await.unwrap();
    assert_eq!((ready.status, hosts(&ready)), (AgentStatus::Ready, (Some(TWO), None, vec![ONE])));
    let row = agents.get(&scope, &agent.id).await.unwrap().unwrap();
    assert_eq!(hosts(&row), hosts(&ready));
}

#[tokio::test]
async fn an_agent_that_is_ended_in_the_middle_of_a_move_is_known_to_have_something_on_both_hosts() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = paused_on(&world, &scope, &session, ONE).await;
    move_to(&world, &scope, &session, &agent, TWO).await.unwrap();
    let ended = agents.transition(&scope, &agent.id, AgentStatus::Completed, |_| {}).await.unwrap();
    assert_eq!(hosts(&ended), (Some(ONE), None, vec![TWO]));
    let settled = agents.settle_own_boot(&scope, &agent.id).await.unwrap();
    assert!(settled.sandbox_gone && settled.left_on.is_empty());
    let refused = agents.note_left(&scope, &agent.id, TWO).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "nobody looks after it: {refused:?}");
}

#[tokio::test]
async fn what_is_found_on_a_host_is_noted_unless_the_agent_lives_there_and_forgotten_unless_it_is_found_again() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = paused_on(&world, &scope, &session, ONE).await;
    let refused = agents.note_left(&scope, &agent.id, ONE).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    let noted = agents.note_left(&scope, &agent.id, TWO).await.unwrap();
    let earlier = LeftOn { since_ms: noted.left_on[0].since_ms - 1, ..noted.left_on[0].clone() };
    let kept = agents.forget_left(&scope, &agent.id, &earlier).await.unwrap();
    assert_eq!(kept.left_on, noted.left_on);
    let forgotten = agents.forget_left(&scope, &agent.id, &noted.left_on[0]).await.unwrap();
    assert_eq!(hosts(&forgotten), (Some(ONE), None, vec![]));
    // Not while it moves there.
    move_to(&world, &scope, &session, &forgotten, TWO).await.unwrap();
    let refused = agents.note_left(&scope, &agent.id, TWO).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
}
