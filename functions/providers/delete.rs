//! `DELETE /v1/providers/{provider}`

use super::configurable;
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_store::{Agents, ProviderConfigs};
use theazo_tenancy::ReadScope;

/// Removes a provider's configuration. Its credential stays in the vault, out of agents' reach, until it is deleted. As long
/// as agents have something at the provider it is refused: nobody could end them any more.
pub async fn handle(call: Call, configs: ProviderConfigs, agents: Agents) -> Result<Answer, ApiError> {
    let read = |scope: ReadScope| {
        let (call, agents) = (&call, &agents);
        async move { Ok((configurable(call)?, agents.unsettled_of_platform(&scope).await?)) }
    };
    let (principal, (kind, unsettled)) = call.authenticate_with(read).await?;
    let there = unsettled.iter().filter(|agent| agent.provider == kind.as_str()).count();
    if there > 0 {
        let why = format!("{there} agents have something there still; terminate them first");
        return Err(ApiError::new(ErrorCode::Conflict, why).detail("agents", there));
    }
    configs.remove(&principal.scope(), kind.as_str()).await?;
    Ok(Answer::no_content())
}
