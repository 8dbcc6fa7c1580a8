//! `POST /v1/agents/{id}/files`

use super::{Sandboxes, authenticate, in_time, refuse, usable};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use theazo_http::{Answer, ApiError, Call};
use theazo_providers::WriteAt;
use theazo_store::Agents;

/// Most bytes in one call.
const MAX_PIECE: usize = 4 * 1024 * 1024;
const MAX_PATH: usize = 4096;
/// Largest offset: no file of a sandbox is larger.
const MAX_OFFSET: u64 = 1 << 40;

struct Write {
    path: String,
    at: Option<WriteAt>,
    data: Bytes,
}

/// Writes a file or a piece of one; parents are made.
pub async fn handle(call: Call, agents: Agents, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let (principal, agent, write) = authenticate(&call, &agents, || parse(&call)).await?;
    let scope = principal.scope();
    let (provider, sandbox) = usable(&principal, &agent, &sandboxes).await?;
    let written =
        in_time(&scope, &agent, &agents, provider.write_file(&sandbox, &write.path, write.at, write.data)).await;
    match written {
        Ok(()) => Ok(Answer::no_content()),
        Err(error) => Err(refuse("path", error, &principal, &agent, &agents, &sandboxes).await),
    }
}

fn parse(call: &Call) -> Result<Write, ApiError> {
    let fields = call.request().fields(false)?;
    let path = fields.required_text("path", MAX_PATH)?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let text = fields.required_text("data", MAX_PIECE * 4 / 3 + 4)?;
    let data: Bytes = match fields.text("encoding", 16)?.unwrap_or("utf-8") {
        "utf-8" => Bytes::copy_from_slice(text.as_bytes()),
        "base64" => STANDARD.decode(text).map_err(|_| ApiError::invalid("data", "must be base64"))?.into(),
        _ => return Err(ApiError::invalid("encoding", "must be utf-8 or base64")),
    };
    if data.len() > MAX_PIECE {
        return Err(ApiError::invalid("data", "must be at most 4 MiB; write more by offset or append"));
    }
    let offset = fields.number("offset", 0, MAX_OFFSET)?;
    let at = match (offset, fields.flag("append")?.unwrap_or(false)) {
        (Some(_), true) => return Err(ApiError::invalid("append", "cannot be combined with offset")),
        (Some(offset), false) => Some(WriteAt::Offset(offset)),
        (None, true) => Some(WriteAt::End),
        (None, false) => None,
    };
    Ok(Write { path, at, data })
}
