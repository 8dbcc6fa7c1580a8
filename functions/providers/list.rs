//! `GET /v1/providers`

use crate::agents::Sandboxes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::ProviderConfigs;

/// The providers that agents can run on, and whether they answer. Never a credential.
pub async fn handle(call: Call, configs: ProviderConfigs, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let read = |scope| {
        let configs = &configs;
        async move { Ok(configs.list(&scope).await?) }
    };
    let (principal, configured) = call.authenticate_with(read).await?;
    let providers = sandboxes.all_of(&principal.scope());
    let deployment = join_all(providers.iter().map(|provider| async {
        let health = provider.health().await;
        json!({
            "provider": provider.kind().as_str(),
            "source": "deployment",
            "health": { "healthy": health.healthy, "message": health.message },
        })
    }))
    .await;
    let own = configured.iter().map(super::show);
    let data: Vec<Value> = deployment.into_iter().chain(own).collect();
    Answer::json(200, &json!({ "data": data, "hasMore": false }))
}
