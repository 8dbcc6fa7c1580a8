//! `POST /v1/agents/{id}/ports`

use super::{Sandboxes, authenticate, lifecycle, noted, refuse, usable};
use serde_json::{Map, Value, json};
use std::time::Duration;
use theazo_http::{Answer, ApiError, Call};
use theazo_providers::ProviderError;
use theazo_store::{Agents, LogLevel, LogSource, NewLog};

/// How long the provider may take: a request answers within 25 s.
const WITHIN: Duration = Duration::from_secs(20);

/// Tells where a port of a running agent is reached from outside, and with which token. Asked again it tells the same, so
/// that a request need not be known again.
pub async fn handle(call: Call, agents: Agents, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let (principal, agent, port) = authenticate(&call, &agents, || parse(&call)).await?;
    let scope = principal.scope();
    let (provider, sandbox) = usable(&principal, &agent, &sandboxes).await?;
    let opening = tokio::time::timeout(WITHIN, provider.open_port(&sandbox, port));
    let opened = noted(&scope, &agent, &agents, Duration::ZERO, opening).await;
    match opened.unwrap_or(Err(ProviderError::TimedOut)) {
        Ok(way) => {
            let entry = NewLog::of_agent(&agent, LogLevel::Info, LogSource::System, format!("port {port} is open"));
            sandboxes.note(&scope, entry.metadata(&json!({ "event": "agent.port", "port": port })));
            let headers = way.headers.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())));
            Answer::json(200, &json!({ "url": way.url, "headers": headers.collect::<Map<_, _>>() }))
        }
        Err(error @ ProviderError::SandboxGone) => {
            Err(refuse("port", error, &principal, &agent, &agents, &sandboxes).await)
        }
        Err(error) => {
            let (entry, told) = lifecycle::refused(&agent, "provider.port_failed", "a port was not opened", &error);
            sandboxes.note(&scope, entry);
            Err(told)
        }
    }
}

fn parse(call: &Call) -> Result<u16, ApiError> {
    let port = call.request().fields(false)?.number("port", 1, u16::MAX.into())?;
    port.and_then(|port| u16::try_from(port).ok()).ok_or_else(|| ApiError::invalid("port", "is required"))
}
