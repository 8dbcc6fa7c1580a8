//! Reconciling what the table says with what providers run: whatever was interrupted is finished, whatever outlived
//! its time is ended, whatever nobody owns is removed. A scheduled function, and a loop in the local stack.

use crate::agents::{Sandboxes, lifecycle};
use crate::deployment::{Capability, Deployment};
use crate::limits::Watch;
use crate::sessions::{pause, terminate};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::{AgentRef, Provider};
use theazo_store::{
    AgentStatus, Agents, DeletionState, Intent, PausedBy, PlatformDeletion, SecretSealer, SessionStatus, Sessions,
    Table, Work, WorkItem, now_ms,
};
use theazo_tenancy::{Operator, PlatformId, SessionId, TenantScope, WorkRef};

/// How long a boot may be under way before its process counts as dead, milliseconds. A create gives up earlier.
const BOOT_GRACE_MS: i64 = 60_000;

/// Orphans removed in one run at most: when the table was put back to an older state, everything newer looks like one,
/// and someone should have the time to notice.
const MAX_ORPHANS: usize = 20;

/// The agents whose sandboxes run, by account: a provider's name, and the platform whose account it is.
type Running = HashMap<(String, Option<PlatformId>), HashSet<String>>;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Boots that were interrupted and taken back.
    pub failed_boots: usize,
    /// Pauses that were interrupted and finished.
    pub pauses: usize,
    /// Agents that were paused because they had nothing to do.
    pub idle: usize,
    /// Agents that had run out of time.
    pub expired: usize,
    /// Agents that a limit of their session, or their own, has paused.
    pub over_limit: usize,
    /// Agents whose sandbox was gone.
    pub lost: usize,
    /// Ended agents whose sandbox was still to be removed.
    pub settled: usize,
    /// Terminated sessions whose removal was finished, and paused ones whose agents all are.
    pub sessions: usize,
    /// Deleted platforms of which now only the tombstone is left.
    pub platforms: usize,
    /// Sandboxes that no agent owns.
    pub orphans: usize,
    /// Things that could not be done now and stay on the list.
    pub postponed: usize,
}

/// Whether other processes may be booting agents at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boots {
    /// They may: a boot is given its time.
    UnderWay,
    /// They cannot, as when a local stack has just started: every recorded boot was interrupted.
    Impossible,
}

/// Reconciles once.
///
/// # Errors
/// `internal_error` when the work list cannot be read. A provider that does not answer postpones its items instead.
pub async fn reconcile(deployment: &Deployment, boots: Boots) -> Result<Outcome, ApiError> {
    let (work, platforms) = upkeep(deployment.table());
    let run = Run {
        sandboxes: Sandboxes::of(deployment),
        agents: Agents::of(deployment),
        sessions: Sessions::of(deployment),
        sealer: SecretSealer::of(deployment),
        work,
        platforms,
        boots,
    };
    let mut outcome = Outcome::default();
    let listed_at_ms = now_ms();
    let running = run.orphans(&mut outcome).await?;
    let mut watch = Watch::default();
    for item in run.work.list().await? {
        let done = match &item {
            WorkItem::Agent(work) => run.agent(work, &running, listed_at_ms, &mut watch, &mut outcome).await,
            WorkItem::Session(platform, mode, session) => {
                let scope = run.work.operator().tenant(platform, *mode);
                let done = run.session(&scope, session).await;
                outcome.sessions += usize::from(done.is_ok());
                done
            }
            WorkItem::Platform(platform) => run.platform(platform, &mut outcome).await,
            // Looked at already.
            WorkItem::Provider(..) => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!(?item, ?error, "postponed");
            outcome.postponed += 1;
        }
    }
    Ok(outcome)
}

#[expect(clippy::disallowed_methods, reason = "reconciling acts for every tenant and has no caller")]
fn upkeep(table: &Table) -> (Work, PlatformDeletion) {
    let operator = || Operator::assume().on_schedule();
    (Work::new(table.clone(), operator()), PlatformDeletion::new(table.clone(), operator()))
}

struct Run {
    sandboxes: Sandboxes,
    agents: Agents,
    sessions: Sessions,
    sealer: SecretSealer,
    work: Work,
    platforms: PlatformDeletion,
    boots: Boots,
}

