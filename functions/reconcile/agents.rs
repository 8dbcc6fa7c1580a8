//! One agent in a run: what it is in the middle of, its limits, and what it has left elsewhere.

use super::hosts::Heard;
use super::{Boots, Found, Look, Outcome, Run};
use crate::agents::{QUIET_MS, clear_hosts, lifecycle, pausing, remove_left_over};
use futures_util::future::join;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use theazo_http::ApiError;
use theazo_providers::Presence;
use theazo_store::{
    Agent, AgentStatus, BOOT_GRACE_MS, CHECKPOINT_GRACE_MS, Intent, PauseReason, PausedBy, StopAttempt, now_ms,
};
use theazo_tenancy::{PlatformId, TenantScope, WorkRef};

/// How long clearing hosts of what an agent has left there may take in a run.
const CLEARED_WITHIN: Duration = Duration::from_secs(10);

impl Run {
    /// Looks after one agent.
    ///
    /// # Errors
    /// What keeps it from being looked after now.
    pub(super) async fn agent(&self, work: &WorkRef, look: &Look<'_>, outcome: &mut Outcome) -> Result<(), ApiError> {
        let scope = self.work.operator().tenant(&work.platform, work.mode);
        let Some(agent) = self.agents.get(&scope, &work.agent).await? else {
            return Ok(self.work.forget(work).await?);
        };
        // Side by side: a host that does not let go of what it has keeps no limit from being held.
        let left = Box::pin(self.left_over(&scope, &agent, &work.platform, look));
        let mut own = Outcome::default();
        let stands = Box::pin(self.stand_by(&scope, agent.clone(), work, look, &mut own));
        let (left, done) = join(left, stands).await;
        *outcome += left;
        *outcome += own;
        done
    }

    /// Removes what is left of an agent's checkpoints, and of the agent on hosts where it does not live.
    async fn left_over(&self, scope: &TenantScope, agent: &Agent, platform: &PlatformId, look: &Look<'_>) -> Outcome {
        let grace_ms = self.grace(CHECKPOINT_GRACE_MS);
        let checkpoints = match look.hosts.heard(agent.host.as_deref(), platform) {
            Heard::Nothing | Heard::Answer => {
                remove_left_over(scope, agent, &self.agents, &self.sandboxes, Some(grace_ms)).await
            }
            Heard::Unclear | Heard::Unreachable(_) => (0, 0),
        };
        let hosts = hosts_with(look.found, agent, platform);
        let quiet = (look.listed_at_ms, self.grace(QUIET_MS));
        let clearing = clear_hosts(scope, agent, &hosts, quiet, &self.agents, &self.sandboxes);
        let cleared = tokio::time::timeout(CLEARED_WITHIN, Box::pin(clearing)).await.unwrap_or((0, 1));
        Outcome {
            checkpoints: checkpoints.0,
            cleared_hosts: cleared.0,
            postponed: checkpoints.1 + cleared.1,
            ..Outcome::default()
        }
    }

    /// An attempt of this run's to stop something.
    fn attempt(&self) -> StopAttempt {
        if self.boots == Boots::Impossible { StopAttempt::make_alone() } else { StopAttempt::make() }
    }

    /// How long others may be at something that was begun, where they may be, milliseconds.
    pub(super) fn grace(&self, grace_ms: i64) -> i64 {
        if self.boots == Boots::Impossible { 0 } else { grace_ms }
    }

