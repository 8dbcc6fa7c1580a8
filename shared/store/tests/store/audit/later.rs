//! What becomes of an agent after its first boot, of sessions and of whole platforms: none of it without its entry.

use super::changes::{Steps, spoil_the_entry};
use crate::agents::new_agent;
use crate::support::{World, operator, refused};
use std::fmt::Debug;
use theazo_store::{
    Agent, AgentStatus, AgentTokens, AuditAction, AuditOutcome, Intent, NewCheckpoint, NextBoot, PausedBy,
    PlatformSuspension, StoreError,
};
use theazo_tenancy::{CheckpointId, Mode, TenantScope};

impl Steps {
    /// Tries a deed while its entry cannot be written, which must change no row, and then does it, which must leave
    /// exactly those entries. Entries of one millisecond are in no order.
    async fn only_on_record<T: Debug>(
        &mut self,
        told: &[(AuditAction, AuditOutcome)],
        deed: impl AsyncFn() -> Result<T, StoreError>,
    ) -> T {
        assert!(!told.is_empty());
        self.new_entries().await;
        let before = self.world.scan().await;
        self.proxy.edit(Some(spoil_the_entry));
        let outcome = deed().await;
        self.proxy.edit(None);
        let error = refused(outcome);
        assert!(matches!(error, StoreError::Table { .. }), "{told:?}: {error:?}");
        assert!(self.world.scan().await == before, "{told:?}: something changed");
        let done = deed().await.unwrap_or_else(|error| panic!("{told:?}: {error:?}"));
        let entries = self.new_entries().await.into_iter().map(|entry| format!("{:?}", (entry.action, entry.outcome)));
        let (mut entries, mut told) =
            (entries.collect::<Vec<_>>(), told.iter().map(|entry| format!("{entry:?}")).collect::<Vec<_>>());
        entries.sort();
        told.sort();
        assert_eq!(entries, told);
        done
    }
}

/// An agent that runs.
async fn ready(world: &World, scope: &TenantScope, session: &theazo_store::Session) -> Agent {
    let booting = world.agents().begin_boot(scope, session, new_agent()).await.unwrap();
    world.agents().transition(scope, &booting.id, AgentStatus::Ready, |_| {}).await.unwrap()
}

fn on_files_of(checkpoint: &CheckpointId) -> NextBoot {
    NextBoot { checkpoint: Some(checkpoint.clone()), ..NextBoot::default() }
}

#[tokio::test]
async fn no_pause_no_later_boot_and_no_outcome_of_one_happens_without_its_entry() {
    use AuditAction::*;
    use AuditOutcome::*;
    let mut steps = Steps::start().await;
    let scope = steps.scope.clone();
    let (agents, session) = (steps.world.agents(), steps.world.session(&scope).await);
    let id = ready(&steps.world, &scope, &session).await.id;

    let begin = async || agents.begin_pause(&scope, &id, PausedBy::Session).await;
    let finish = async || agents.finish_pause(&scope, &id, Some(7)).await;
    let pausing = &[(AgentPause, Started)];
    steps.only_on_record(pausing, begin).await;
    // The platform's word over its user's is a deed of its own, as long as the agent stops and when it has.
    let ours = async || agents.begin_pause(&scope, &id, PausedBy::Platform).await;
    steps.only_on_record(&[(AgentPause, Succeeded)], ours).await;
    steps.only_on_record(&[(AgentPause, Failed)], async || agents.cancel_pause(&scope, &id).await).await;
    steps.only_on_record(pausing, begin).await;
    let paused = steps.only_on_record(&[(AgentPause, Succeeded)], finish).await;
    let taken = steps.only_on_record(&[(AgentPause, Succeeded)], ours).await;
    assert_eq!((taken.status, &taken.snapshot), (AgentStatus::Paused, &paused.snapshot));

    let again = async |agent: &Agent, intent| agents.begin_again(&scope, &session, agent, intent, Vec::new()).await;
    let resuming =
        steps.only_on_record(&[(AgentResume, Started)], async || again(&taken, Intent::Resuming).await).await;
    let back = async || agents.back_to_paused(&scope, &id, resuming.boots, None).await;
    let back = steps.only_on_record(&[(AgentResume, Failed)], back).await;
    steps.only_on_record(&[(AgentResume, Started)], async || again(&back, Intent::Resuming).await).await;
    let tokens = AgentTokens::new(steps.world.table.clone(), "test", Some("http://127.0.0.1:1"));
    let token = tokens.make(&scope, &resuming);
    // A token is good from then on: not without the entry that says since when.
    let become_ready = async || agents.become_ready(&scope, &id, token.as_ref(), |_| true, |_| {}).await;
    let running = steps.only_on_record(&[(AgentResume, Succeeded)], become_ready).await;

    steps.only_on_record(&[(AgentRestart, Started)], async || again(&running, Intent::Restarting).await).await;
    let become_ready = async || agents.become_ready(&scope, &id, None, |_| true, |_| {}).await;
    let running = steps.only_on_record(&[(AgentRestart, Succeeded)], become_ready).await;
    steps.only_on_record(&[(AgentRestart, Started)], async || again(&running, Intent::Restarting).await).await;
    let end = async || agents.transition(&scope, &id, AgentStatus::Completed, |_| {}).await;
    steps.only_on_record(&[(AgentRestart, Failed), (AgentEnd, Succeeded)], end).await;
}

