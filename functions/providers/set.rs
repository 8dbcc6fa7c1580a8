//! `PUT /v1/providers/{provider}`

use super::{configurable, show};
use theazo_http::{Answer, ApiError, Call, Fields};
use theazo_providers::ProviderKind;
use theazo_store::{ProviderCredentials, SecretName};

/// What is part of the contract and not built yet.
const UNBUILT: &[&str] = &["priority", "limits"];
/// Longest name of a template.
const MAX_TEMPLATE: usize = 128;

/// Names the platform secret that holds a provider's credential. From then on no agent boots with that secret.
pub async fn handle(call: Call, credentials: ProviderCredentials) -> Result<Answer, ApiError> {
    let (principal, (kind, credential, template)) = call.authenticate_with(|_| async { parse(&call) }).await?;
    let config = credentials.configure_with(&principal.scope(), kind.as_str(), &credential, template).await;
    let config = config.map_err(|error| match error {
        theazo_store::StoreError::UnknownSecret(_) => {
            ApiError::invalid("credentialRef", "names no secret of the platform")
        }
        other => other.into(),
    })?;
    Answer::json(200, &show(&config, None))
}

fn parse(call: &Call) -> Result<(ProviderKind, SecretName, Option<String>), ApiError> {
    let kind = configurable(call)?;
    let fields = call.request().fields(false)?;
    if kind == ProviderKind::Docker {
        return Err(ApiError::not_built("provider.docker.hosts"));
    }
    fields.refuse_unbuilt(UNBUILT)?;
    let template = match kind {
        ProviderKind::E2b => read_template(&fields)?,
        _ => {
            fields.refuse_unbuilt(&["config"])?;
            None
        }
    };
    let credential = SecretName::parse(fields.required_text("credentialRef", 128)?)
        .map_err(|error| ApiError::invalid("credentialRef", &error.to_string()))?;
    Ok((kind, credential, template))
}

/// The template of `config`, an alias or id with an optional tag, as E2B has them.
fn read_template(fields: &Fields) -> Result<Option<String>, ApiError> {
    let Some(config) = fields.object("config")? else { return Ok(None) };
    if let Some(other) = config.names().find(|name| *name != "template") {
        return Err(ApiError::not_built(&format!("config.{other}")));
    }
    let Some(template) = config.text("template", MAX_TEMPLATE)? else { return Ok(None) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':');
    if template.is_empty() || !template.bytes().all(plain) {
        return Err(ApiError::invalid("config.template", "must be a template's id or name"));
    }
    Ok(Some(template.to_owned()))
}
