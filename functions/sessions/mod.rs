//! Sessions: a platform's end users.

pub mod by_user;
pub mod create;
pub mod get;
pub mod limits_get;
pub mod limits_set;
pub mod list;
pub mod pause;
pub mod resume;
pub mod terminate;
pub mod tokens_create;
pub mod tokens_delete;
pub mod usage;

use serde_json::{Value, json};
use theazo_http::{ApiError, Fields, format_time};
use theazo_store::{Limits, Session};

const MAX_METADATA: usize = 64;
const MAX_AGENTS_LIMIT: u64 = 100_000;

/// Limits that are part of the contract and not built yet.
const UNBUILT_LIMITS: &[&str] = &["maxCost", "maxComputeMinutes", "maxDuration"];

/// A session as the API shows it.
fn show(session: &Session) -> Value {
    json!({
        "id": session.id,
        "userId": session.user_id,
        "status": session.status,
        "environment": session.environment,
        "metadata": session.metadata,
        "limits": session.limits,
        "createdAt": format_time(session.created_at_ms),
        "pausedAt": session.paused_at_ms.map(format_time),
        "terminatedAt": session.terminated_at_ms.map(format_time),
    })
}

/// The `limits` of a body, if given.
fn read_limits(fields: &Fields, name: &str) -> Result<Option<Limits>, ApiError> {
    fields.object(name)?.map(|limits| parse_limits(&limits)).transpose()
}

fn parse_limits(limits: &Fields) -> Result<Limits, ApiError> {
    limits.refuse_unbuilt(UNBUILT_LIMITS)?;
    let max_agents = limits.number("maxAgents", 0, MAX_AGENTS_LIMIT)?;
    Ok(Limits { max_agents: max_agents.and_then(|max| u32::try_from(max).ok()) })
}
