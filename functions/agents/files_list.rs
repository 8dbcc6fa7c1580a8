//! `GET /v1/agents/{id}/files?dir=/data`

use super::{Sandboxes, authenticate, failure, usable};
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call, format_time};
use theazo_store::Agents;

/// Lists a directory.
pub async fn handle(call: Call, agents: Agents, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let parse = || {
        let query = call.request().query()?;
        let dir = query.get("dir").unwrap_or("/data");
        // As for files, the leading slash may be missing.
        Ok(if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") })
    };
    let (_, agent, dir) = authenticate(&call, &agents, parse).await?;
    let (provider, sandbox) = usable(&agent, &sandboxes)?;
    let entries = provider.list_files(&sandbox, &dir).await;
    let entries = entries.map_err(|error| failure::to_api_naming("dir", &agent.provider, &error))?;
    let shown: Vec<Value> = entries
        .iter()
        .map(|entry| {
            json!({
                "name": entry.name,
                "size": entry.size,
                "modified": format_time(entry.modified_ms),
                "type": if entry.directory { "directory" } else { "file" },
            })
        })
        .collect();
    Answer::json(200, &shown)
}
