//! Ending agents: one way for callers, failed boots, sessions and the scheduled clean-up. Pausing them is beside.
//!
//! What calls a provider is boxed: unoptimised, the futures of a failed boot, one within the other, overflow a thread's
//! stack.

use super::pausing::go_on_pausing;
use super::removal::{Stopped, destroy, discard, remove, stop};
use super::{PROVIDER_WAIT, Sandboxes, failure, moving, not_usable};
use futures_util::future::BoxFuture;
use serde_json::json;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::{Kept, ProviderError};
use theazo_store::{
    Agent, AgentStatus, Agents, Intent, LogLevel, LogSource, NewLog, PausedBy, StopAttempt, StoreError, now_ms,
};
use theazo_tenancy::TenantScope;

/// A sandbox's own clock starts before the agent is ready, so it ends somewhat before the agent's time is over.
const CLOCK_SLACK_MS: i64 = 10_000;
/// How often an agent that is retried under our hands is ended again.
const ATTEMPTS: u32 = 5;

/// Ends an agent and removes everything it has at its provider. The row says so first, so that being interrupted
/// leaves a note to finish by, never a sandbox that nobody knows. Idempotent; an agent that is over stays as it was.
///
/// # Errors
/// `provider_error` when the sandbox could not be removed; the agent stays on the work list.
pub async fn end(
    scope: &TenantScope,
    agent: &Agent,
    status: AgentStatus,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    let ended = match agents.transition(scope, &agent.id, status, |_| {}).await {
        Ok(ended) => ended,
        // It ended in another way meanwhile; what is left to do is the same.
        Err(StoreError::Conflict(_)) => agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?,
        Err(error) => return Err(error.into()),
    };
    if ended.sandbox_gone {
        return Ok(ended);
    }
    remove(scope, &ended, agents, sandboxes).await
}

