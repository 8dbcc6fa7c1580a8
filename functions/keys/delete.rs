//! `DELETE /v1/api-keys/{id}`

use super::key_id;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::ApiKeys;

/// Revokes a key, at once and everywhere. `?force=true` revokes even the last live one.
pub async fn handle(call: Call, keys: ApiKeys) -> Result<Answer, ApiError> {
    let read = |_| async { Ok((key_id(&call)?, call.query()?.flag("force")?)) };
    let (principal, (id, force)) = call.authenticate_with(read).await?;
    keys.revoke(&principal.scope(), &id, force).await?;
    Ok(Answer::no_content())
}
