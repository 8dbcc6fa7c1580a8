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

/// By name, and of the same name the platform's first.
pub(super) fn sort(details: &mut [Value]) {
    let key = |entry: &Value| ["name", "scope"].map(|field| entry[field].as_str().unwrap_or_default().to_owned());
    details.sort_by_cached_key(key);
}

/// Everything but the value. `agents` are those that may still hold copies.
pub(super) fn details(names: &ScopeNames, origin: SecretOrigin, agents: &[Agent], now_ms: i64) -> Vec<Value> {
    let shown = names.entries().map(|(canonical, entry)| {
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

/// Secrets that were deleted and that running agents still hold. Such a one is shown as what has expired is, for that
/// is what it is to its holders' owner: delivered to nobody any more, and there until the last of them ends. Its name is
/// the canonical one, version and times are those of the newest value that is held.
pub(super) fn deleted(names: &ScopeNames, origin: SecretOrigin, agents: &[Agent]) -> Vec<Value> {
    let mut held = BTreeMap::<&str, &BootedSecret>::new();
    for booted in agents.iter().filter(|agent| is_running(agent)).flat_map(|agent| &agent.secrets) {
        if booted.origin == origin && names.get(&booted.name).is_none() {
            let newest = held.entry(&booted.name).or_insert(booted);
            if newest.version < booted.version {
                *newest = booted;
            }
        }
    }
    let shown = held.into_iter().map(|(name, booted)| {
        json!({
            "name": name,
            "version": booted.version,
            "createdAt": format_time(booted.created_at_ms),
            "updatedAt": format_time(booted.updated_at_ms),
            "scope": origin,
            "expired": true,
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