/// The same for good: an agent that is over already keeps no checkpoint either, and cannot be retried.
///
/// # Errors
/// As [`end`].
pub async fn terminate(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    for _ in 0..ATTEMPTS {
        let ended = agents.transition(scope, &agent.id, AgentStatus::Completed, |agent| agent.terminated = true).await;
        let over = match ended {
            Ok(ended) if ended.terminated || ended.sandbox_gone => Ok(ended),
            // It had ended before.
            Ok(_) | Err(StoreError::Conflict(_)) => agents.terminate_over(scope, &agent.id).await,
            Err(error) => return Err(error.into()),
        };
        match over {
            Ok(ended) if ended.sandbox_gone => return Ok(ended),
            Ok(ended) => return remove(scope, &ended, agents, sandboxes).await,
            // It was retried in between.
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Contended(ATTEMPTS).into())
}

/// The same within [`PROVIDER_WAIT`]. What takes longer is left to the scheduled clean-up.
///
/// # Errors
/// As [`end`], and `provider_error` when it took too long.
pub async fn terminate_in_time(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    let terminated = tokio::time::timeout(PROVIDER_WAIT, terminate(scope, agent, agents, sandboxes)).await;
    terminated.unwrap_or_else(|_| Err(failure::to_api(&agent.provider, &ProviderError::TimedOut)))
}

/// Removes what an agent that is over still has at its provider and may not keep. Whether anything was removed.
///
/// # Errors
/// As [`end`].
pub async fn clear(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<bool, ApiError> {
    if agent.only_kept && agent.keeps_files(now_ms()) {
        return Ok(false);
    }
    let cleared = remove(scope, agent, agents, sandboxes).await?;
    Ok(cleared.sandbox_gone || cleared.only_kept)
}

/// What the log says of a sandbox that its provider has no more.
fn sandbox_gone(agent: &Agent) -> NewLog {
    NewLog::of_agent(agent, LogLevel::Error, LogSource::Provider, "the sandbox is gone at its provider")
        .metadata(&json!({ "event": "provider.sandbox_gone" }))
}

/// What the log says of a provider that did not do what was asked of it, and how the caller is told. Its own words stay in
/// the operator's log.
pub(super) fn refused(agent: &Agent, event: &str, what: &str, error: &ProviderError) -> (NewLog, ApiError) {
    let told = failure::to_api(&agent.provider, error);
    let code = told.code().as_str();
    // That it cannot is how it is; anything else is a failure.
    let level = match error {
        ProviderError::CannotPause
        | ProviderError::CannotCheckpoint
        | ProviderError::NoPorts
        | ProviderError::TooManyPorts { .. }
        | ProviderError::PortUnusable(_) => LogLevel::Warn,
        _ => LogLevel::Error,
    };
    let entry = NewLog::of_agent(agent, level, LogSource::Provider, format!("{what}: {code}"))
        .metadata(&json!({ "event": event, "error": code }));
    (entry, told)
}

/// What the log says of a boot that failed for that reason, where a provider had a part in it.
fn boot_failed(agent: &Agent, failure: &ApiError) -> Option<NewLog> {
    let by_provider =
        matches!(failure.code(), ErrorCode::Provider | ErrorCode::NoProvidersAvailable | ErrorCode::Timeout);
    let code = failure.code().as_str();
    by_provider.then(|| {
        NewLog::of_agent(agent, LogLevel::Error, LogSource::Provider, format!("the sandbox did not boot: {code}"))
            .metadata(&json!({ "event": "provider.boot_failed", "error": code }))
    })
}

/// Ends an agent whose sandbox turned out to be gone in the run that `agent` was read in, and tells what its caller
/// learns. A sandbox ends by itself when the agent's time is over, and that is no failure; nor is it one that somebody
/// stopped it meanwhile.
///
/// One that its own clock has stopped on account of a limit that was in force when it booted is paused as by the limit
/// itself: where the provider keeps its files, it can be resumed once the limit allows it; elsewhere it is completed.
///
/// On a host of its platform's the files of one that has failed outlive its container, which ends with the host's engine
/// and does not begin again with it: it keeps them, and is retried on them.
pub async fn lost(scope: &TenantScope, agent: &Agent, agents: &Agents, sandboxes: &Sandboxes) -> ApiError {
    let over = now_ms() + CLOCK_SLACK_MS >= agent.sandbox_ends_ms();
    let status = if over { AgentStatus::Completed } else { AgentStatus::Failed };
    let same_run = |now: &Agent| {
        now.intent.is_none() && now.run_started_ms.is_some() && now.run_started_ms == agent.run_started_ms
    };
    let now = now_ms() + CLOCK_SLACK_MS;
    if (agent.sandbox_ends_ms()..agent.deadline_ms()).contains(&now) {
        let attempt = StopAttempt::make();
        let pausing = agents.begin_pause_if(scope, &agent.id, PausedBy::Limit, &attempt, same_run).await;
        return match go_on_pausing(scope, agent, pausing, &attempt, agents, sandboxes).await {
            Ok(paused) => not_usable(&paused),
            Err(refusal) => refusal,
        };
    }
    let gone = || failure::to_api(&agent.provider, &ProviderError::SandboxGone);
    let cause = (status == AgentStatus::Failed).then(|| sandbox_gone(agent));
    let keep = |now: &mut Agent| now.own_files = now.status == AgentStatus::Failed && now.host.is_some();
    let ended = match agents.transition_because(scope, &agent.id, status, cause, same_run, keep).await {
        Err(StoreError::Conflict(_)) => agents.get(scope, &agent.id).await.map_err(ApiError::from),
        other => other.map(Some).map_err(ApiError::from),
    };
    match ended {
        Ok(Some(ended)) if ended.status.is_over() => {
            if !ended.sandbox_gone
                && let Err(error) = remove(scope, &ended, agents, sandboxes).await
            {
                tracing::warn!(agent = %agent.id, ?error, "a lost sandbox is not cleaned up yet");
            }
            if ended.status == AgentStatus::Completed { not_usable(&ended) } else { gone() }
        }
        Ok(Some(stopped)) => not_usable(&stopped),
        Ok(None) => ApiError::not_found(),
        Err(error) => {
            tracing::warn!(agent = %agent.id, ?error, "a lost sandbox is not noted yet");
            gone()
        }
    }
}

/// Ends what runs of an agent that is over and keeps checkpoints only: a boot that was given up on has come about at its
/// provider since. Whether there was anything to end; nobody boots it again unseen, and what it is booted from stays.
///
/// # Errors
/// As [`end`].
pub(crate) async fn discard_late(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<bool, ApiError> {
    let now = agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
    if !now.status.is_over() || now.boots != agent.boots || now.keeps_own_files() {
        return Ok(false);
    }
    tracing::warn!(agent = %agent.id, "what ran of an agent that is over is ended");
    discard(scope, &now, sandboxes).await?;
    Ok(true)
}

/// Takes a boot back that did not come to its end: what was made goes, files that were there before stay. Its row may be
/// over already, and its sandbox counted as removed, by someone who ended it while it was still being made; so the
/// provider is asked again in any case. If another boot has followed, nothing is done: a sandbox that is there is that
/// one's. `failure` is why, where that is known.
///
/// # Errors
/// As [`end`].
pub fn take_back<'a>(
    scope: &'a TenantScope,
    agent: &'a Agent,
    failure: Option<&'a ApiError>,
    agents: &'a Agents,
    sandboxes: &'a Sandboxes,
) -> BoxFuture<'a, Result<Agent, ApiError>> {
    Box::pin(async move {
        let cause = failure.and_then(|failure| boot_failed(agent, failure));
        let is_this = |now: &Agent| now.boots == agent.boots && now.status == AgentStatus::Booting;
        // Neither has files of its own that could be lost; of one that was retried the checkpoints stay.
        if matches!(agent.intent, None | Some(Intent::Retrying)) {
            return match agents.transition_because(scope, &agent.id, AgentStatus::Failed, cause, is_this, |_| {}).await
            {
                Ok(failed) => remove(scope, &failed, agents, sandboxes).await,
                Err(StoreError::Conflict(_)) => after_the_end(scope, agent, agents, sandboxes).await,
                Err(error) => Err(error.into()),
            };
        }
        let now = agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
        if !is_this(&now) {
            return after_the_end(scope, agent, agents, sandboxes).await;
        }
        let stopped = match (&agent.moving_to, &agent.restores) {
            (Some(_), _) => Box::pin(moving::stay(scope, agent, sandboxes)).await,
            // Its files are those of a checkpoint, which stays, and are put in place anew by the next boot.
            (None, Some(_)) => {
                discard(scope, agent, sandboxes).await?;
                Stopped::Kept(Kept { bytes: None })
            }
            (None, None) => stop(scope, agent, sandboxes).await?,
        };
        match stopped {
            Stopped::Kept(_) => {}
            // Nor can the files be kept of one that does not stop without its memory.
            Stopped::Gone | Stopped::CannotPause => {
                let _ = without_files(scope, agent, AgentStatus::Failed, is_this, agents, sandboxes).await;
                return agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found);
            }
        }
        match agents.back_to_paused(scope, &agent.id, agent.boots, cause).await {
            Err(StoreError::Conflict(_)) => after_the_end(scope, agent, agents, sandboxes).await,
            Err(error) => Err(error.into()),
            Ok(paused) => {
                if let Some(target) = &agent.moving_to {
                    Box::pin(moving::leave_target(scope, &paused, target, sandboxes)).await;
                }
                Ok(paused)
            }
        }
    })
}

