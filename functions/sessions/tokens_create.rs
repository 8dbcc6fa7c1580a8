//! `POST /v1/sessions/{id}/tokens`

use crate::idempotency::once;
use serde_json::json;
use theazo_http::{Answer, ApiError, Call, Fields, format_time};
use theazo_store::{Replays, SessionTokens, Sessions, now_ms};
use theazo_tenancy::Permissions;

const DEFAULT_LIFE_MS: i64 = 15 * 60 * 1000;
const MAX_LIFE_MS: i64 = 24 * 60 * 60 * 1000;
/// Where an answer shows a token, this once.
const TOKEN: &str = "token";

/// Mints a token for one end user.
pub async fn handle(
    call: Call,
    sessions: Sessions,
    tokens: SessionTokens,
    replays: Replays,
) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sessions) = (&call, &sessions);
        async move {
            let id = call.request().session_id()?;
            let fields = call.request().fields(true)?;
            let life_ms = fields.duration_ms("expiresIn", 1000, MAX_LIFE_MS)?.unwrap_or(DEFAULT_LIFE_MS);
            Ok((life_ms, permissions(&fields)?, sessions.get(&scope, &id).await?))
        }
    };
    let (principal, (life_ms, permissions, session)) = call.authenticate_with(read).await?;
    let session = session.ok_or_else(ApiError::not_found)?;
    let work = async {
        let expires_at_ms = now_ms().saturating_add(life_ms);
        let token = tokens.mint(&principal, &session, expires_at_ms, permissions).await?;
        Answer::json(201, &json!({ TOKEN: token.text.as_str(), "expiresAt": format_time(expires_at_ms) }))
    };
    once(&call, &principal, &replays, Some(TOKEN), work).await
}

/// `read` is part of every token; absent is everything.
fn permissions(fields: &Fields) -> Result<Permissions, ApiError> {
    let Some(names) = fields.text_list("permissions")? else { return Ok(Permissions { exec: true }) };
    if names.is_empty() || names.iter().any(|name| !["read", "exec"].contains(name)) {
        return Err(ApiError::invalid("permissions", "must be a list of read and exec"));
    }
    Ok(Permissions { exec: names.contains(&"exec") })
}
