//! What a list of names shows.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use theazo_http::format_time;
use theazo_store::{Agent, AgentStatus, BootedSecret, ScopeNames, SecretOrigin};

/// The display forms, sorted.
pub(super) fn names(names: &ScopeNames) -> Value {
    let mut shown: Vec<&str> = names.entries().map(|(_, entry)| entry.display.as_str()).collect();
    shown.sort_unstable();
    shown.into()
}

/// Everything but the value, sorted by display form. `agents` are those that may still hold copies.
pub(super) fn details(names: &ScopeNames, origin: SecretOrigin, agents: &[Agent], now_ms: i64) -> Vec<Value> {
    let mut entries: Vec<_> = names.entries().collect();
    entries.sort_unstable_by(|(_, a), (_, b)| a.display.cmp(&b.display));
    let shown = entries.into_iter().map(|(canonical, entry)| {
        let mut shown = json!({
            "name": entry.display,
            "version": entry.version,
            "createdAt": format_time(entry.created_at_ms),
            "updatedAt": format_time(entry.updated_at_ms),
            "scope": origin,
            "retainedBy": retained_by(agents, canonical, entry.version, origin),
        });
        if let Some(at) = entry.expires_at_ms {
            shown["expiresAt"] = format_time(at).into();
            shown["expired"] = (at <= now_ms).into();
        }
        shown
    });
    shown.collect()
}

/// Secrets that were deleted and that running agents still hold, sorted by name.
pub(super) fn deleted(names: &ScopeNames, origin: SecretOrigin, agents: &[Agent]) -> Vec<Value> {
    let mut versions = BTreeMap::new();
    for booted in agents.iter().filter(|agent| is_running(agent)).flat_map(|agent| &agent.secrets) {
        if booted.origin == origin && names.get(&booted.name).is_none() {
            let version = versions.entry(booted.name.as_str()).or_insert(booted.version);
            *version = booted.version.max(*version);
        }
    }
    let shown = versions.into_iter().map(|(name, version)| {
        json!({
            "name": name,
            "version": version,
            "scope": origin,
            "deleted": true,
            // No version is 0, so every holder holds another than the present one.
            "retainedBy": retained_by(agents, name, 0, origin),
        })
    });
    shown.collect()
}

fn is_running(agent: &Agent) -> bool {
    !agent.status.is_over() && agent.status != AgentStatus::Paused
}

/// The running agents that booted with an older value of that name.
fn retained_by(agents: &[Agent], canonical: &str, version: u64, origin: SecretOrigin) -> Vec<String> {
    let holds_older = |agent: &&Agent| {
        let older =
            |booted: &BootedSecret| booted.name == canonical && booted.origin == origin && booted.version != version;
        is_running(agent) && agent.secrets.iter().any(older)
    };
    agents.iter().filter(holds_older).map(|agent| agent.id.to_string()).collect()
}
