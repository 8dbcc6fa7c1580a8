//! `POST /v1/sessions/{id}/pause`

use super::show;
use crate::agents::{PROVIDER_WAIT, Sandboxes, pausing};
use futures_util::{StreamExt, stream};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agent, AgentStatus, Agents, PauseReason, Session, Sessions, Unsettled};
use theazo_tenancy::TenantScope;

/// Agents of a session that are stopped at a time.
const AT_ONCE: usize = 8;

/// Pauses a session: no agent can be made or resumed in it from then on, and those that run are paused. Repeating it
/// finishes whatever was interrupted.
pub async fn handle(call: Call, sessions: Sessions, agents: Agents, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let (principal, id) = call.authenticate_with(|_| async { call.request().session_id() }).await?;
    let scope = principal.scope();
    let session = sessions.pause(&scope, &id).await?;
    match tokio::time::timeout(PROVIDER_WAIT, finish(&scope, &session, &sessions, &agents, &sandboxes)).await {
        Ok(finished) => finished?,
        Err(_) => tracing::warn!(session = %id, "the agents of a paused session are still being paused"),
    }
    Answer::json(200, &show(&session))
}

/// Pauses what runs in a paused session. Also the scheduled clean-up's way. Agents that boot at this moment cannot be
/// paused yet; as long as there are any, the session stays on the work list.
///
/// # Errors
/// `provider_error` when a sandbox could not be stopped; its agent stays on the work list.
pub async fn finish(
    scope: &TenantScope,
    session: &Session,
    sessions: &Sessions,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<(), ApiError> {
    let own = scope.session(&session.id).ok_or_else(ApiError::not_found)?;
    let Unsettled { agents: left, has_strangers } = agents.left_of_session(&own).await?;
    let boots = left.iter().any(|agent| agent.status == AgentStatus::Booting);
    let pauses: Vec<_> = left
        .into_iter()
        .filter(runs)
        .map(|agent| async move {
            match pausing::pause_while(scope, &agent, PauseReason::session_paused(), agents, sandboxes).await {
                // Or the session was resumed meanwhile, and its agents are to run.
                Ok(_) => Ok(true),
                Err(error) => match agents.get(scope, &agent.id).await? {
                    Some(now) if runs(&now) => Err(error),
                    // It ended meanwhile, which is as good; or it boots again.
                    now => Ok(now.is_none_or(|now| now.status != AgentStatus::Booting)),
                },
            }
        })
        .collect();
    let outcomes: Vec<Result<bool, ApiError>> = stream::iter(pauses).buffer_unordered(AT_ONCE).collect().await;
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    if !boots && !has_strangers && outcomes.into_iter().all(|is_paused| is_paused) {
        sessions.settle_paused(scope, session).await?;
    }
    Ok(())
}

fn runs(agent: &Agent) -> bool {
    matches!(agent.status, AgentStatus::Ready | AgentStatus::Running)
}
