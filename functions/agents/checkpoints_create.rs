//! `POST /v1/agents/{id}/checkpoints`

use super::{Sandboxes, authenticate, checkpoints, noted};
use crate::idempotency::once;
use std::time::Duration;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, Replays};

/// For how long an agent counts as busy on account of it.
const TAKES: Duration = Duration::from_secs(25);

/// Keeps a running agent's files as they are, to boot from later.
pub async fn handle(call: Call, agents: Agents, sandboxes: Sandboxes, replays: Replays) -> Result<Answer, ApiError> {
    let parse = || checkpoints::parse(&call.request().fields(true)?);
    let (principal, agent, new) = authenticate(&call, &agents, parse).await?;
    let scope = principal.scope();
    let work = async {
        // On the heap: what all it may have to take back makes it large.
        let made = Box::pin(checkpoints::make(&principal, &agent, new, &agents, &sandboxes));
        Answer::json(201, &noted(&scope, &agent, &agents, TAKES, made).await?)
    };
    once(&call, &principal, &replays, None, work).await
}
