//! `DELETE /v1/providers/{provider}`

use super::{configurable, in_use, refuse_while_used, remove_unused};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, ProviderConfigs};
use theazo_tenancy::ReadScope;

/// Removes a provider's configuration. Its credential stays in the vault, out of agents' reach, until it is deleted. As long
/// as agents have something at the provider it is refused: nobody could end them any more.
pub async fn handle(call: Call, configs: ProviderConfigs, agents: Agents) -> Result<Answer, ApiError> {
    let read = |scope: ReadScope| {
        let (call, agents) = (&call, &agents);
        async move {
            let kind = configurable(call)?;
            refuse_while_used(kind, &scope, agents).await?;
            Ok(kind)
        }
    };
    let (principal, kind) = call.authenticate_with(read).await?;
    match remove_unused(kind, &principal.scope(), &configs, &agents).await? {
        0 => Ok(Answer::no_content()),
        there => Err(in_use(there)),
    }
}
