//! `GET /v1/agents/{id}/files/{path}`

use super::{Sandboxes, authenticate, in_time, refuse, usable};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use theazo_http::{Answer, ApiError, Call, MAX_PAYLOAD_BYTES};
use theazo_store::Agents;

/// Most bytes in one call.
const MAX_PIECE: u64 = 4 * 1024 * 1024;
/// What an answer has around a text, bytes.
const ENVELOPE: usize = 1024;

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
    let piece =
        in_time(&scope, &agent, &agents, provider.read_file(&sandbox, &read.path, read.offset, read.length)).await;
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

/// Whether a text keeps about its length in JSON that is itself a string in JSON, as an answer of Lambda's is. Control
/// characters grow so much that they could not be answered.
fn is_plain(text: &str) -> bool {
    let growth = text.bytes().map(|byte| match byte {
        b'"' | b'\\' => 3,
        b'\n' | b'\r' | b'\t' => 2,
        _ => 0,
    });
    text.chars().all(|letter| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t'))
        && text.len() + growth.sum::<usize>() <= MAX_PAYLOAD_BYTES - ENVELOPE
}

fn parse(call: &Call) -> Result<Read, ApiError> {
    let request = call.request();
    let query = call.query()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_http::payload_len;

    #[test]
    fn every_piece_that_may_be_asked_for_fits_into_what_lambda_gives() {
        for (filler, share) in
            [("\"", 1), ("\\", 2), ("\n", 1), ("\n", 3), ("\t\"", 2), ("x", 1), ("\u{e9}\"", 4), ("\"", 5)]
        {
            let plain = "x".repeat(filler.len() * (share - 1));
            let unit = format!("{filler}{plain}");
            let text = unit.repeat(MAX_PIECE as usize / unit.len());
            let data = if is_plain(&text) { text } else { STANDARD.encode(text) };
            let answer = json!({ "data": data, "encoding": "base64", "size": u64::MAX }).to_string();
            assert!(payload_len(answer.as_bytes()) <= MAX_PAYLOAD_BYTES, "{filler:?} {share}");
        }
        assert!(is_plain(&"x".repeat(MAX_PIECE as usize)) && is_plain(&"lines of\n\"text\"\n".repeat(1000)));
        assert!(!is_plain("\u{1}") && !is_plain("\u{9b}"));
    }
}
