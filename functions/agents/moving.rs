//! What moves of agents between the hosts of their platform leave behind, and how it goes.
//!
//! Whatever is removed from a host here is in the agent's row by then, and nothing moves to a host of which the row says
//! that: a removal that is slow meets no agent that has just come back.

use super::removal::Stopped;
use super::{Sandboxes, failure};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use theazo_http::ApiError;
use theazo_providers::{AgentRef, Kept, Provider, ProviderError};
use theazo_store::{Agent, Agents, StoreError};
use theazo_tenancy::TenantScope;

/// How long clearing a host may take. What takes longer is done on schedule.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a host that has nothing of an agent stays in its row, milliseconds. By then everybody has given up who was still
/// making something there or removing it.
pub(crate) const QUIET_MS: i64 = 120_000;

/// Removes all that an agent has on a host where it does not live.
///
/// # Errors
/// `provider_error`; the host stays in the agent's row in any case.
pub(super) async fn leave(
    scope: &TenantScope,
    agent: &Agent,
    host: &str,
    sandboxes: &Sandboxes,
) -> Result<(), ApiError> {
    let left = async {
        match sandboxes.elsewhere(scope, agent, host).await? {
            Some((provider, _)) => destroy(agent, &provider).await,
            None => {
                tracing::warn!(agent = %agent.id, host, "what is on a host that is not the platform's any more stays there");
                Ok(())
            }
        }
    };
    let late = |_| failure::to_api(&agent.provider, &ProviderError::TimedOut);
    tokio::time::timeout(LEAVE_TIMEOUT, left).await.map_err(late)?
}

/// The same on all hosts that the agent's row names besides the one where it lives. Whether that was possible.
pub(super) async fn leave_all(scope: &TenantScope, agent: &Agent, sandboxes: &Sandboxes) -> bool {
    let left = agent.elsewhere().map(|host| async move {
        let left = leave(scope, agent, host, sandboxes).await;
        left.inspect_err(|error| tracing::warn!(agent = %agent.id, host, ?error, "a host is not cleared yet")).is_ok()
    });
    join_all(left).await.into_iter().all(|left| left)
}

async fn destroy(agent: &Agent, provider: &Arc<dyn Provider>) -> Result<(), ApiError> {
    let removed = provider.destroy(&AgentRef { agent: agent.id.to_string() }).await;
    removed.map_err(|error| failure::to_api(&agent.provider, &error))
}

/// Stops what a move that failed has left where the agent's files are, and are to stay: they are not touched. A host that
/// does not answer keeps the agent neither from being paused nor from being resumed there.
pub(super) async fn stay(scope: &TenantScope, agent: &Agent, sandboxes: &Sandboxes) -> Stopped {
    let here = async {
        let provider = sandboxes.of_agent(scope, agent).await.ok()?;
        let sandbox = AgentRef { agent: agent.id.to_string() };
        let stopped = match &agent.restores {
            // Its files are those of a checkpoint, which stays.
            Some(_) => provider.discard(&sandbox).await,
            None => provider.stop(&sandbox).await.map(|_| ()),
        };
        Some(stopped)
    };
    match tokio::time::timeout(LEAVE_TIMEOUT, here).await {
        Ok(Some(Err(ProviderError::SandboxGone))) => Stopped::Gone,
        Ok(Some(Ok(()))) => Stopped::Kept(Kept { bytes: None }),
        Ok(Some(Err(_)) | None) | Err(_) => {
            tracing::warn!(agent = %agent.id, "the copier of a move that failed may be left until the next boot");
            Stopped::Kept(Kept { bytes: None })
        }
    }
}

/// Removes what a move that failed has brought to `target`, once the row says that the agent does not live there: as long
/// as it does not, the boot may still turn out to have been the last to write it. What cannot be removed now is on schedule.
pub(super) async fn leave_target(scope: &TenantScope, paused: &Agent, target: &str, sandboxes: &Sandboxes) {
    if let Err(error) = leave(scope, paused, target, sandboxes).await {
        tracing::warn!(agent = %paused.id, host = target, ?error, "a host that an agent was to move to is not cleared yet");
    }
}

/// Removes what an agent has on hosts where it does not live, and forgets those that have had nothing of it for `quiet_ms`.
/// `found` are the hosts that have said at `asked_at_ms` what they have, and whether that was something of the agent's.
/// Gives how many were cleared, and how many could not be.
pub(crate) async fn clear_hosts(
    scope: &TenantScope,
    agent: &Agent,
    found: &[(&str, bool)],
    (asked_at_ms, quiet_ms): (i64, i64),
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> (usize, usize) {
    let (mut cleared, mut failed) = (0, 0);
    let mut count = |outcome: Result<bool, ApiError>, host: &str| match outcome {
        Ok(done) => cleared += usize::from(done),
        Err(error) => {
            tracing::warn!(agent = %agent.id, host, ?error, "a host is not cleared yet");
            failed += 1;
        }
    };
    let stale = found.iter().filter(|(host, has)| *has && !agent.lives_on(host));
    let clearing = stale.map(|(host, _)| async move { (clear(scope, agent, host, agents, sandboxes).await, *host) });
    for (done, host) in join_all(clearing).await {
        count(done, host);
    }
    for left in &agent.left_on {
        let is_gone = match found.iter().find(|(host, _)| *host == left.host) {
            Some((_, has)) => Ok(!has && asked_at_ms.saturating_sub(left.since_ms) >= quiet_ms),
            // It is silent, or nobody can ask it any more.
            None => sandboxes.has_host(scope, agent, &left.host).await.map(|has| !has),
        };
        let forgotten = async {
            if is_gone? {
                agents.forget_left(scope, &agent.id, left).await?;
            }
            Ok(false)
        };
        count(forgotten.await, &left.host);
    }
    (cleared, failed)
}

/// Removes what a host has of an agent. Whether it was.
async fn clear(
    scope: &TenantScope,
    agent: &Agent,
    host: &str,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<bool, ApiError> {
    let Some((provider, is_another)) = sandboxes.elsewhere(scope, agent, host).await? else { return Ok(false) };
    // Of one that the row does not name nobody has made sure yet that it is not where the agent lives, by another name.
    if !is_another && !agent.may_be_left_on(host) {
        return Ok(false);
    }
    match agents.note_left(scope, &agent.id, host).await {
        // By now it lives there, or nobody owns what is there.
        Err(StoreError::Conflict(_)) => return Ok(false),
        noted => noted?,
    };
    let late = |_| failure::to_api(&agent.provider, &ProviderError::TimedOut);
    tokio::time::timeout(LEAVE_TIMEOUT, destroy(agent, &provider)).await.map_err(late)?.map(|()| true)
}
