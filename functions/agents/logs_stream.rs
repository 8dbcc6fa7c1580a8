//! `GET /v1/agents/{id}/logs/stream`

use super::authenticate;
use crate::logs::{Live, Subject, last_event_id, read_filter};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, Logs};

/// An agent's log entries as Server-Sent Events, oldest first: all of them, or from `since` on, or from after
/// `Last-Event-ID`, and then as they are written. When the agent has ended and everything was sent, `[DONE]`.
pub async fn handle(call: Call, agents: Agents, logs: Logs) -> Result<Answer, ApiError> {
    let parse = || {
        let filter = read_filter(&call.query()?)?;
        match filter.until_ms {
            Some(_) => Err(ApiError::invalid("until", "is for lists; a stream goes on")),
            None => Ok((filter, last_event_id(&call)?)),
        }
    };
    let (principal, agent, (mut filter, after)) = authenticate(&call, &agents, parse).await?;
    // The path says whose entries.
    (filter.agent, filter.session) = (Some(agent.id.clone()), Some(agent.session.clone()));
    let scope = principal.scope();
    let tail = logs.tail(&scope, filter, after).await?.ok_or_else(ApiError::not_found)?;
    let subject = Subject::new(agents, scope, agent.id);
    Ok(Live::new(call, tail, Some(subject)).answer())
}
