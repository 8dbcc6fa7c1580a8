//! `GET /v1/agents/{id}/files/{path}`

use super::{Sandboxes, authenticate, noted, refuse, usable};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::time::Duration;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::Agents;

/// Most bytes in one call.
const MAX_PIECE: u64 = 4 * 1024 * 1024;

struct Read {
    path: String,
    offset: u64,
    length: u64,
    base64: bool,
}

/// Reads a file or a piece of one. Text comes as text where it can; `?encoding=base64` asks for bytes.
pub async fn handle(call: Call, agents: Agents, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let (principal, agent, read) = authenticate(&call, &agents, || parse(&call)).await?;
    let scope = principal.scope();
    let (provider, sandbox) = usable(&principal, &agent, &sandboxes).await?;
    let piece = noted(
        &scope,
        &agent,
        &agents,
        Duration::ZERO,
        provider.read_file(&sandbox, &read.path, read.offset, read.length),
    )
    .await;
    let piece = match piece {
        Ok(piece) => piece,
        Err(error) => return Err(refuse("path", error, &principal, &agent, &agents, &sandboxes).await),
    };
    let text = std::str::from_utf8(&piece.data).ok().filter(|text| !read.base64 && is_plain(text));
    let (data, encoding) = match text {
        Some(text) => (text.to_owned(), "utf-8"),
        None => (STANDARD.encode(&piece.data), "base64"),
    };
    Answer::json(200, &json!({ "data": data, "encoding": encoding, "size": piece.size }))
}

/// Whether a text keeps about its length in JSON. Control characters grow sixfold and could not be answered.
fn is_plain(text: &str) -> bool {
    text.chars().all(|letter| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t'))
        && text.len() + text.matches(['"', '\\', '\n', '\r', '\t']).count() <= 5_500_000
}

fn parse(call: &Call) -> Result<Read, ApiError> {
    let request = call.request();
    let query = request.query()?;
    let path = request.param("path")?;
    // Clients drop the leading slash when they put a path behind the route's own.
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let length = match query.number("length")? {
        None => MAX_PIECE,
        Some(length @ 0..=MAX_PIECE) => length,
        Some(_) => return Err(ApiError::invalid("length", "must be at most 4 MiB")),
    };
    let base64 = match query.get("encoding") {
        None | Some("utf-8") => false,
        Some("base64") => true,
        Some(_) => return Err(ApiError::invalid("encoding", "must be utf-8 or base64")),
    };
    Ok(Read { path, offset: query.number("offset")?.unwrap_or(0), length, base64 })
}
