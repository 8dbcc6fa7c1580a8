//! `PUT /v1/providers/{provider}`

use super::{InUse, close_unused, configurable, in_use, refuse_while_used, show};
use theazo_http::{Answer, ApiError, Call, Fields};
use theazo_providers::ProviderKind;
use theazo_providers::docker::{DockerHosts, HostRanges};
use theazo_store::{Agents, ExpectCredential, ProviderConfigs, ProviderCredentials, ProviderSettings, SecretName};
use theazo_tenancy::ReadScope;
use theazo_vault::SecretValue;

/// Greatest number of a turn, and of agents at a time.
const MAX_PRIORITY: u64 = 100;
const MAX_CONCURRENT: u64 = 10_000;
/// Longest name of a template.
const MAX_TEMPLATE: usize = 128;
/// Longest reference of an image, and name of an organization.
const MAX_IMAGE: usize = 255;
const MAX_ORGANIZATION: usize = 63;
/// What hosts are named by, and most of them that drain.
const DRAINING: &str = "draining";
const MAX_HOST: usize = 262;
const MAX_DRAINING: usize = 32;

/// Names the platform secret that holds a provider's credential. From then on no agent boots with that secret. Another
/// organization is refused as long as agents have something in the one before.
pub async fn handle(
    call: Call,
    credentials: ProviderCredentials,
    configs: ProviderConfigs,
    agents: Agents,
    ranges: HostRanges,
) -> Result<Answer, ApiError> {
    let read = |scope: ReadScope| {
        let (call, configs, agents) = (&call, &configs, &agents);
        async move {
            let (kind, credential, settings) = parse(call)?;
            let mut moves = false;
            if settings.organization.is_some() {
                let configured = configs.list(&scope).await?;
                let before = configured.iter().find(|config| config.provider == kind.as_str());
                moves = before.is_some_and(|before| before.organization != settings.organization);
                if moves {
                    refuse_while_used(kind, &scope, agents).await?;
                }
            }
            Ok((kind, credential, settings, moves))
        }
    };
    let (principal, (kind, credential, settings, moves)) = call.authenticate_with(read).await?;
    let scope = principal.scope();
    let mut closed = None;
    if moves {
        match close_unused(kind, &scope, &configs, &agents).await? {
            Ok(config) => closed = Some(config),
            Err(InUse(there)) => return Err(in_use(there)),
        }
    }
    let is_hosts = move |credential: &SecretValue| -> Result<(), String> {
        DockerHosts::check(credential, &ranges).map_err(|fault| fault.to_string())
    };
    let expect: Option<&ExpectCredential> = if kind == ProviderKind::Docker { Some(&is_hosts) } else { None };
    let config =
        credentials.configure_with(&scope, kind.as_str(), &credential, settings, expect, closed.as_ref()).await;
    if let (Err(_), Some(closed)) = (&config, closed) {
        configs.reopen(&scope, closed).await?;
    }
    let config = config.map_err(|error| match error {
        theazo_store::StoreError::UnknownSecret(_) => {
            ApiError::invalid("credentialRef", "names no secret of the platform")
        }
        other => other.into(),
    })?;
    Answer::json(200, &show(&config, None))
}

fn parse(call: &Call) -> Result<(ProviderKind, SecretName, ProviderSettings), ApiError> {
    let kind = configurable(call)?;
    let fields = call.request().fields(false)?;
    let mut settings = match kind {
        ProviderKind::E2b => ProviderSettings { template: read_template(&fields)?, ..ProviderSettings::default() },
        ProviderKind::Docker => read_docker(&fields)?,
        _ => read_fly(&fields)?,
    };
    settings.priority = small(fields.number("priority", 1, MAX_PRIORITY)?);
    settings.max_concurrent = read_max_concurrent(&fields)?;
    let credential = SecretName::parse(fields.required_text("credentialRef", 128)?)
        .map_err(|error| ApiError::invalid("credentialRef", &error.to_string()))?;
    Ok((kind, credential, settings))
}

fn read_max_concurrent(fields: &Fields) -> Result<Option<u32>, ApiError> {
    let Some(limits) = fields.object("limits")? else { return Ok(None) };
    if let Some(other) = limits.names().find(|name| *name != "maxConcurrent") {
        return Err(ApiError::not_built(&format!("limits.{other}")));
    }
    Ok(small(limits.number("maxConcurrent", 0, MAX_CONCURRENT)?))
}

fn small(number: Option<u64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
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

/// Fly's `config`: the organization and image that there is no usual one of, and where agents run unless they ask.
fn read_fly(fields: &Fields) -> Result<ProviderSettings, ApiError> {
    const KNOWN: [&str; 3] = ["organization", "image", "region"];
    let config = fields.object("config")?.ok_or_else(|| ApiError::invalid("config", "is required"))?;
    if let Some(other) = config.names().find(|name| !KNOWN.contains(name)) {
        return Err(ApiError::not_built(&format!("config.{other}")));
    }
    let organization = config.required_text("organization", MAX_ORGANIZATION)?;
    if organization.is_empty() || !organization.bytes().all(is_label) {
        return Err(ApiError::invalid("config.organization", "must be an organization's slug"));
    }
    let image = read_image(&config)?;
    let region = config.text("region", super::MAX_REGION)?;
    if region.is_some_and(|region| !super::is_region(region)) {
        return Err(ApiError::invalid("config.region", "must be a region's code"));
    }
    let text = |text: &str| Some(text.to_owned());
    Ok(ProviderSettings {
        image: Some(image),
        organization: text(organization),
        region: region.map(str::to_owned),
        ..ProviderSettings::default()
    })
}

fn read_image(config: &Fields) -> Result<String, ApiError> {
    let image = config.required_text("image", MAX_IMAGE)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':' | b'@');
    if image.is_empty() || !image.bytes().all(plain) {
        return Err(ApiError::invalid("config.image", "must be an image's reference"));
    }
    Ok(image.to_owned())
}

/// Docker's `config`: the agent image, which every host has already, and the hosts that take no new agents.
fn read_docker(fields: &Fields) -> Result<ProviderSettings, ApiError> {
    let config = fields.object("config")?.ok_or_else(|| ApiError::invalid("config", "is required"))?;
    if let Some(other) = config.names().find(|name| !["image", DRAINING].contains(name)) {
        return Err(ApiError::not_built(&format!("config.{other}")));
    }
    // Without it, hosts go on draining until somebody says otherwise.
    let draining = config.text_list(DRAINING)?;
    let plain = |byte: u8| byte.is_ascii_graphic();
    let is_name = |name: &&str| !name.is_empty() && name.len() <= MAX_HOST && name.bytes().all(plain);
    if draining.iter().any(|draining| draining.len() > MAX_DRAINING || !draining.iter().all(is_name)) {
        return Err(ApiError::invalid("config.draining", "must be at most 32 names of hosts, like host:2376"));
    }
    let draining = draining.map(|draining| draining.into_iter().map(str::to_ascii_lowercase).collect());
    Ok(ProviderSettings { image: Some(read_image(&config)?), draining, ..ProviderSettings::default() })
}

fn is_label(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}
