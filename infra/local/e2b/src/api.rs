//! The management API.

use crate::error::Refusal;
use crate::sandboxes::{NewSandbox, Sandboxes};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

/// A call, with everything that decides about it.
pub(crate) struct ApiCall<'a> {
    pub(crate) method: &'a str,
    /// Still encoded.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

/// An answer: status, body if any, further headers.
pub(crate) struct ApiAnswer {
    pub(crate) status: u16,
    pub(crate) content: Option<Value>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl ApiAnswer {
    fn of(status: u16, content: Value) -> Self {
        Self { status, content: Some(content), headers: Vec::new() }
    }

    fn none() -> Self {
        Self { status: 204, content: None, headers: Vec::new() }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Asked {
    timeout: Option<i64>,
    memory: Option<bool>,
    name: Option<String>,
}

pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The pairs of a query.
pub(crate) fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Answers a call.
pub(crate) fn answer(sandboxes: &Sandboxes, call: &ApiCall<'_>) -> Result<ApiAnswer, Refusal> {
    let segments: Vec<String> = call.path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let query = pairs(call.query);
    let parameter = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let asked = || -> Result<Asked, Refusal> {
        if call.body.is_empty() {
            return Ok(Asked::default());
        }
        serde_json::from_slice(call.body).map_err(|error| Refusal::new(400, format!("Error parsing body: {error}")))
    };
    match (call.method, segments.as_slice()) {
        ("GET", ["health"]) => Ok(ApiAnswer::of(200, json!({}))),
        ("POST", ["v2", "sandboxes"]) => {
            let new: NewSandbox = serde_json::from_slice(call.body)
                .map_err(|error| Refusal::new(400, format!("Error parsing body: {error}")))?;
            let made = sandboxes.create(new, call.idempotency_key, call.body)?;
            Ok(ApiAnswer::of(201, made))
        }
        ("GET", ["v2", "sandboxes"]) => {
            let states = parameter("state").unwrap_or("running,paused");
            let states: Vec<&str> = states.split(',').collect();
            // Encoded as pairs are, and every name and value once more before that.
            let metadata = pairs(parameter("metadata").unwrap_or_default());
            let metadata: Vec<_> = metadata.iter().map(|(name, value)| (decode(name), decode(value))).collect();
            let mut found = sandboxes.list(&states, &metadata);
            if parameter("order") == Some("desc") {
                found.reverse();
            }
            let running = found.iter().filter(|shown| shown["state"] == "running").count();
            let mut answer = page(found, parameter("limit"), parameter("nextToken"), sandboxes.page_cap())?;
            answer.headers.push(("x-total-running", running.to_string()));
            Ok(answer)
        }
        ("GET", ["sandboxes", id]) => Ok(ApiAnswer::of(200, sandboxes.get(id)?)),
        ("DELETE", ["sandboxes", id]) => sandboxes.kill(id).map(|()| ApiAnswer::none()),
        ("POST", ["sandboxes", id, "timeout"]) => {
            let seconds = asked()?.timeout.ok_or_else(|| Refusal::new(400, "timeout is required"))?;
            sandboxes.set_timeout(id, seconds).map(|()| ApiAnswer::none())
        }
        ("POST", ["sandboxes", id, "pause"]) => {
            sandboxes.pause(id, asked()?.memory.unwrap_or(true)).map(|()| ApiAnswer::none())
        }
        ("POST", ["v2", "sandboxes", id, "connect"]) => {
            let asked = asked()?;
            let (shown, resumed) = sandboxes.connect(id, asked.timeout.unwrap_or(300), asked.memory.unwrap_or(true))?;
            Ok(ApiAnswer::of(if resumed { 201 } else { 200 }, shown))
        }
        ("POST", ["sandboxes", id, "snapshots"]) => {
            let asked = asked()?;
            let made = sandboxes.snapshot(id, asked.name.as_deref(), asked.memory.unwrap_or(true))?;
            Ok(ApiAnswer::of(201, made))
        }
        ("GET", ["snapshots"]) => {
            let shown = sandboxes.snapshots(parameter("sandboxID"), parameter("name"));
            page(shown, parameter("limit"), parameter("nextToken"), sandboxes.page_cap())
        }
        ("DELETE", ["templates", id]) => sandboxes.delete_snapshot(id).map(|()| ApiAnswer::none()),
        _ => Err(Refusal::new(404, "no matching operation was found")),
    }
}

fn page(mut all: Vec<Value>, limit: Option<&str>, token: Option<&str>, cap: usize) -> Result<ApiAnswer, Refusal> {
    let number = |text: Option<&str>, otherwise| text.map_or(Ok(otherwise), str::parse);
    let limit: usize = number(limit, 100).map_err(|_| Refusal::new(400, "limit is not a number"))?;
    let first: usize = number(token, 0).map_err(|_| Refusal::new(400, "Invalid next token"))?;
    if !(1..=100).contains(&limit) {
        return Err(Refusal::new(400, "limit must be from 1 to 100"));
    }
    let limit = limit.min(cap);
    let more = first + limit < all.len();
    all = all.into_iter().skip(first).take(limit).collect();
    let mut answer = ApiAnswer::of(200, all.into());
    if more {
        answer.headers.push(("x-next-token", (first + limit).to_string()));
    }
    Ok(answer)
}
