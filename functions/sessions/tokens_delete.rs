//! `DELETE /v1/sessions/{id}/tokens`

use theazo_http::{Answer, ApiError, Call};
use theazo_store::SessionTokens;

/// Ends all tokens of a session, at once and everywhere.
pub async fn handle(call: Call, tokens: SessionTokens) -> Result<Answer, ApiError> {
    let (principal, id) = call.authenticate_with(|_| async { call.request().session_id() }).await?;
    tokens.revoke_all(&principal.scope(), &id).await?;
    Ok(Answer::no_content())
}