#[tokio::test]
async fn no_checkpoint_no_retry_and_no_last_end_happens_without_its_entry() {
    use AuditAction::*;
    use AuditOutcome::*;
    let mut steps = Steps::start().await;
    let scope = steps.scope.clone();
    let (agents, session) = (steps.world.agents(), steps.world.session(&scope).await);
    let id = ready(&steps.world, &scope, &session).await.id;

    let begin = async || agents.begin_checkpoint(&scope, &id, NewCheckpoint::default()).await;
    let (_, given_up) = steps.only_on_record(&[(AgentCheckpoint, Started)], begin).await;
    let give_up = async || agents.give_up_checkpoint(&scope, &id, &given_up, false).await;
    steps.only_on_record(&[(AgentCheckpoint, Failed)], give_up).await;
    let (_, kept) = steps.only_on_record(&[(AgentCheckpoint, Started)], begin).await;
    let finish = async || agents.finish_checkpoint(&scope, &id, &kept, Some(7)).await;
    steps.only_on_record(&[(AgentCheckpoint, Succeeded)], finish).await;

    let fail = async || agents.transition(&scope, &id, AgentStatus::Failed, |_| {}).await;
    steps.only_on_record(&[(AgentEnd, Failed)], fail).await;
    let failed = agents.settle_all_but_kept(&scope, &id).await.unwrap();
    let retry =
        async |agent: &Agent| agents.begin_again(&scope, &session, agent, Intent::Retrying, on_files_of(&kept)).await;
    steps.only_on_record(&[(AgentRetry, Started)], async || retry(&failed).await).await;
    steps.only_on_record(&[(AgentRetry, Failed)], fail).await;
    let failed = agents.settle_all_but_kept(&scope, &id).await.unwrap();
    steps.only_on_record(&[(AgentRetry, Started)], async || retry(&failed).await).await;
    let become_ready = async || agents.become_ready(&scope, &id, None, |_| true, |_| {}).await;
    steps.only_on_record(&[(AgentRetry, Succeeded)], become_ready).await;
    steps.only_on_record(&[(AgentEnd, Failed)], fail).await;
    agents.settle_all_but_kept(&scope, &id).await.unwrap();
    let over = async || agents.terminate_over(&scope, &id).await;
    assert!(steps.only_on_record(&[(AgentEnd, Succeeded)], over).await.terminated);
}

#[tokio::test]
async fn no_session_and_no_platform_stops_or_goes_on_without_its_entry() {
    use AuditAction::*;
    use AuditOutcome::Succeeded;
    let mut steps = Steps::start().await;
    let scope = steps.scope.clone();
    let (sessions, session) = (steps.world.sessions(), steps.world.session(&scope).await);
    let (platform, test_keys) = (scope.platform().clone(), operator().tenant(scope.platform(), Mode::Test));
    let suspension = PlatformSuspension::new(steps.world.table.clone(), operator());

    steps.only_on_record(&[(SessionPause, Succeeded)], async || sessions.pause(&scope, &session.id).await).await;
    steps.only_on_record(&[(SessionResume, Succeeded)], async || sessions.resume(&scope, &session.id).await).await;
    steps.only_on_record(&[(PlatformSuspend, Succeeded)], async || suspension.suspend(&platform).await).await;
    steps.only_on_record(&[(PlatformResume, Succeeded)], async || suspension.resume(&platform).await).await;
    // What test keys see of it.
    let told = super::trail(&steps.world, &test_keys, &theazo_store::AuditFilter::default()).await;
    let told: Vec<_> = told.iter().map(|entry| entry.action).filter(|action| *action != KeyCreate).collect();
    assert_eq!(told, [PlatformResume, PlatformSuspend]);
}
