//! `GET /v1/providers`

use crate::agents::Sandboxes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_providers::Health;
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
    let scope = principal.scope();
    let own = join_all(configured.iter().map(|config| async {
        let health = match sandboxes.health(&scope, &config.provider).await {
            Ok(health) => health,
            Err(error) if error.code() == ErrorCode::NoProvidersAvailable => {
                let message = "agents on this provider are not available in this version".to_owned();
                Health { healthy: false, message }
            }
            Err(_) => Health { healthy: false, message: "the credential cannot be used".to_owned() },
        };
        super::show(config, Some(health))
    }))
    .await;
    let data: Vec<Value> = deployment.into_iter().chain(own).collect();
    Answer::json(200, &json!({ "data": data, "hasMore": false }))
}
