//! `DELETE /v1/providers/{provider}`

use super::configurable;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::ProviderConfigs;

/// Removes a provider's configuration. Its credential stays in the vault, out of agents' reach, until it is deleted.
pub async fn handle(call: Call, configs: ProviderConfigs) -> Result<Answer, ApiError> {
    let (principal, kind) = call.authenticate_with(|_| async { configurable(&call) }).await?;
    configs.remove(&principal.scope(), kind.as_str()).await?;
    Ok(Answer::no_content())
}
