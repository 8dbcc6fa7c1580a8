//! What a list of names shows.

use serde_json::{Value, json};
use theazo_http::format_time;
use theazo_store::{Agent, AgentStatus, ScopeNames, SecretOrigin};

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

/// The running agents that booted with an older value of that name.
fn retained_by(agents: &[Agent], canonical: &str, version: u64, origin: SecretOrigin) -> Vec<String> {
    let holds_older = |agent: &&Agent| {
        let running = !agent.status.is_over() && agent.status != AgentStatus::Paused;
        let older = agent
            .secrets
            .iter()
            .any(|booted| booted.name == canonical && booted.origin == origin && booted.version != version);
        running && older
    };
    agents.iter().filter(holds_older).map(|agent| agent.id.to_string()).collect()
}
