//! `PUT /v1/providers/{provider}`

use super::{configurable, show};
use theazo_http::{Answer, ApiError, Call};
use theazo_providers::ProviderKind;
use theazo_store::{ProviderCredentials, SecretName};

/// What is part of the contract and not built yet.
const UNBUILT: &[&str] = &["config", "priority", "limits"];

/// Names the platform secret that holds a provider's credential. From then on no agent boots with that secret.
pub async fn handle(call: Call, credentials: ProviderCredentials) -> Result<Answer, ApiError> {
    let (principal, (kind, credential)) = call.authenticate_with(|_| async { parse(&call) }).await?;
    let config = credentials.configure(&principal.scope(), kind.as_str(), &credential).await;
    let config = config.map_err(|error| match error {
        theazo_store::StoreError::UnknownSecret(_) => {
            ApiError::invalid("credentialRef", "names no secret of the platform")
        }
        other => other.into(),
    })?;
    Answer::json(200, &show(&config))
}

fn parse(call: &Call) -> Result<(ProviderKind, SecretName), ApiError> {
    let kind = configurable(call)?;
    let fields = call.request().fields(false)?;
    if kind == ProviderKind::Docker {
        return Err(ApiError::not_built("provider.docker.hosts"));
    }
    fields.refuse_unbuilt(UNBUILT)?;
    let credential = SecretName::parse(fields.required_text("credentialRef", 128)?)
        .map_err(|error| ApiError::invalid("credentialRef", &error.to_string()))?;
    Ok((kind, credential))
}
