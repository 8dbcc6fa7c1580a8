//! What callers send by mistake.

use serde_json::{Value, json};

/// Bodies with the value in them that this route must refuse.
pub(super) fn wrong_bodies(route: &str, value: &str) -> Vec<String> {
    let quoted = Value::from(value).to_string();
    let long = value.repeat(300);
    let fields = match route {
        "sessions-create" | "sessions-by-user" => vec![
            json!({ "limits": value }),
            json!({ "limits": { "maxAgents": value } }),
            json!({ "limits": { "maxCost": value } }),
            json!({ "metadata": [value] }),
            json!({ "metadata": { "k": [value] } }),
            json!({ "metadata": { "k": long } }),
        ],
        "sessions-limits-set" => vec![json!({ "maxAgents": value }), json!({ "maxCost": { "amount": value } })],
        "secrets-set" | "platform-secrets-set" => vec![
            json!({ "A": [value] }),
            json!({ "A": { "value": [value] } }),
            json!({ "A": { "value": { "value": value } } }),
            json!({ "A": { "value": value, "expiresAt": value } }),
            json!({ "A": { "value": value, "expiresAt": "2001-01-01T00:00:00Z" } }),
            json!({ "A": { "value": value, "mask": value } }),
            json!({ "A": { "value": value, "inherit": value } }),
            json!({ "A": { "VALUE": value } }),
            json!({ "1bad": value }),
            json!({ "bad name\n": value }),
            json!({ "PATH": value, "OK": value }),
            json!({ "THEAZO_X": { "value": value } }),
            json!({ "Twice": value, "tWICE": value }),
            json!({ "A": long }),
            json!({ "A": format!("{value}\0") }),
            json!({ "OK": value, "B": null }),
        ],
        "agents-create" => vec![
            json!({ "compute": value }),
            json!({ "provider": value }),
            json!({ "timeout": value }),
            json!({ "secrets": value }),
            json!({ "secrets": [value] }),
            json!({ "network": value }),
            json!({ "network": { "internet": value } }),
            json!({ "browser": value }),
            json!({ "definition": { "x": value } }),
            json!({ "model": [value] }),
            json!({ "model": long }),
            json!({ "instructions": { "x": value } }),
            json!({ "metadata": [value] }),
        ],
        "agents-exec" => vec![
            json!({ "language": value, "code": "true" }),
            json!({ "language": "bash", "code": [value] }),
            json!({ "language": "bash", "code": "true", "timeout": value }),
            json!({ "language": "bash", "code": "true", "stdin": { "x": value } }),
            json!({ "language": "bash", "code": "true", "encoding": value }),
            json!({ "language": "go", "code": value }),
        ],
        "agents-ports-open" => vec![json!({ "port": value }), json!({ "port": [value] }), json!({ value: 1 })],
        "agents-files-write" => vec![
            json!({ "path": value, "data": "x" }),
            json!({ "path": format!("/data/{long}"), "data": value }),
            json!({ "path": "/etc/x", "data": value }),
            json!({ "path": "/data/x", "data": [value] }),
            json!({ "path": "/data/x", "data": value, "encoding": "base64" }),
            json!({ "path": "/data/x", "data": value, "encoding": value }),
            json!({ "path": "/data/x", "data": value, "offset": value }),
            json!({ "path": "/data/x", "data": value, "append": value }),
        ],
        "providers-set" => vec![
            json!({ "credentialRef": value }),
            json!({ "credentialRef": [value] }),
            json!({ "credentialRef": "KEPT_OUT", "priority": value }),
            json!({ "credentialRef": "KEPT_OUT", "limits": value }),
            json!({ "credentialRef": "KEPT_OUT", "limits": { "maxConcurrent": value } }),
        ],
        // The agent is not paused, so that none of these resumes it.
        "agents-resume" => vec![
            json!({ "provider": value }),
            json!({ "region": [value] }),
            json!({ "checkpoint": value }),
            json!({ "checkpoint": [value] }),
        ],
        "agents-retry" => vec![json!({ "checkpoint": value }), json!({ "checkpoint": [value] })],
        "agents-checkpoints-create" => vec![
            json!({ "phase": [value] }),
            json!({ "phase": long }),
            json!({ "progress": value }),
            json!({ "metadata": value }),
            json!({ "metadata": { "k": [value] } }),
        ],
        "api-keys-create" => vec![
            json!({ "name": [value], "environment": "live" }),
            json!({ "name": long, "environment": "live" }),
            json!({ "name": "n", "environment": value }),
            json!({ "name": "n", "environment": "live", "expiresAt": value }),
            json!({ "name": "n", "environment": "live", "expiresAt": [value] }),
        ],
        "api-keys-rotate" => vec![json!({ "overlap": value }), json!({ "overlap": [value] })],
        "sessions-tokens-create" => vec![
            json!({ "expiresIn": value }),
            json!({ "expiresIn": { "x": value } }),
            json!({ "permissions": value }),
            json!({ "permissions": [value] }),
            json!({ "permissions": ["read", value] }),
        ],
        "sandbox-log" | "sandbox-model" | "sandbox-span" | "sandbox-progress" | "sandbox-complete" => vec![
            json!({ "agentId": value, "sessionId": value, "message": value }),
            json!({ "agentId": [value], "message": value }),
            json!({ "agentId": "agt_00000000000000000000000000", "sessionId": value, "message": value }),
            json!({ "message": value, "level": value, "model": value, "percentage": value }),
        ],
        // Their bodies are not read.
        _ => return Vec::new(),
    };
    let whole = [
        quoted.clone(),
        format!("[{quoted}]"),
        format!("{{\"A\": {quoted}"),
        format!("{{\"A\": {quoted}}} {quoted}"),
        format!("{{\"A\": {quoted}, }}"),
        format!("{{\"A\": {quoted} \"B\"}}"),
        value.to_owned(),
        format!("{{\"A\": \"{value}\"}}"),
        format!("{{\"A\": \"\\ud800{}\"}}", quoted.trim_matches('"')),
    ];
    whole.into_iter().chain(fields.into_iter().map(|body| body.to_string())).collect()
}
