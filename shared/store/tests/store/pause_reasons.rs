//! Reasons for a pause that hold only for a time: what is over when the pause is written pauses nobody.

use crate::agents::new_agent;
use crate::pausing::running;
use crate::support::{World, operator, refused};
use std::sync::atomic::{AtomicUsize, Ordering};
use theazo_store::{
    Agent, AgentStatus, Agents, Clock, CostPeriod, Currency, Intent, Limits, MaxCost, NewAgent, PauseReason, PausedBy,
    PlatformSuspension, Reached, Session, SessionChanges, StopAttempt, StoreError, now_ms,
};
use theazo_tenancy::TenantScope;

const HOUR_MS: i64 = 60 * 60 * 1000;

/// A session with one agent that runs.
struct Bed {
    world: World,
    scope: TenantScope,
    session: Session,
    agent: Agent,
}

impl Bed {
    async fn start() -> Self {
        let world = World::start().await;
        let scope = world.tenant().await;
        let session = world.session(&scope).await;
        let agent = running(&world, &scope, &session).await;
        Self { world, scope, session, agent }
    }

    /// Fails unless the reason is over, and the agent as it was.
    async fn is_overtaken(&self, reason: PauseReason) {
        let before = self.agent_now().await;
        let outcome = self.world.agents().begin_pause(&self.scope, &self.agent.id, reason).await;
        assert!(matches!(refused(outcome), StoreError::Overtaken));
        let after = self.agent_now().await;
        assert_eq!((after.revision, after.intent, after.paused_by), (before.revision, None, None));
    }

    /// Fails unless the reason pauses the agent.
    async fn pauses(&self, reason: PauseReason, by: PausedBy) {
        let pausing = self.world.agents().begin_pause(&self.scope, &self.agent.id, reason).await.unwrap();
        assert_eq!(pausing.paused_by, Some(by));
    }

    async fn agent_now(&self) -> Agent {
        self.world.agents().get(&self.scope, &self.agent.id).await.unwrap().unwrap()
    }

    async fn limit(&self, limits: Limits) -> Session {
        let changes = SessionChanges { limits: Some(limits), ..SessionChanges::default() };
        self.world.sessions().change(&self.scope, &self.session.id, &changes).await.unwrap()
    }
}

#[tokio::test]
async fn an_agent_is_paused_with_its_session_only_while_that_is_paused() {
    let bed = Bed::start().await;
    let (sessions, id) = (bed.world.sessions(), &bed.session.id);
    bed.is_overtaken(PauseReason::session_paused()).await;
    sessions.pause(&bed.scope, id).await.unwrap();
    sessions.resume(&bed.scope, id).await.unwrap();
    bed.is_overtaken(PauseReason::session_paused()).await;
    sessions.pause(&bed.scope, id).await.unwrap();
    bed.pauses(PauseReason::session_paused(), PausedBy::Suspension).await;
}

#[tokio::test]
async fn an_agent_is_paused_by_a_limit_only_while_its_session_has_the_limits_that_were_read() {
    let bed = Bed::start().await;
    let reached = Reached { limit: "maxComputeMinutes", used: 7, max: 5 };
    let cost = MaxCost { amount: 3, currency: Currency::Usd, period: CostPeriod::Month };
    let read = bed.limit(Limits { max_compute_minutes: Some(5), ..Limits::default() }).await;
    let raised = bed.limit(Limits { max_compute_minutes: Some(50), max_cost: Some(cost), ..Limits::default() }).await;
    bed.is_overtaken(PauseReason::limit(reached, &read, now_ms())).await;
    // Whatever else changes of a session keeps no limit from being held.
    let changes = SessionChanges { metadata: Some([("a".into(), "b".into())].into()), ..SessionChanges::default() };
    bed.world.sessions().change(&bed.scope, &bed.session.id, &changes).await.unwrap();
    // Costs are counted by the day and by the month.
    let yesterday = now_ms() - 24 * HOUR_MS;
    bed.is_overtaken(PauseReason::limit(reached, &raised, yesterday)).await;
    bed.pauses(PauseReason::limit(reached, &raised, now_ms()), PausedBy::Limit).await;
}

#[tokio::test]
async fn a_limit_takes_a_pause_over_that_may_not_come_about_and_who_has_reached_one_does_not_run_on() {
    let bed = Bed::start().await;
    let agents = bed.world.agents();
    let reached = Reached { limit: "maxComputeMinutes", used: 7, max: 5 };
    let session = bed.limit(Limits { max_compute_minutes: Some(5), ..Limits::default() }).await;
    agents.begin_pause(&bed.scope, &bed.agent.id, PausedBy::Session).await.unwrap();
    // One that does not hold any more takes nothing over.
    let lower = Session { limits: Limits { max_compute_minutes: Some(1), ..Limits::default() }, ..session.clone() };
    for over in
        [PauseReason::limit(reached, &lower, now_ms()), PauseReason::limit(reached, &session, now_ms() - 24 * HOUR_MS)]
    {
        let outcome = agents.begin_pause(&bed.scope, &bed.agent.id, over).await;
        assert!(matches!(refused(outcome), StoreError::Overtaken));
        assert_eq!(bed.agent_now().await.paused_by, Some(PausedBy::Session));
    }
    bed.pauses(PauseReason::limit(reached, &session, now_ms()), PausedBy::Limit).await;
    let held = agents.cancel_pause(&bed.scope, &bed.agent.id).await.unwrap();
    assert_eq!((held.intent, held.paused_by), (Some(Intent::Pausing), Some(PausedBy::Limit)));
    // What others pause stays theirs: who may undo it goes by that.
    for by in [PausedBy::Platform, PausedBy::Suspension, PausedBy::Operator] {
        let other = running(&bed.world, &bed.scope, &session).await;
        agents.begin_pause(&bed.scope, &other.id, by).await.unwrap();
        let still = agents.begin_pause(&bed.scope, &other.id, PausedBy::Limit).await.unwrap();
        assert_eq!(still.paused_by, Some(by));
        let runs_on = agents.cancel_pause(&bed.scope, &other.id).await.unwrap();
        assert_eq!((runs_on.intent, runs_on.paused_by), (None, None));
    }
}