impl Run {
    async fn agent(
        &self,
        work: &WorkRef,
        running: &Running,
        listed_at_ms: i64,
        watch: &mut Watch,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let scope = self.work.operator().tenant(&work.platform, work.mode);
        let Some(agent) = self.agents.get(&scope, &work.agent).await? else {
            return Ok(self.work.forget(work).await?);
        };
        let now = now_ms();
        // Only of an agent that ran before its provider was asked can the answer be that its sandbox is gone.
        let was_ready = agent.run_started_ms.is_some_and(|started| started < listed_at_ms);
        let is_lost = was_ready
            && running_at(running, &agent.provider, &work.platform)
                .is_some_and(|running| !running.contains(agent.id.as_str()));
        let grace = if self.boots == Boots::Impossible { 0 } else { BOOT_GRACE_MS };
        let is_interrupted = now - agent.since_ms >= grace;
        let (status, count) = match agent.status {
            AgentStatus::Booting if is_interrupted => {
                lifecycle::take_back(&scope, &agent, &self.agents, &self.sandboxes).await?;
                outcome.failed_boots += 1;
                return Ok(());
            }
            AgentStatus::Ready | AgentStatus::Running if agent.intent == Some(Intent::Pausing) => {
                if is_interrupted {
                    lifecycle::finish_pause(&scope, &agent, &self.agents, &self.sandboxes).await?;
                    outcome.pauses += 1;
                }
                return Ok(());
            }
            status if status.is_over() => (status, &mut outcome.settled),
            AgentStatus::Ready | AgentStatus::Running if now >= agent.deadline_ms() => {
                (AgentStatus::Completed, &mut outcome.expired)
            }
            AgentStatus::Ready | AgentStatus::Running if is_lost => {
                lifecycle::lost(&scope, &agent, &self.agents, &self.sandboxes).await;
                outcome.lost += 1;
                return Ok(());
            }
            AgentStatus::Ready | AgentStatus::Running if agent.is_idle(now) => {
                lifecycle::pause(&scope, &agent, PausedBy::Idle, &self.agents, &self.sandboxes).await?;
                outcome.idle += 1;
                return Ok(());
            }
            AgentStatus::Ready | AgentStatus::Running => {
                let Self { sessions, agents, sandboxes, .. } = self;
                let stopped = watch.visit(&scope, &agent, sessions, agents, sandboxes).await?;
                outcome.over_limit += usize::from(stopped);
                return Ok(());
            }
            _ => return Ok(()),
        };
        lifecycle::end(&scope, &agent, status, &self.agents, &self.sandboxes).await?;
        *count += 1;
        Ok(())
    }

    /// Goes on with what a session's agents are still to do.
    async fn session(&self, scope: &TenantScope, id: &SessionId) -> Result<(), ApiError> {
        let Self { sessions, agents, sealer, sandboxes, .. } = self;
        match sessions.get(scope, id).await? {
            Some(session) if session.status == SessionStatus::Paused => {
                pause::finish(scope, &session, sessions, agents, sandboxes).await
            }
            // It was resumed since.
            Some(session) if session.status == SessionStatus::Active => {
                Ok(sessions.settle_paused(scope, &session).await?)
            }
            _ => terminate::finish(scope, id, sessions, agents, sealer, sandboxes).await,
        }
    }

    /// Goes on with a platform's deletion. Its agents end by its sessions' items, of which this may add some that are
    /// done by the next run.
    async fn platform(&self, platform: &PlatformId, outcome: &mut Outcome) -> Result<(), ApiError> {
        let state = self.platforms.advance(platform, now_ms()).await?;
        outcome.platforms += usize::from(state == DeletionState::Gone);
        Ok(())
    }

    /// Removes sandboxes that no recorded agent owns. Sandboxes are listed before the work list is read, and an agent
    /// is on the work list before its sandbox is made: what is missing there has no owner. Gives what runs at each
    /// provider that answered.
    async fn orphans(&self, outcome: &mut Outcome) -> Result<Running, ApiError> {
        let mut running = Running::new();
        for provider in self.sandboxes.all() {
            let account = (provider.kind().as_str().to_owned(), None);
            self.orphans_at(provider, account, &mut running, outcome).await?;
        }
        for item in self.work.list().await? {
            let WorkItem::Provider(platform, mode, name) = item else { continue };
            let scope = self.work.operator().tenant(&platform, mode);
            match self.sandboxes.provider(&scope, &name).await {
                Ok(provider) => {
                    self.orphans_at(provider.as_ref(), (name, Some(platform)), &mut running, outcome).await?;
                }
                Err(error) if error.code() == ErrorCode::NoProvidersAvailable => {}
                Err(error) => {
                    tracing::warn!(%platform, provider = name, ?error, "a provider cannot be used");
                    outcome.postponed += 1;
                }
            }
        }
        if outcome.orphans > 0 {
            // The deployment's alarm counts these lines.
            tracing::warn!(orphans = outcome.orphans, "orphans were removed");
        }
        Ok(running)
    }

    /// The same for one account. Agents of all platforms are known: two may share an account.
    async fn orphans_at(
        &self,
        provider: &dyn Provider,
        account: (String, Option<PlatformId>),
        running: &mut Running,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let Ok(sandboxes) = provider.list_mine().await else {
            tracing::warn!(provider = account.0, "the provider does not list its sandboxes");
            outcome.postponed += 1;
            return Ok(());
        };
        let known: HashSet<String> = self
            .work
            .list()
            .await?
            .into_iter()
            .filter_map(|item| match item {
                WorkItem::Agent(work) => Some(work.agent.to_string()),
                WorkItem::Session(..) | WorkItem::Provider(..) | WorkItem::Platform(_) => None,
            })
            .collect();
        let alive = sandboxes.iter().filter(|sandbox| sandbox.running).map(|sandbox| sandbox.agent.clone());
        running.insert(account, alive.collect());
        let orphans = sandboxes.into_iter().filter(|sandbox| !known.contains(&sandbox.agent));
        for sandbox in orphans.take(MAX_ORPHANS) {
            match provider.destroy(&AgentRef { agent: sandbox.agent.clone() }).await {
                Ok(()) => outcome.orphans += 1,
                Err(error) => {
                    tracing::warn!(agent = sandbox.agent, %error, "an orphan could not be removed yet");
                    outcome.postponed += 1;
                }
            }
        }
        Ok(())
    }
}

/// What runs in the account that an agent of a platform is in, where it was listed.
fn running_at<'a>(running: &'a Running, provider: &str, platform: &PlatformId) -> Option<&'a HashSet<String>> {
    let of_deployment = running.get(&(provider.to_owned(), None));
    of_deployment.or_else(|| running.get(&(provider.to_owned(), Some(platform.clone()))))
}
