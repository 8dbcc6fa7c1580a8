//! Holding running agents to their sessions' limits and to their own cost caps: reconciling's part of it. What starts is
//! held to them by the transaction that starts it.

use crate::agents::{Sandboxes, lifecycle};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use theazo_http::ApiError;
use theazo_store::{Agent, Agents, Reached, Session, SessionStatus, Sessions, now_ms};
use theazo_tenancy::{SessionId, TenantScope};
use tokio::sync::OnceCell;

/// What one run has read of sessions, so that each is read once however many agents it has.
#[derive(Default)]
pub(crate) struct Watch(Mutex<HashMap<SessionId, Known>>);

type Known = Arc<OnceCell<Option<Watched>>>;

struct Watched {
    session: Session,
    reached: Option<Reached>,
}

impl Watch {
    /// Pauses an agent whose session or which itself has reached a limit, and books what the others have run. Whether it
    /// was paused.
    ///
    /// # Errors
    /// As those of the table and of the provider; the next run tries again.
    pub(crate) async fn visit(
        &self,
        scope: &TenantScope,
        agent: &Agent,
        sessions: &Sessions,
        agents: &Agents,
        sandboxes: &Sandboxes,
    ) -> Result<bool, ApiError> {
        let known: Known = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(agent.session.clone()).or_default().clone()
        };
        let watched = known.get_or_try_init(|| watch(scope, &agent.session, sessions, agents)).await?;
        // What a terminated session has left is ended by the session's own item.
        let Some(Watched { session, reached }) = watched else { return Ok(false) };
        match agent.cost_cap_reached(now_ms()).or(*reached) {
            Some(reached) => {
                hold(scope, agent, reached, agents, sandboxes).await?;
                Ok(true)
            }
            None => {
                agents.charge(scope, session, &agent.id).await?;
                Ok(false)
            }
        }
    }
}

async fn watch(
    scope: &TenantScope,
    id: &SessionId,
    sessions: &Sessions,
    agents: &Agents,
) -> Result<Option<Watched>, ApiError> {
    let own = scope.session(id).ok_or_else(ApiError::not_found)?;
    let Some(session) = sessions.get(scope, id).await? else { return Ok(None) };
    if session.status == SessionStatus::Terminated {
        return Ok(None);
    }
    let (counters, live) =
        futures_util::future::try_join(sessions.counters(&own), agents.unsettled_of_session(&own)).await?;
    let reached = session.limits.reached(&counters.used(&session, &live, now_ms()));
    Ok(Some(Watched { session, reached }))
}

/// Pauses an agent that may not run on: its files stay, and it can be resumed when the limit is raised.
async fn hold(
    scope: &TenantScope,
    agent: &Agent,
    reached: Reached,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<(), ApiError> {
    let Reached { limit, used, max } = reached;
    tracing::info!(agent = %agent.id, session = %agent.session, limit, used, max, "paused by a limit");
    lifecycle::pause(scope, agent, reached, agents, sandboxes).await.map(|_| ())
}
