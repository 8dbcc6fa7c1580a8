//! Pausing agents: one way for callers, sessions, limits and the scheduled clean-up. The row says first that it is to be, and
//! who stops the sandbox.

use super::Sandboxes;
use super::failure;
use super::lifecycle::{end, refused, without_files};
use super::not_usable;
use super::removal::{Stopped, stop};
use std::time::Duration;
use theazo_http::ApiError;
use theazo_providers::ProviderError;
use theazo_store::{Agent, AgentStatus, Agents, Intent, PauseReason, PausedBy, StopAttempt, StoreError};
use theazo_tenancy::TenantScope;

/// How often, and after which pauses, it is looked whether somebody else has stopped an agent: for ten seconds.
const STOP_LOOKS: u32 = 25;
const STOP_PAUSE: Duration = Duration::from_millis(400);

/// Stops an agent and keeps its files, because somebody wants it so. The row says so first; once it does, this is only ever
/// finished, by a repeated call or by the scheduled clean-up. Idempotent.
///
/// # Errors
/// `conflict` for an agent that boots or is over; `provider_error` when its sandbox could not be stopped.
pub async fn pause(
    scope: &TenantScope,
    agent: &Agent,
    by: PausedBy,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    let attempt = StopAttempt::make();
    let pausing = agents.begin_pause_if(scope, &agent.id, by, &attempt, |_| true).await;
    go_on_pausing(scope, agent, pausing, &attempt, agents, sandboxes).await
}

/// The same for a reason that holds only for a time. Nothing where it does not hold any more: the agent is as it was.
///
/// # Errors
/// As [`pause`].
pub async fn pause_while(
    scope: &TenantScope,
    agent: &Agent,
    reason: PauseReason,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Option<Agent>, ApiError> {
    let attempt = StopAttempt::make();
    match agents.begin_pause_if(scope, &agent.id, reason, &attempt, |_| true).await {
        Err(StoreError::Overtaken) => Ok(None),
        pausing => go_on_pausing(scope, agent, pausing, &attempt, agents, sandboxes).await.map(Some),
    }
}

/// Finishes a pause that was begun by somebody else, once they are not at it any more.
///
/// # Errors
/// As [`pause`].
pub async fn finish_pause(
    scope: &TenantScope,
    agent: &Agent,
    attempt: &StopAttempt,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    let pausing = agents.take_up_stop(scope, &agent.id, attempt).await;
    go_on_pausing(scope, agent, pausing, attempt, agents, sandboxes).await
}

/// Stops an agent whose row says that it is to be paused, if it does. What another attempt is at is waited for.
pub(super) async fn go_on_pausing(
    scope: &TenantScope,
    agent: &Agent,
    pausing: Result<Agent, StoreError>,
    attempt: &StopAttempt,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    let pausing = match pausing {
        Err(StoreError::Conflict(_)) => {
            let now = agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
            return Err(not_usable(&now));
        }
        other => other?,
    };
    let mut now = pausing;
    for _ in 0..STOP_LOOKS {
        if now.status == AgentStatus::Paused {
            return Ok(now);
        }
        if now.intent != Some(Intent::Pausing) {
            break;
        }
        if now.is_stopped_by(attempt) {
            return Box::pin(stop_as_attempt(scope, &now, attempt, agents, sandboxes)).await;
        }
        tokio::time::sleep(STOP_PAUSE).await;
        now = agents.take_up_stop(scope, &agent.id, attempt).await?;
    }
    Err(not_usable(&now))
}

/// The same, of one whose sandbox is this attempt's to stop.
async fn stop_as_attempt(
    scope: &TenantScope,
    agent: &Agent,
    attempt: &StopAttempt,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    let kept = match stop_for(scope, agent, attempt, agents, sandboxes).await? {
        Stopped::Kept(kept) => kept,
        Stopped::Gone => {
            let holds = |now: &Agent| now.intent == Some(Intent::Pausing) && now.status != AgentStatus::Paused;
            // What a limit has stopped has not failed, even where its provider keeps no files of it.
            let now = agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
            let status = match now.paused_by {
                Some(PausedBy::Limit) => AgentStatus::Completed,
                _ => AgentStatus::Failed,
            };
            return Err(without_files(scope, agent, status, holds, agents, sandboxes).await);
        }
        Stopped::CannotPause => {
            let what = "the sandbox cannot be paused without its memory";
            let (entry, refusal) = refused(agent, "provider.pause_refused", what, &ProviderError::CannotPause);
            sandboxes.note(scope, entry);
            let now = agents.cancel_pause(scope, &agent.id).await?;
            // What has used up its limit does not run on for want of a way to keep its files.
            if now.intent == Some(Intent::Pausing) && now.paused_by == Some(PausedBy::Limit) {
                end(scope, agent, AgentStatus::Completed, agents, sandboxes).await?;
            }
            return Err(refusal);
        }
    };
    match agents.finish_pause(scope, &agent.id, kept.bytes).await {
        Err(StoreError::Conflict(_)) => {
            let now = agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
            Err(not_usable(&now))
        }
        other => Ok(other?),
    }
}

/// Stops a sandbox that is this attempt's to stop. If it is not stopped, whoever comes next may try.
async fn stop_for(
    scope: &TenantScope,
    agent: &Agent,
    attempt: &StopAttempt,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Stopped, ApiError> {
    let stopped = stop(scope, agent, sandboxes).await;
    if stopped.is_err()
        && let Err(error) = agents.give_up_stop(scope, &agent.id, attempt).await
    {
        tracing::warn!(agent = %agent.id, %error, "a stop that failed is not given up yet");
    }
    stopped
}

/// Stops what runs of an agent that is paused. Nobody resumes it meanwhile. Gives the agent as it is then: one that has lost
/// its files has failed, and one that a limit has paused and that cannot be stopped without losing them is completed.
///
/// # Errors
/// As those of the table and of the provider; the next run tries again.
pub(crate) async fn stop_stray(
    scope: &TenantScope,
    agent: &Agent,
    attempt: &StopAttempt,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    let held = agents.hold_paused(scope, &agent.id, attempt).await?;
    match stop_for(scope, &held, attempt, agents, sandboxes).await? {
        Stopped::Kept(_) => {
            tracing::warn!(agent = %agent.id, "what ran of a paused agent was stopped");
            Ok(agents.release_paused(scope, &agent.id, attempt).await?)
        }
        Stopped::Gone => {
            let holds = |now: &Agent| (now.status, now.intent) == (AgentStatus::Paused, Some(Intent::Pausing));
            // What does not come of it is for the next run: the agent is still held.
            let _ = Box::pin(without_files(scope, &held, AgentStatus::Failed, holds, agents, sandboxes)).await;
            agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)
        }
        Stopped::CannotPause if held.paused_by == Some(PausedBy::Limit) => {
            Box::pin(end(scope, &held, AgentStatus::Completed, agents, sandboxes)).await
        }
        // It runs on until its time at the provider is over, or somebody resumes it.
        Stopped::CannotPause => {
            agents.release_paused(scope, &agent.id, attempt).await?;
            Err(failure::to_api(&agent.provider, &ProviderError::CannotPause))
        }
    }
}
