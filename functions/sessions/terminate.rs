//! `POST /v1/sessions/{id}/terminate`

use super::show;
use crate::agents::{Sandboxes, lifecycle};
use futures_util::future::join_all;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, SecretSealer, Sessions};
use theazo_tenancy::{SessionId, TenantScope};

/// Ends a session for good: no agent or secret can be added from then on, its agents end, its secrets go. Repeating
/// it finishes whatever was interrupted.
pub async fn handle(
    call: Call,
    sessions: Sessions,
    agents: Agents,
    sealer: SecretSealer,
    sandboxes: Sandboxes,
) -> Result<Answer, ApiError> {
    let (principal, id) = call.authenticate_with(|_| async { call.request().session_id() }).await?;
    let scope = principal.scope();
    let session = sessions.terminate(&scope, &id).await?;
    finish(&scope, &id, &sessions, &agents, &sealer, &sandboxes).await?;
    Answer::json(200, &show(&session))
}

/// Removes what a terminated session still has, as far as its agents' providers answer in time. Also the scheduled
/// clean-up's way.
///
/// # Errors
/// `provider_error` when a sandbox could not be removed; its agent stays on the work list.
pub async fn finish(
    scope: &TenantScope,
    id: &SessionId,
    sessions: &Sessions,
    agents: &Agents,
    sealer: &SecretSealer,
    sandboxes: &Sandboxes,
) -> Result<(), ApiError> {
    let own = scope.session(id).ok_or_else(ApiError::not_found)?;
    // Values first: they must go even if a provider does not answer.
    sealer.remove_all(scope, id).await?;
    let left = agents.left_of_session(&own).await?;
    let ends = left.agents.iter().map(|agent| lifecycle::terminate_in_time(scope, agent, agents, sandboxes));
    for end in join_all(ends).await {
        end?;
    }
    // What is nobody's is for the scheduled clean-up, which goes without the key.
    if left.has_strangers {
        return Ok(());
    }
    Ok(sessions.settle_terminated(scope, id).await?)
}
