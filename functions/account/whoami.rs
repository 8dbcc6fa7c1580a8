//! `GET /v1/whoami`: what the presented credential is.

use serde_json::json;
use theazo_http::{Answer, ApiError, Call, format_time};

/// Answers with the credential's kind, tenant, environment and expiry.
pub async fn handle(call: Call) -> Result<Answer, ApiError> {
    let principal = call.authenticate().await?;
    Answer::json(
        200,
        &json!({
            "kind": principal.scope().actor().kind.as_str(),
            "platformId": principal.platform(),
            "sessionId": principal.session(),
            "environment": principal.mode().as_str(),
            "keyId": principal.credential_id(),
            "expiresAt": principal.expires_at_ms().map(format_time),
        }),
    )
}
