//! Stopping what agents have at their providers, and removing it: all of it, or all but what an agent keeps that is over.
//!
//! What calls a provider is boxed, as in `lifecycle`.

use super::lifecycle::refused;
use super::{Sandboxes, moving};
use futures_util::future::{BoxFuture, join};
use std::sync::Arc;
use std::time::Duration;
use theazo_http::ApiError;
use theazo_providers::{AgentRef, Kept, Provider, ProviderError};
use theazo_store::{Agent, Agents, now_ms};
use theazo_tenancy::TenantScope;

/// How long the provider may take to stop a sandbox. What takes longer is finished by a repeated call or on schedule.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What became of a sandbox that was to be stopped.
pub(super) enum Stopped {
    /// Its files are there.
    Kept(Kept),
    /// It was not there any more.
    Gone,
    /// It runs on: its files cannot be kept without its memory.
    CannotPause,
}

/// Stops the agent's sandbox.
pub(super) fn stop<'a>(
    scope: &'a TenantScope,
    agent: &'a Agent,
    sandboxes: &'a Sandboxes,
) -> BoxFuture<'a, Result<Stopped, ApiError>> {
    Box::pin(async move {
        let provider = sandboxes.of_agent(scope, agent).await?;
        let sandbox = AgentRef { agent: agent.id.to_string() };
        let stopped = tokio::time::timeout(STOP_TIMEOUT, provider.stop(&sandbox)).await;
        match stopped.unwrap_or(Err(ProviderError::TimedOut)) {
            Ok(kept) => Ok(Stopped::Kept(kept)),
            Err(ProviderError::SandboxGone) => Ok(Stopped::Gone),
            Err(ProviderError::CannotPause) => Ok(Stopped::CannotPause),
            Err(error) => {
                let (entry, told) = refused(agent, "provider.stop_failed", "the sandbox was not stopped", &error);
                sandboxes.note(scope, entry);
                Err(told)
            }
        }
    })
}

/// Removes what an agent that is over, as it was read last, has at its provider: all, or all but what it keeps. Another
/// host that does not let go of what a move has left there is for the scheduled clean-up, and the agent not settled.
pub(super) fn remove<'a>(
    scope: &'a TenantScope,
    agent: &'a Agent,
    agents: &'a Agents,
    sandboxes: &'a Sandboxes,
) -> BoxFuture<'a, Result<Agent, ApiError>> {
    Box::pin(async move {
        if agent.keeps_files(now_ms()) {
            // Whoever removes it once more could meet a retry.
            if agent.only_kept {
                return Ok(agent.clone());
            }
            let own = reduce(scope, agent, sandboxes);
            let (reduced, _) = join(own, Box::pin(moving::leave_all(scope, agent, sandboxes))).await;
            return match reduced? {
                Reduced::ToFiles => Ok(agents.settle_all_but_kept(scope, &agent.id).await?),
                Reduced::FilesGone => {
                    let without = agents.lose_own_files(scope, &agent.id).await?;
                    if without.own_files {
                        return Ok(without);
                    }
                    remove(scope, &without, agents, sandboxes).await
                }
                Reduced::OutOfReach => Ok(agent.clone()),
            };
        }
        match destroy(scope, agent, sandboxes).await? {
            true => Ok(agents.settle(scope, &agent.id).await?),
            false => {
                agents.drop_copies(scope, &agent.id).await?;
                Ok(agent.clone())
            }
        }
    })
}

/// What became of a sandbox that was to be removed but for what its agent keeps.
enum Reduced {
    /// That is all that is left.
    ToFiles,
    /// The agent's own files, which were to stay, are not there.
    FilesGone,
    /// Its host is none of the platform's any more. Should it ever come back, this is still to be done: what the agent ran
    /// with may be there.
    OutOfReach,
}

/// Removes what an agent has where it lives, but for what it keeps.
fn reduce<'a>(
    scope: &'a TenantScope,
    agent: &'a Agent,
    sandboxes: &'a Sandboxes,
) -> BoxFuture<'a, Result<Reduced, ApiError>> {
    Box::pin(async move {
        if removing(scope, agent, sandboxes).await?.is_none() {
            return Ok(Reduced::OutOfReach);
        }
        if !agent.keeps_own_files() {
            return discard(scope, agent, sandboxes).await.map(|()| Reduced::ToFiles);
        }
        match stop(scope, agent, sandboxes).await? {
            Stopped::Kept(_) => Ok(Reduced::ToFiles),
            // Nor can the files be kept of one that does not stop without its memory.
            Stopped::Gone | Stopped::CannotPause => Ok(Reduced::FilesGone),
        }
    })
}

/// Whether nothing of it is left anywhere.
pub(super) fn destroy<'a>(
    scope: &'a TenantScope,
    agent: &'a Agent,
    sandboxes: &'a Sandboxes,
) -> BoxFuture<'a, Result<bool, ApiError>> {
    Box::pin(async move {
        let own = async {
            let sandbox = AgentRef { agent: agent.id.to_string() };
            let Some(provider) = removing(scope, agent, sandboxes).await? else { return Ok(()) };
            provider.destroy(&sandbox).await.map_err(|error| not_removed(scope, agent, &error, sandboxes))
        };
        let (own, elsewhere) = join(own, Box::pin(moving::leave_all(scope, agent, sandboxes))).await;
        own.map(|()| elsewhere)
    })
}

/// The same where it lives, but for checkpoints.
pub(super) fn discard<'a>(
    scope: &'a TenantScope,
    agent: &'a Agent,
    sandboxes: &'a Sandboxes,
) -> BoxFuture<'a, Result<(), ApiError>> {
    Box::pin(async move {
        let sandbox = AgentRef { agent: agent.id.to_string() };
        let Some(provider) = removing(scope, agent, sandboxes).await? else { return Ok(()) };
        provider.discard(&sandbox).await.map_err(|error| not_removed(scope, agent, &error, sandboxes))
    })
}

/// Where there is something to remove.
fn removing<'a>(
    scope: &'a TenantScope,
    agent: &'a Agent,
    sandboxes: &'a Sandboxes,
) -> BoxFuture<'a, Result<Option<Arc<dyn Provider>>, ApiError>> {
    Box::pin(async move {
        let provider = sandboxes.removing(scope, agent).await?;
        if provider.is_none() {
            tracing::warn!(agent = %agent.id, "what an agent has on a host that is not its platform's any more stays there");
        }
        Ok(provider)
    })
}

fn not_removed(scope: &TenantScope, agent: &Agent, error: &ProviderError, sandboxes: &Sandboxes) -> ApiError {
    let (entry, told) = refused(agent, "provider.removal_failed", "the sandbox was not removed", error);
    sandboxes.note(scope, entry);
    told
}
