//! The API's own description, OpenAPI 3.1.
//!
//! Routes, their paths, their callers and what becomes of repeated requests are the route table's; error codes are the
//! error type's. Requests are read field by field, so that a wrong one is named; so what is taken and given is described
//! here, and held against the truth by the end-to-end tests: every answer that they get must be as described.

pub mod conform;
mod operation;
mod operations;
mod schemas;
pub mod shape;

use operation::Operation;
use serde_json::{Map, Value, json};
use theazo_functions::routes::{ROUTES, Route};
use theazo_http::{Caller, ErrorCode, Repeats};

/// The whole document.
pub fn document() -> Value {
    let mut paths = json!({});
    for route in ROUTES {
        let (path, parameters) = openapi_path(route);
        let method = route.info.method.to_lowercase();
        paths[path][method] = operation(route, parameters);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Theazo",
            "version": "1",
            "description": DESCRIPTION,
        },
        // Relative to where the document is: behind a stage of API Gateway that is not the root of its host.
        "servers": [{ "url": "../", "description": "Where this document is served." }],
        "tags": operations::TAGS
            .iter()
            .map(|(name, text)| json!({ "name": name, "description": text }))
            .collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "responses": error_responses(),
            "parameters": { "IdempotencyKey": {
                "name": "Idempotency-Key",
                "example": schemas::shown_parameter("Idempotency-Key", &Value::Null),
                "in": "header",
                "description": "Does the request once: the same key and body within 24 h are given the first answer again, \
                    the same key with another body is a `conflict`. A repeated answer never shows a key or token again.",
                "schema": { "type": "string", "pattern": "^[!-~]{1,255}$" },
            } },
            "headers": { "RequestId": {
                "description": "The request's id. Every error repeats it.",
                "schema": shape::request_id(),
            } },
            "securitySchemes": {
                "platformKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key of the platform, `th_live_...` or `th_test_...`. A test key runs the whole \
                        API against simulated agents.",
                },
                "sessionToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token for one end user's session, `th_sess_...`, minted by the platform.",
                },
                "sessionTokenInQuery": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "A session's token, for browsers, which cannot set headers on a stream of events.",
                },
            },
        },
    })
}

/// The document as it is checked in: indented, with a line feed at its end.
pub fn document_text() -> String {
    format!("{:#}\n", document())
}

const DESCRIPTION: &str = "A control plane for AI agents that other companies run for their end users. Bodies are JSON in \
    UTF-8; unknown fields of a request are ignored, wrong types are `invalid_request` with the field's name in `details.field`. \
    Times are ISO 8601 in UTC, money is in cents. No answer ever holds a secret's value.";

/// The path as OpenAPI writes it, and its parameters.
fn openapi_path(route: &Route) -> (String, Vec<Value>) {
    let mut parameters = Vec::new();
    let segments = route.info.pattern.0.split('/').map(|segment| {
        let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            return segment.to_owned();
        };
        let name = name.trim_end_matches('*');
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "schema": schemas::path_parameter(route.info.pattern.0, name),
        }));
        format!("{{{name}}}")
    });
    let path = segments.collect::<Vec<_>>().join("/");
    (path, parameters)
}

fn operation(route: &Route, path_parameters: Vec<Value>) -> Value {
    // A route without a description is found by a test.
    let said = operations::describe(route.info.name).unwrap_or_else(|| Operation::new("Account", ""));
    let mut parameters = path_parameters;
    parameters.extend(said.query.iter().cloned());
    parameters.extend(said.headers.iter().cloned());
    for parameter in &mut parameters {
        let name = parameter["name"].as_str().unwrap_or_default();
        parameter["example"] = schemas::shown_parameter(name, &parameter["schema"]);
    }
    if route.info.repeats == Repeats::Once {
        parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
    }
    let mut shown = json!({
        "operationId": route.info.name,
        "tags": [said.tag],
        "summary": said.summary,
        "security": security(route),
        "responses": responses(route, &said),
    });
    for (name, value) in [("description", Value::from(said.description)), ("parameters", parameters.into())] {
        if value != json!("") && value != json!([]) {
            shown[name] = value;
        }
    }
    if let Some((schema, required)) = said.body {
        shown["requestBody"] = json!({ "required": required, "content": { "application/json": { "schema": schema } } });
    }
    shown
}

fn security(route: &Route) -> Value {
    let mut ways = Vec::new();
    for caller in route.info.callers {
        match caller {
            Caller::Platform => ways.push(json!({ "platformKey": [] })),
            Caller::Session => ways.push(json!({ "sessionToken": [] })),
            // Its credential is a part of the path.
            Caller::Agent | Caller::Anyone => {}
        }
    }
    if route.info.streams && route.info.method == "GET" && route.info.callers.contains(&Caller::Session) {
        ways.push(json!({ "sessionTokenInQuery": [] }));
    }
    ways.into()
}

fn responses(route: &Route, said: &Operation) -> Value {
    let request_id = json!({ "x-request-id": { "$ref": "#/components/headers/RequestId" } });
    let mut shown = Map::new();
    for (status, given) in &said.answers {
        let mut answer = json!({ "description": describe_status(*status), "headers": request_id });
        if let Some(content) = given.content() {
            answer["content"] = content;
        }
        shown.insert(status.to_string(), answer);
    }
    for code in errors_of(route, said) {
        let answer = json!({ "$ref": format!("#/components/responses/{}", response_name(code)) });
        shown.insert(code.status().to_string(), answer);
    }
    shown.into()
}

/// The errors that a route can answer with.
fn errors_of(route: &Route, said: &Operation) -> Vec<ErrorCode> {
    // The gateway's own word for what it throttles and for what takes too long, whatever the route.
    let mut codes = vec![ErrorCode::Internal, ErrorCode::RateLimited, ErrorCode::Timeout];
    let is_public = route.info.callers.contains(&Caller::Anyone);
    if !is_public {
        codes.extend([ErrorCode::InvalidRequest, ErrorCode::Unauthorized, ErrorCode::Forbidden]);
    }
    if route.info.pattern.0.contains('{') {
        codes.push(ErrorCode::NotFound);
    }
    match route.info.repeats {
        Repeats::Once => codes.push(ErrorCode::Conflict),
        // What cannot be done once is refused under a key that asks for it.
        Repeats::Again => codes.push(ErrorCode::UnprocessableEntity),
        Repeats::Harmless => {}
    }
    codes.extend(&said.errors);
    codes
}

fn describe_status(status: u16) -> &'static str {
    match status {
        201 => "Made.",
        204 => "Done.",
        _ => "The answer.",
    }
}

fn response_name(code: ErrorCode) -> String {
    let words = code.as_str().split('_').map(|word| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + letters.as_str())
    });
    words.collect()
}

/// An answer for each error code.
fn error_responses() -> Value {
    let mut shown = json!({});
    for code in ErrorCode::ALL {
        let mut headers = json!({ "x-request-id": { "$ref": "#/components/headers/RequestId" } });
        if code == ErrorCode::RateLimited {
            headers["Retry-After"] = json!({ "description": "Seconds to wait.", "schema": { "type": "integer" } });
        }
        let request = "req_00000000000000000000000000";
        let body = json!({
            "error": { "code": code.as_str(), "message": schemas::error_message(code), "details": {}, "requestId": request },
            "requestId": request,
        });
        shown[response_name(code)] = json!({
            "description": schemas::error_meaning(code),
            "headers": headers,
            "content": { "application/json": { "schema": shape::component("Error"), "example": body } },
        });
    }
    shown
}

#[cfg(test)]
mod tests;
