//! Fly's own description of its API, and whether calls and answers are as it says. `machines.json` has the operations and
//! schemas that matter here, word for word but for the prose.
//!
//! The description is of May 2026. What is newer, or only in Fly's guides, is listed here with where it is from.

use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

const DESCRIPTION: &str = include_str!("../machines.json");
/// Longest schema within schema that is followed.
const DEPTH: usize = 64;

/// Paths that only a guide has: <https://fly.io/docs/machines/guides-examples/network-policies/>.
const GUIDED: [&str; 2] = ["/apps/{app_name}/network_policies", "/apps/{app_name}/network_policies/{id}"];
/// Parameters that the description of September 2026 has, or the guide to apps (`force`).
const NEWER_PARAMETERS: [&str; 6] = ["force", "limit", "cursor", "metadata", "include_leases", "version"];
/// Fields that the description of September 2026 has, by schema; `app_name` is from the guide to apps.
const NEWER_FIELDS: [(&str, &str); 5] = [
    ("CreateAppRequest", "app_name"),
    ("CreateAppRequest", "idempotency_key"),
    ("ListAppsResponse", "next_cursor"),
    ("Machine", "version"),
    ("main.statusCode", ""),
];

/// A call with its answer, as far as the description says anything of it.
pub(crate) struct Exchange<'a> {
    pub(crate) method: &'a str,
    /// Without `/v1`.
    pub(crate) path: &'a str,
    pub(crate) query: &'a [(String, String)],
    pub(crate) request: Option<&'a Value>,
    pub(crate) status: u16,
    pub(crate) answer: Option<&'a Value>,
}

pub(crate) struct Described {
    document: Value,
    found: Mutex<BTreeSet<String>>,
}