    /// Goes on with what an agent is in the middle of, and holds it to its limits. What it waits for is on the heap:
    /// unoptimised, all of it would be a part of this one's stack.
    async fn stand_by(
        &self,
        scope: &TenantScope,
        agent: Agent,
        work: &WorkRef,
        look: &Look<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if agent.status.takes_place() {
            look.active(work.mode).fetch_add(1, Ordering::Relaxed);
        }
        let now = now_ms();
        // Only of an agent that ran before its provider was asked can the answer be that its sandbox is gone.
        let was_ready = agent.run_started_ms.is_some_and(|started| started < look.listed_at_ms);
        let is_lost = was_ready
            && found_at(look.found, &agent, &work.platform)
                .is_some_and(|found| found.get(agent.id.as_str()) != Some(&Presence::Running));
        let heard = look.hosts.heard(agent.host.as_deref(), &work.platform);
        if Box::pin(self.out_of_reach(scope, &agent, heard, look, outcome)).await? {
            return Ok(());
        }
        // Of one that is lost nobody knows whether it ran while its host was silent.
        let agent =
            if heard == Heard::Answer && !is_lost { Box::pin(self.heard_again(scope, agent)).await? } else { agent };
        let is_interrupted = now - agent.since_ms >= self.grace(BOOT_GRACE_MS);
        let (status, count) = match agent.status {
            AgentStatus::Booting if is_interrupted => {
                lifecycle::take_back(scope, &agent, None, &self.agents, &self.sandboxes).await?;
                outcome.failed_boots += 1;
                return Ok(());
            }
            AgentStatus::Ready | AgentStatus::Running if agent.intent == Some(Intent::Pausing) => {
                if is_interrupted {
                    let attempt = self.attempt();
                    Box::pin(pausing::finish_pause(scope, &agent, &attempt, &self.agents, &self.sandboxes)).await?;
                    outcome.pauses += 1;
                } else if agent.paused_by == Some(PausedBy::Session) {
                    // Whose holder may have it paused again and again, where that never comes about.
                    let Self { sessions, agents, sandboxes, watch, .. } = self;
                    let held = Box::pin(watch.visit(scope, &agent, sessions, agents, sandboxes)).await?;
                    outcome.over_limit += usize::from(held);
                }
                return Ok(());
            }
            // Whoever has ended it may still be stopping what ran. Once it is known to be stopped the agent can be
            // retried, and what runs then must not be what is stopped.
            status if status.is_over() && agent.keeps_own_files() && !agent.only_kept && !is_interrupted => {
                return Ok(());
            }
            status if status.is_over() => {
                // A boot that was given up may have come about at its provider since.
                if remains(look.found, &agent, &work.platform) && agent.only_kept && agent.since_ms < look.listed_at_ms
                {
                    let discarded = lifecycle::discard_late(scope, &agent, &self.agents, &self.sandboxes);
                    outcome.settled += usize::from(Box::pin(discarded).await?);
                    return Ok(());
                }
                let mut cleared = Box::pin(lifecycle::clear(scope, &agent, &self.agents, &self.sandboxes)).await?;
                if !cleared && !agent.keeps_files(now) && self.gives_up_elsewhere(&agent, &work.platform, look) {
                    cleared = self.agents.settle(scope, &agent.id).await?.sandbox_gone;
                }
                outcome.settled += usize::from(cleared);
                return Ok(());
            }
            AgentStatus::Ready | AgentStatus::Running if now >= agent.deadline_ms() => {
                outcome.lag_ms = outcome.lag_ms.max(u64::try_from(now - agent.deadline_ms()).unwrap_or(0));
                (AgentStatus::Completed, &mut outcome.expired)
            }
            AgentStatus::Ready | AgentStatus::Running if is_lost => {
                Box::pin(lifecycle::lost(scope, &agent, &self.agents, &self.sandboxes)).await;
                outcome.lost += 1;
                return Ok(());
            }
            AgentStatus::Ready | AgentStatus::Running => {
                let Self { sessions, agents, sandboxes, watch, .. } = self;
                let stopped = Box::pin(watch.visit(scope, &agent, sessions, agents, sandboxes)).await?;
                outcome.over_limit += usize::from(stopped);
                // Limits first: they also end what cannot be paused.
                let (reason, count) = match () {
                    () if stopped => return Ok(()),
                    () if look.suspended => (PauseReason::platform_suspended(), &mut outcome.suspended),
                    () if agent.is_idle(now) => (PauseReason::idle(), &mut outcome.idle),
                    () => return Ok(()),
                };
                let paused = pausing::pause_while(scope, &agent, reason, agents, sandboxes);
                *count += usize::from(Box::pin(paused).await?.is_some());
                return Ok(());
            }
            AgentStatus::Paused => {
                // A resume that was given up may land at the provider when nobody waits for it any more: nobody meters what
                // runs then, or stops it, or removes what was made for it. What was listed before it was paused says nothing.
                let remains = remains(look.found, &agent, &work.platform);
                let agent = if agent.intent.is_some() || (remains && agent.since_ms < look.listed_at_ms) {
                    let attempt = self.attempt();
                    let stopped = pausing::stop_stray(scope, &agent, &attempt, &self.agents, &self.sandboxes);
                    let now = Box::pin(stopped).await?;
                    let count = match now.status {
                        AgentStatus::Paused if now.intent.is_some() => &mut outcome.postponed,
                        AgentStatus::Paused => &mut outcome.pauses,
                        AgentStatus::Completed => &mut outcome.over_limit,
                        _ => &mut outcome.lost,
                    };
                    *count += 1;
                    now
                } else {
                    agent
                };
                Box::pin(self.agents.charge_storage(scope, agent)).await?;
                return Ok(());
            }
            _ => return Ok(()),
        };
        let ended = Box::pin(lifecycle::end(scope, &agent, status, &self.agents, &self.sandboxes)).await?;
        *count += usize::from(ended.sandbox_gone);
        Ok(())
    }
}

/// What is in the account that an agent of a platform is in, where it was listed.
/// A host of the platform's is asked for the agents that are on it and for no others.
fn found_at<'a>(found: &'a Found, agent: &Agent, platform: &PlatformId) -> Option<&'a HashMap<String, Presence>> {
    let at = |platform, host: &Option<String>| found.get(&(agent.provider.clone(), platform, host.clone()));
    let of_deployment = if agent.host.is_none() { at(None, &None) } else { None };
    of_deployment.or_else(|| at(Some(platform.clone()), &agent.host))
}

/// Whether more of an agent was found than what a pause or a checkpoint keeps.
fn remains(found: &Found, agent: &Agent, platform: &PlatformId) -> bool {
    let found = found_at(found, agent, platform).and_then(|found| found.get(agent.id.as_str()));
    found.is_some_and(|presence| *presence > Presence::Kept)
}

/// The hosts of its platform's that were listed, and whether they have something of an agent that is on one of them.
fn hosts_with<'a>(found: &'a Found, agent: &Agent, platform: &PlatformId) -> Vec<(&'a str, bool)> {
    if agent.host.is_none() {
        return Vec::new();
    }
    let hosts = found.iter().filter_map(|((provider, owner, host), agents)| {
        let is_its = *provider == agent.provider && owner.as_ref() == Some(platform);
        Some((host.as_deref().filter(|_| is_its)?, agents.contains_key(agent.id.as_str())))
    });
    hosts.collect()
}