#[tokio::test]
async fn who_is_to_make_room_for_others_does_not_boot_again_instead() {
    let bed = Bed::start().await;
    let agents = bed.world.agents();
    let other = running(&bed.world, &bed.scope, &bed.session).await;
    let session = bed.limit(Limits { max_agents: Some(1), ..Limits::default() }).await;
    let restart = async || agents.begin_again(&bed.scope, &session, &bed.agent, Intent::Restarting, Vec::new()).await;
    let error = refused(restart().await);
    assert!(matches!(error, StoreError::LimitExceeded { limit: "maxAgents", used: 2, max: 1 }), "{error:?}");
    agents.transition(&bed.scope, &other.id, AgentStatus::Completed, |_| {}).await.unwrap();
    assert_eq!(restart().await.unwrap().status, AgentStatus::Booting);
}

#[tokio::test]
async fn an_agent_makes_room_for_others_only_while_more_run_than_may() {
    let bed = Bed::start().await;
    let other = running(&bed.world, &bed.scope, &bed.session).await;
    let session = bed.limit(Limits { max_agents: Some(1), ..Limits::default() }).await;
    let crowded = Reached { limit: "maxAgents", used: 2, max: 1 };
    bed.world.agents().transition(&bed.scope, &other.id, AgentStatus::Completed, |_| {}).await.unwrap();
    bed.is_overtaken(PauseReason::limit(crowded, &session, now_ms())).await;
    let session = bed.limit(Limits::default()).await;
    running(&bed.world, &bed.scope, &session).await;
    let session = bed.limit(Limits { max_agents: Some(1), ..Limits::default() }).await;
    bed.pauses(PauseReason::limit(crowded, &session, now_ms()), PausedBy::Limit).await;
}

#[tokio::test]
async fn an_agent_is_paused_with_its_platform_only_while_that_is_suspended() {
    let bed = Bed::start().await;
    let suspension = PlatformSuspension::new(bed.world.table.clone(), operator());
    let platform = bed.scope.platform();
    bed.is_overtaken(PauseReason::platform_suspended()).await;
    suspension.suspend(platform).await.unwrap();
    suspension.resume(platform).await.unwrap();
    bed.is_overtaken(PauseReason::platform_suspended()).await;
    suspension.suspend(platform).await.unwrap();
    bed.pauses(PauseReason::platform_suspended(), PausedBy::Operator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_begins_while_an_idle_agent_is_being_paused_keeps_it_running() {
    let bed = Bed::start().await;
    let new = NewAgent { auto_pause_ms: Some(60_000), ..new_agent() };
    let agents = bed.world.agents();
    let agent = agents.begin_boot(&bed.scope, &bed.session, new).await.unwrap();
    let agent = agents.transition(&bed.scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
    let bed = Bed { agent, ..bed };
    bed.is_overtaken(PauseReason::idle()).await;

    // A minute later, between what the pause has read of it and what it writes, it is called.
    let later = Agents::new(bed.world.table.clone().with_clock(Clock::new(|| now_ms() + 61_000)));
    let looks = AtomicUsize::new(0);
    let calls = |agent: &Agent| {
        if looks.fetch_add(1, Ordering::Relaxed) == 0 {
            let noted = agents.note_call(&bed.scope, agent, now_ms() + HOUR_MS);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(noted)).unwrap();
        }
        true
    };
    let attempt = StopAttempt::make();
    let outcome = later.begin_pause_if(&bed.scope, &bed.agent.id, PauseReason::idle(), &attempt, calls).await;
    assert!(matches!(refused(outcome), StoreError::Overtaken));
    assert_eq!(looks.into_inner(), 2, "it was read again");
    let now = bed.agent_now().await;
    assert_eq!(now.intent, None);
    let busy = now.busy_until_ms.expect("the call is on record");
    // One that began beside it, and ends before, has read that there is none.
    agents.note_call(&bed.scope, &bed.agent, now_ms() + 60_000).await.unwrap();
    assert_eq!(bed.agent_now().await.busy_until_ms, Some(busy));

    let much_later = Agents::new(bed.world.table.clone().with_clock(Clock::new(|| now_ms() + 3 * HOUR_MS)));
    let pausing = much_later.begin_pause(&bed.scope, &bed.agent.id, PauseReason::idle()).await.unwrap();
    assert_eq!(pausing.paused_by, Some(PausedBy::Idle));
}
