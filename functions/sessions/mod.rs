//! Sessions: a platform's end users.

pub mod by_user;
pub mod create;
pub mod get;
mod limits;
pub mod limits_get;
pub mod limits_set;
pub mod list;
pub mod pause;
pub mod resume;
pub mod terminate;
pub mod tokens_create;
pub mod tokens_delete;
pub mod usage;

pub(crate) use limits::minutes;
use serde_json::{Value, json};
use theazo_http::format_time;
use theazo_store::Session;

const MAX_METADATA: usize = 64;

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
