//! Holding running agents to their sessions' limits and to their own cost caps: reconciling's part of it. What starts is
//! held to them by the transaction that starts it.

use crate::agents::{Sandboxes, pausing};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use theazo_http::ApiError;
use theazo_store::{Agent, Agents, PauseReason, Reached, Session, SessionStatus, Sessions, now_ms};
use theazo_tenancy::{AgentId, SessionId, TenantScope};
use tokio::sync::OnceCell;

/// What one run has read of sessions, so that each is read once however many agents it has.
#[derive(Default)]
pub(crate) struct Watch(Mutex<HashMap<SessionId, Known>>);

/// How often a session is read for an agent while somebody keeps changing it.
const LOOKS: u32 = 3;

type Known = Arc<OnceCell<Option<Watched>>>;

struct Watched {
    session: Session,
    /// When it was read, Unix milliseconds.
    at_ms: i64,
    /// By which none of its agents may run on.
    reached: Option<Reached>,
    /// By which these may not, where more run than may.
    crowded: Option<(Reached, HashSet<AgentId>)>,
}

impl Watch {
    /// Pauses an agent whose session or which itself has reached a limit, and books what the others have run. Whether it
    /// was paused. One that somebody is pausing already does not run on, should that not come about.
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
        for _ in 0..LOOKS {
            let known = self.known(&agent.session);
            let watched = known.get_or_try_init(|| watch(scope, &agent.session, sessions, agents)).await?;
            // What a terminated session has left is ended by the session's own item.
            let Some(watched) = watched else { return Ok(false) };
            let Some(reached) = watched.reached_by(agent) else {
                // One that is being paused is booked by that.
                if agent.intent.is_none() {
                    agents.charge(scope, &watched.session, &agent.id).await?;
                }
                return Ok(false);
            };
            let reason = PauseReason::limit(reached, &watched.session, watched.at_ms);
            if pausing::pause_while(scope, agent, reason, agents, sandboxes).await?.is_some() {
                let Reached { limit, used, max } = reached;
                tracing::info!(agent = %agent.id, session = %agent.session, limit, used, max, "paused by a limit");
                return Ok(true);
            }
            self.forget(&agent.session, &known);
        }
        Ok(false)
    }

    fn known(&self, session: &SessionId) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(session.clone()).or_default().clone()
    }

    /// Has a session read again that is not as it was known, unless it has been since.
    fn forget(&self, session: &SessionId, known: &Known) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(session).is_some_and(|now| Arc::ptr_eq(now, known)) {
            all.remove(session);
        }
    }
}

impl Watched {
    /// The limit by which an agent may not run on: its files stay, and it can be resumed when the limit is raised.
    fn reached_by(&self, agent: &Agent) -> Option<Reached> {
        let crowded = self.crowded.as_ref().filter(|(_, agents)| agents.contains(&agent.id));
        agent.cost_cap_reached(now_ms()).or(self.reached).or(crowded.map(|(reached, _)| *reached))
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
    let at_ms = now_ms();
    let reached = session.limits.reached(&counters.used(&session, &live, at_ms));
    let crowded = crowded(session.limits.max_agents, &live);
    Ok(Some(Watched { session, at_ms, reached, crowded }))
}

/// The agents that run beyond how many may, since the limit was lowered: the youngest, so that who came first stays.
fn crowded(max: Option<u32>, live: &[Agent]) -> Option<(Reached, HashSet<AgentId>)> {
    let max = max?;
    let mut placed: Vec<&Agent> = live.iter().filter(|agent| agent.status.takes_place()).collect();
    let used = placed.len();
    let beyond = used.checked_sub(usize::try_from(max).ok()?).filter(|beyond| *beyond > 0)?;
    placed.sort_unstable_by(|one, other| (other.created_at_ms, &other.id).cmp(&(one.created_at_ms, &one.id)));
    let reached = Reached { limit: "maxAgents", used: u64::try_from(used).unwrap_or(u64::MAX), max: max.into() };
    Some((reached, placed.into_iter().take(beyond).map(|agent| agent.id.clone()).collect()))
}