impl Described {
    pub(crate) fn load() -> Self {
        // A description that cannot be read describes nothing, and every call is a violation of it.
        Self { document: serde_json::from_str(DESCRIPTION).unwrap_or_default(), found: Mutex::default() }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Holds a call and its answer against the description.
    pub(crate) fn check(&self, exchange: &Exchange<'_>) {
        let Exchange { method, path, .. } = exchange;
        for wrong in self.wrong(exchange) {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.insert(format!("{method} {path}: {wrong}"));
        }
    }

    fn wrong(&self, exchange: &Exchange<'_>) -> Vec<String> {
        let paths = self.document["paths"].as_object();
        let template = paths.into_iter().flatten().map(|(template, _)| template.as_str());
        let Some(template) = template.chain(GUIDED).find(|template| fits(template, exchange.path)) else {
            return if exchange.status == 404 { Vec::new() } else { vec!["no such path is described".into()] };
        };
        if GUIDED.contains(&template) {
            return Vec::new();
        }
        let operation = &self.document["paths"][template][exchange.method.to_ascii_lowercase()];
        if operation.is_null() {
            return vec!["no such operation is described".into()];
        }
        let mut wrong = Vec::new();
        let parameters: Vec<&str> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|known| known["name"].as_str())
            .collect();
        for (name, _) in exchange.query {
            if !parameters.contains(&name.as_str()) && !NEWER_PARAMETERS.contains(&name.as_str()) {
                wrong.push(format!("no parameter {name} is described"));
            }
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        match exchange.request {
            Some(request) if !schema.is_null() => self.compare(schema, request, "request", &mut wrong, DEPTH),
            Some(request) if request.as_object().is_none_or(|fields| !fields.is_empty()) => {
                wrong.push("no body is described".into());
            }
            None if operation["requestBody"]["required"] == true => wrong.push("a body is required".into()),
            _ => {}
        }
        let described = &operation["responses"][exchange.status.to_string()]["content"]["application/json"]["schema"];
        let refusal = serde_json::json!({ "$ref": "#/components/schemas/ErrorResponse" });
        match exchange.answer {
            Some(answer) if exchange.status >= 400 => self.compare(&refusal, answer, "answer", &mut wrong, DEPTH),
            Some(answer) if !described.is_null() => self.compare(described, answer, "answer", &mut wrong, DEPTH),
            None if !described.is_null() && exchange.status < 300 => wrong.push("an answer is described".into()),
            _ => {}
        }
        wrong
    }

    fn compare(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>, depth: usize) {
        if depth == 0 {
            return wrong.push(format!("{at}: too deep"));
        }
        let (mut schema, mut name) = (schema, "");
        while let Some(reference) = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str()) {
            name = reference.rsplit('/').next().unwrap_or_default();
            schema = &self.document["schemas"][name];
        }
        let fits = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            _ => true,
        };
        if !fits {
            return wrong.push(format!("{at}: {value} is no {}", schema["type"]));
        }
        let newer = |field: &str| NEWER_FIELDS.contains(&(name, field));
        if schema["enum"].as_array().is_some_and(|known| !known.contains(value)) && !newer("") {
            wrong.push(format!("{at}: {value} is not among {}", schema["enum"]));
        }
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if value.get(required).is_none() {
                wrong.push(format!("{at}: {required} is required"));
            }
        }
        for (field, value) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{field}");
            match (&schema["properties"][field], &schema["additionalProperties"]) {
                (Value::Null, Value::Object(_)) => {
                    self.compare(&schema["additionalProperties"], value, &at, wrong, depth - 1);
                }
                (Value::Null, _) if schema["properties"].is_null() || newer(field) => {}
                (Value::Null, _) => wrong.push(format!("{at}: no such field is described")),
                (known, _) => self.compare(known, value, &at, wrong, depth - 1),
            }
        }
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            self.compare(&schema["items"], value, &format!("{at}[{index}]"), wrong, depth - 1);
        }
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(&path).all(|(known, is)| known.starts_with('{') || known == is)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Write;

    fn violations(method: &str, path: &str, request: Value, status: u16, answer: Value) -> Vec<String> {
        let described = Described::load();
        let (request, answer) = (Some(&request), Some(&answer));
        described.check(&Exchange { method, path, query: &[], request, status, answer });
        described.violations()
    }

    #[test]
    fn what_fly_describes_passes_and_everything_else_is_named() {
        let create = |request| violations("POST", "/apps/a/machines", request, 200, json!({ "id": "x" }));
        let config = json!({ "image": "i", "services": [{ "ports": [{ "port": 1, "handlers": [] }] }] });
        assert_eq!(create(json!({ "config": config })), [""; 0]);
        assert_eq!(create(json!({ "config": { "image": 1 } })).len(), 1);
        assert_eq!(create(json!({ "config": { "image": "i", "cmd": ["x"] } })).len(), 1, "no such field");
        assert_eq!(create(json!({ "config": { "image": "i", "restart": { "policy": "never" } } })).len(), 1);
        assert_eq!(create(json!({ "config": { "image": "i", "env": { "A": 1 } } })).len(), 1);
        assert_eq!(violations("POST", "/apps/a/machines/m/fly", json!({}), 200, json!({})).len(), 1);
        assert_eq!(violations("PUT", "/apps/a/machines", json!({}), 200, json!({})).len(), 1);
        let refused = |answer| violations("GET", "/apps/a/machines/m", json!({}), 404, answer);
        assert_eq!(refused(json!({ "error": "machine not found" })), [""; 0]);
        assert_eq!(refused(json!({ "code": 404 })).len(), 1);
    }

    #[test]
    fn the_excerpt_says_what_the_whole_description_says() {
        // Fly's own document is not ours to hand on.
        let Some(path) = std::env::var_os("THEAZO_FLY_OPENAPI") else {
            let _ = writeln!(std::io::stderr(), "skipped: THEAZO_FLY_OPENAPI names no document of Fly's");
            return;
        };
        let whole: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let excerpt = Described::load().document;
        for (path, operations) in excerpt["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(is_within(operation, &whole["paths"][path][method]), "{method} {path}");
            }
        }
        for (name, schema) in excerpt["schemas"].as_object().unwrap() {
            assert!(is_within(schema, &whole["components"]["schemas"][name]), "{name}");
        }
    }

    fn is_within(part: &Value, whole: &Value) -> bool {
        match (part, whole) {
            (Value::Object(part), Value::Object(whole)) => {
                // What narrows a schema may not be left out.
                ["required", "enum", "type"].iter().all(|name| part.contains_key(*name) == whole.contains_key(*name))
                    && part.iter().all(|(name, value)| whole.get(name).is_some_and(|whole| is_within(value, whole)))
            }
            (Value::Array(part), Value::Array(whole)) => {
                part.len() == whole.len() && part.iter().zip(whole).all(|(part, whole)| is_within(part, whole))
            }
            _ => part == whole,
        }
    }
}