/// Removes what a boot has made of an agent that was ended meanwhile. Of one that was not, nothing.
fn after_the_end<'a>(
    scope: &'a TenantScope,
    agent: &'a Agent,
    agents: &'a Agents,
    sandboxes: &'a Sandboxes,
) -> BoxFuture<'a, Result<Agent, ApiError>> {
    Box::pin(async move {
        let now = agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
        if !now.status.is_over() {
            return Ok(now);
        }
        if now.keeps_files(now_ms()) {
            return remove(scope, &now, agents, sandboxes).await;
        }
        if !destroy(scope, &now, sandboxes).await? {
            return Ok(now);
        }
        // Another boot that has followed may still be writing.
        let settled = match now.boots == agent.boots {
            true => agents.settle_own_boot(scope, &agent.id).await,
            false => agents.settle(scope, &agent.id).await,
        };
        Ok(settled?)
    })
}

/// Ends an agent whose files are not there any more, and tells what its caller learns.
pub(super) async fn without_files(
    scope: &TenantScope,
    agent: &Agent,
    status: AgentStatus,
    holds: impl Fn(&Agent) -> bool,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> ApiError {
    let cause = (status == AgentStatus::Failed).then(|| sandbox_gone(agent));
    match agents.transition_because(scope, &agent.id, status, cause, holds, |_| {}).await {
        Ok(ended) => {
            if let Err(error) = remove(scope, &ended, agents, sandboxes).await {
                tracing::warn!(agent = %agent.id, ?error, "a lost sandbox is not cleaned up yet");
            }
            match status {
                AgentStatus::Completed => not_usable(&ended),
                _ => failure::to_api(&agent.provider, &ProviderError::SandboxGone),
            }
        }
        Err(StoreError::Conflict(_)) => match agents.get(scope, &agent.id).await {
            Ok(Some(now)) => not_usable(&now),
            Ok(None) => ApiError::not_found(),
            Err(error) => error.into(),
        },
        Err(error) => error.into(),
    }
}
