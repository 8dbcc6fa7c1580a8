//! Secrets of sessions and of the platform. Values go in here and never come out.

mod body;
pub mod delete;
pub mod list;
mod listing;
pub mod platform_delete;
pub mod platform_list;
pub mod platform_set;
pub mod set;

use theazo_http::{ApiError, Call, ErrorCode};
use theazo_store::{Session, SessionStatus};

/// The canonical form of the name in the path.
fn canonical_name(call: &Call) -> Result<String, ApiError> {
    // A text that cannot be a name is the name of no secret.
    let name = call.request().param("name")?;
    theazo_store::SecretName::parse(name).map(|name| name.canonical().to_owned()).map_err(|_| ApiError::not_found())
}

/// The session, if secrets may still be changed in it.
fn live(session: Option<Session>) -> Result<Session, ApiError> {
    let session = session.ok_or_else(ApiError::not_found)?;
    match session.status {
        SessionStatus::Terminated => Err(terminated()),
        _ => Ok(session),
    }
}

fn terminated() -> ApiError {
    ApiError::new(ErrorCode::Conflict, "the session is terminated")
}
