//! Small builders of JSON Schema (2020-12, which OpenAPI 3.1 uses), so that a description reads like the JSON it is of.

use serde_json::{Value, json};

/// What identifiers are made of after their prefix: 26 characters of Crockford's base 32 in lower case.
const ID: &str = "[0-9a-hjkmnp-tv-z]{26}";

/// An object as the API gives it: exactly these fields. One whose name ends with `?` may be absent.
pub fn answer(fields: &[(&str, Value)]) -> Value {
    let mut schema = object(fields, |schema| schema);
    schema["additionalProperties"] = false.into();
    schema
}

/// An object as the API takes it: others than these fields are ignored, and `null` is as good as absent where the name
/// ends with `?`.
pub fn request(fields: &[(&str, Value)]) -> Value {
    object(fields, nullable)
}

fn object(fields: &[(&str, Value)], optional: impl Fn(Value) -> Value) -> Value {
    let mut properties = json!({});
    let mut required = Vec::new();
    for (name, schema) in fields {
        match name.strip_suffix('?') {
            Some(name) => properties[name] = optional(schema.clone()),
            None => {
                properties[*name] = schema.clone();
                required.push(*name);
            }
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// The component of that name.
pub fn component(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The same or `null`.
pub fn nullable(schema: Value) -> Value {
    if schema == json!({}) {
        return schema;
    }
    match schema.get("type").and_then(Value::as_str) {
        Some(kind) if schema.get("enum").is_none() => {
            let kinds = json!([kind, "null"]);
            let mut schema = schema;
            schema["type"] = kinds;
            schema
        }
        _ => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

/// With a sentence about it.
pub fn about(schema: Value, text: &str) -> Value {
    let mut schema = schema;
    schema["description"] = text.into();
    schema
}

/// With an example of it.
pub fn example(schema: Value, example: Value) -> Value {
    examples(schema, &[example])
}

/// With an example for each form that it takes.
pub fn examples(schema: Value, examples: &[Value]) -> Value {
    let mut schema = schema;
    schema["examples"] = examples.into();
    schema
}

/// Any text.
pub fn text() -> Value {
    json!({ "type": "string" })
}

/// A text of at most so many bytes. JSON Schema counts characters, of which it then has no more.
pub fn text_to(max: usize) -> Value {
    json!({ "type": "string", "maxLength": max })
}

/// A text of that form.
pub fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

/// An identifier with that prefix.
pub fn id(prefix: &str) -> Value {
    pattern(&format!("^{prefix}_{ID}$"))
}

/// The id of a request. What the gateway answers by itself has its own.
pub fn request_id() -> Value {
    let of_gateway = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
    let told = "Of what the gateway refuses by itself, the gateway's own.";
    about(pattern(&format!("^(req_{ID}|{of_gateway})$")), told)
}

/// One of these texts.
pub fn one_of(names: &[&str]) -> Value {
    json!({ "type": "string", "enum": names })
}

/// A moment.
pub fn time() -> Value {
    about(json!({ "type": "string", "format": "date-time" }), "ISO 8601, UTC, with milliseconds")
}

/// A day.
pub fn date() -> Value {
    json!({ "type": "string", "format": "date" })
}

/// A whole number that is not negative.
pub fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// A whole number between two.
pub fn between(min: u64, max: u64) -> Value {
    json!({ "type": "integer", "minimum": min, "maximum": max })
}

/// Any number that is not negative.
pub fn amount() -> Value {
    json!({ "type": "number", "minimum": 0 })
}

/// True or false.
pub fn flag() -> Value {
    json!({ "type": "boolean" })
}

/// A list.
pub fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// Texts by name.
pub fn texts() -> Value {
    json!({ "type": "object", "additionalProperties": text() })
}

/// Any JSON.
pub fn anything() -> Value {
    json!({})
}

/// A span of time, as requests give it.
pub fn duration(default: &str, longest: &str) -> Value {
    json!({
        "type": ["string", "integer"],
        "description": format!(
            "Like `90s`, `5m`, `24h` or `7d`; a bare number is milliseconds. {default} unless given, at most {longest}."
        ),
        "examples": ["5m"],
    })
}

/// A page of a list, with an item as it might be.
pub fn page(items: Value, item: &Value) -> Value {
    let schema = answer(&[
        ("data", list(items)),
        ("hasMore", flag()),
        (
            "cursor?",
            about(text(), "Where the next page begins, if there is one. Opaque; good for the same filters only."),
        ),
    ]);
    example(schema, json!({ "data": [item], "hasMore": false }))
}
