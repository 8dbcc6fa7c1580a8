//! `GET /v1/agents/{id}/files?dir=/data`

use super::{Sandboxes, authenticate, in_time, refuse, usable};
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call, ErrorCode, MAX_PAYLOAD_BYTES, format_time, payload_len};
use theazo_store::Agents;

/// What an answer holds besides its brackets.
const MAX_LISTING: usize = MAX_PAYLOAD_BYTES - 2;

/// Lists a directory.
pub async fn handle(call: Call, agents: Agents, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let parse = || {
        let query = call.query()?;
        let dir = query.get("dir").unwrap_or("/data");
        // As for files, the leading slash may be missing.
        Ok(if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") })
    };
    let (principal, agent, dir) = authenticate(&call, &agents, parse).await?;
    let scope = principal.scope();
    let (provider, sandbox) = usable(&principal, &agent, &sandboxes).await?;
    let entries = in_time(&scope, &agent, &agents, provider.list_files(&sandbox, &dir)).await;
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => return Err(refuse("dir", error, &principal, &agent, &agents, &sandboxes).await),
    };
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
    let size: usize = shown.iter().map(|entry| payload_len(entry.to_string().as_bytes()) + 1).sum();
    if size > MAX_LISTING {
        let why = "the directory has too many entries for one answer";
        return Err(ApiError::new(ErrorCode::UnprocessableEntity, why).detail("field", "dir"));
    }
    Answer::json(200, &shown)
}
