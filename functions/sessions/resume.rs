//! `POST /v1/sessions/{id}/resume`

use super::show;
use crate::agents::{Boot, Sandboxes, boot_again, pausing};
use futures_util::{StreamExt, stream};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_store::{
    Agent, AgentCopies, AgentStatus, AgentTokens, Agents, Intent, PausedBy, SecretOpener, Sessions, StopAttempt,
};
use theazo_tenancy::{AgentId, TenantScope};

/// Agents of a session that boot at a time.
const AT_ONCE: usize = 4;

/// Resumes a session, and those of its agents that were paused with it. One that was paused by itself stays paused.
/// Repeating it goes on with whatever is left.
pub async fn handle(
    call: Call,
    sessions: Sessions,
    agents: Agents,
    opener: SecretOpener,
    copies: AgentCopies,
    tokens: AgentTokens,
    sandboxes: Sandboxes,
) -> Result<Answer, ApiError> {
    let boot = Boot::begin(agents.clone(), copies, tokens, sandboxes.clone());
    let (principal, id) = call.authenticate_with(|_| async { call.request().session_id() }).await?;
    let scope = principal.scope();
    let session = sessions.resume(&scope, &id).await?;
    let own = scope.session(&id).ok_or_else(ApiError::not_found)?;
    let left = agents.unsettled_of_session(&own).await?;
    let suspended = left.into_iter().filter(|agent| is_suspended(agent) || is_being_suspended(agent));
    let resumes = suspended.map(|agent| {
        let (scope, sessions, agents, opener, sandboxes, boot) =
            (&scope, &sessions, &agents, &opener, &sandboxes, &boot);
        async move {
            boot.expect_time()?;
            let id = agent.id;
            let Some(agent) = paused(scope, &id, agents, sandboxes).await? else { return Ok(()) };
            let allowed = |agent: &Agent| match is_suspended(agent) && agent.intent.is_none() {
                true => Ok(()),
                false => Err(ApiError::new(ErrorCode::Conflict, "the agent is resumed already, or being stopped")),
            };
            match boot_again(scope, agent, Intent::Resuming, sessions, opener, boot, allowed).await {
                // Another call was quicker with this agent, somebody ended it, or its time is over; but not what holds it for
                // a moment.
                Err(error) if error.code() == ErrorCode::Conflict => match agents.get(scope, &id).await? {
                    Some(now) if is_suspended(&now) && now.time_left_ms() > 0 => Err(error),
                    _ => Ok(()),
                },
                other => other.map(|_| ()),
            }
        }
    });
    let resumes: Vec<_> = resumes.collect();
    let outcomes: Vec<Result<(), ApiError>> = stream::iter(resumes).buffer_unordered(AT_ONCE).collect().await;
    outcomes.into_iter().collect::<Result<(), _>>()?;
    Answer::json(200, &show(&session))
}

fn is_suspended(agent: &Agent) -> bool {
    agent.status == AgentStatus::Paused && agent.paused_by == Some(PausedBy::Suspension)
}

/// The pause with its session was interrupted.
fn is_being_suspended(agent: &Agent) -> bool {
    agent.status != AgentStatus::Paused
        && agent.intent == Some(Intent::Pausing)
        && agent.paused_by == Some(PausedBy::Suspension)
}

/// The agent in full, after its pause was finished if need be; nothing when it needs no resuming any more.
async fn paused(
    scope: &TenantScope,
    id: &AgentId,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Option<Agent>, ApiError> {
    let agent = agents.get(scope, id).await?;
    Ok(match agent {
        Some(agent) if is_being_suspended(&agent) => {
            Some(pausing::finish_pause(scope, &agent, &StopAttempt::make(), agents, sandboxes).await?)
        }
        Some(agent) if is_suspended(&agent) => Some(agent),
        _ => None,
    })
}
