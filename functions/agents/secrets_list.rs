//! `GET /v1/agents/{id}/secrets`

use super::authenticate;
use futures_util::future::try_join;
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, BootedSecret, ScopeNames, SecretEntry, SecretNames, SecretOrigin, SecretTarget, now_ms};

/// Names and versions of what an agent booted with, and whether its next boot would bring another.
pub async fn handle(call: Call, agents: Agents, names: SecretNames) -> Result<Answer, ApiError> {
    let (principal, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    let scope = principal.scope();
    let target = SecretTarget::Session(agent.session.clone());
    let (own, platform) = try_join(names.load(&scope, &target), names.load(&scope, &SecretTarget::Platform)).await?;
    let inherited = platform.only_inherited();
    let now = now_ms();
    let shown: Vec<Value> = agent.secrets.iter().map(|booted| show(booted, &own, &inherited, now)).collect();
    Answer::json(200, &shown)
}

fn show(booted: &BootedSecret, own: &ScopeNames, inherited: &ScopeNames, now_ms: i64) -> Value {
    let present = |names: &ScopeNames, origin| {
        let is_delivered = |entry: &&SecretEntry| !entry.provider && entry.expires_at_ms.is_none_or(|at| now_ms < at);
        names.get(&booted.name).filter(is_delivered).map(|entry| (origin, entry.version))
    };
    let current = present(own, SecretOrigin::Session).or_else(|| present(inherited, SecretOrigin::Platform));
    let mut shown = json!({
        "name": booted.name,
        "version": booted.version,
        "scope": booted.origin,
        "stale": current != Some((booted.origin, booted.version)),
    });
    if current.is_none() {
        shown["deleted"] = true.into();
    }
    shown
}
