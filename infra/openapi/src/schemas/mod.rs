//! What requests and answers hold.

mod agents;
mod platform;
mod reports;
mod sessions;

pub(crate) use agents::{computes, providers, statuses};
pub(crate) use reports::{LEVELS, METRICS};

use crate::shape::{about, answer, component, count, example, id, one_of, page, pattern, request_id, text, text_to};
use serde_json::{Value, json};
use theazo_http::ErrorCode;

/// Every schema that has a name.
pub(crate) fn all() -> Value {
    let mut schemas = json!({});
    let named = [common(), sessions::all(), agents::all(), platform::all(), reports::all()].concat();
    for (name, schema) in named {
        schemas[name] = schema;
    }
    schemas
}

/// A schema's own example.
pub(crate) fn shown(name: &str) -> Value {
    all()[name]["examples"][0].clone()
}

/// A page of a list of what has that name.
pub(crate) fn page_of(name: &str) -> Value {
    page(component(name), &shown(name))
}

fn common() -> Vec<(&'static str, Value)> {
    let codes: Vec<&str> = ErrorCode::ALL.into_iter().map(ErrorCode::as_str).collect();
    let details = about(
        json!({ "type": "object" }),
        "What exactly: `field` of a malformed request, `feature` of one that asks for what is not built, `limit`, `used` \
         and `max` of a limit that is reached, `retryAfter` in seconds.",
    );
    vec![
        (
            "Error",
            answer(&[
                (
                    "error",
                    answer(&[
                        ("code", one_of(&codes)),
                        ("message", text()),
                        ("details", details),
                        ("requestId", request_id()),
                    ]),
                ),
                ("requestId", request_id()),
            ]),
        ),
        (
            "Money",
            example(
                about(answer(&[("amount", cents()), ("currency", one_of(&["usd"]))]), "Whole cents, rounded half up."),
                json!({ "amount": 250, "currency": "usd" }),
            ),
        ),
        (
            "Metadata",
            example(
                json!({
                    "type": "object",
                    "maxProperties": 64,
                    "propertyNames": { "minLength": 1 },
                    "additionalProperties": text_to(1024),
                }),
                json!({ "plan": "pro" }),
            ),
        ),
    ]
}

/// Cents, which may be none.
fn cents() -> Value {
    about(count(), "Cents.")
}

/// The schema of a path's parameter.
pub(crate) fn path_parameter(path: &str, name: &str) -> Value {
    match name {
        "id" if path.starts_with("/v1/api-keys") => id("key"),
        "id" if path.starts_with("/v1/agents") => id("agt"),
        "id" => id("ses"),
        "userId" => about(
            text_to(512),
            "The platform's own name of its end user; any text of at most 512 bytes, percent-encoded.",
        ),
        "name" => pattern("^[A-Za-z_][A-Za-z0-9_]{0,127}$"),
        "provider" => one_of(&["docker", "e2b", "fly"]),
        "path" => {
            about(text(), "The file's path, with or without its first slash; further slashes may stand as they are.")
        }
        "token" => about(text(), "The agent's token. `THEAZO_ENDPOINT` in an agent's environment ends with it."),
        _ => text(),
    }
}

/// A parameter of a path, a query or a header as it might be.
pub(crate) fn shown_parameter(name: &str, schema: &Value) -> Value {
    match name {
        "userId" => json!("user_123"),
        "name" | "secret" => json!("HUBSPOT_API_KEY"),
        "path" => json!("data/notes.txt"),
        "dir" => json!("/data"),
        "token" => json!("th_agent_..."),
        "search" => json!("failed"),
        "cursor" => json!("a page's own cursor"),
        "limit" => json!(20),
        "offset" => json!(0),
        "length" => json!(1024),
        "interval" => json!("1h"),
        "details" | "inherited" => json!(true),
        "force" => json!(false),
        "since" | "createdAfter" => json!("2026-11-26T09:00:00.000Z"),
        "until" => json!("2026-11-26T10:00:00.000Z"),
        "Idempotency-Key" => json!("order-4711"),
        _ => match (schema["enum"].get(0), schema["pattern"].as_str()) {
            (Some(first), _) => first.clone(),
            (None, Some(pattern)) => {
                let prefix = pattern.trim_start_matches('^').split('_').next().unwrap_or_default();
                json!(format!("{prefix}_01jd9s6q0f3v8x2n4m5k7h9tbc"))
            }
            (None, None) => Value::Null,
        },
    }
}

/// When a code is given.
pub(crate) fn error_meaning(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidRequest => "The body, query, path or a header is malformed; `details.field` names what.",
        ErrorCode::Unauthorized => {
            "No good credential: none, malformed, unknown, revoked or expired, all with one answer."
        }
        ErrorCode::SessionLimitExceeded => "A limit of the session is reached; `details` says which.",
        ErrorCode::Forbidden => "Callers of this kind may not use this route, or not so.",
        ErrorCode::NotFound => "It is not there, or somebody else's: one answer for both.",
        ErrorCode::Conflict => "The state does not allow it.",
        ErrorCode::UnprocessableEntity => {
            "Well-formed but impossible, or a feature that is not built (`details.feature`)."
        }
        ErrorCode::RateLimited => "Too many requests.",
        ErrorCode::Internal => "Our fault.",
        ErrorCode::Provider => "The compute provider failed; `details.retryable` says whether trying again may help.",
        ErrorCode::NoProvidersAvailable => "No provider is configured, or none has room.",
        ErrorCode::Timeout => {
            "The code ran past its time limit and was ended; of other calls, the answer was not there in time, and what was asked for may have been done."
        }
    }
}

/// A message as it might be.
pub(crate) fn error_message(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidRequest => "timeout: must be a duration",
        ErrorCode::Unauthorized => "unauthorized",
        ErrorCode::SessionLimitExceeded => "maxAgents is reached",
        ErrorCode::Forbidden => "this credential may not call this route",
        ErrorCode::NotFound => "not found",
        ErrorCode::Conflict => "the agent is paused",
        ErrorCode::UnprocessableEntity => "browser is not available",
        ErrorCode::RateLimited => "too many requests",
        ErrorCode::Internal => "something went wrong on our side",
        ErrorCode::Provider => "the provider could not do it",
        ErrorCode::NoProvidersAvailable => "no provider is available",
        ErrorCode::Timeout => "the code ran past its time limit and was ended",
    }
}
