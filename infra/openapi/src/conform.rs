//! Whether JSON is as a schema of the document says, for tests. It knows the keywords that the document uses and refuses
//! any other, so that none is silently not checked. (`format` and what is only for readers it passes over.)

use regex_lite::Regex;
use serde_json::{Map, Value};

/// What is wrong with a value, each with its place; nothing if it is as described.
///
/// # Panics
/// When the schema itself is not one of this document's.
pub fn violations(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    Checker { document, names_all: false }.violations(schema, value)
}

/// Likewise, and what the schema does not name is wrong too, where it would be ignored.
///
/// # Panics
/// When the schema itself is not one of this document's.
pub fn violations_or_unnamed(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    Checker { document, names_all: true }.violations(schema, value)
}

struct Checker<'a> {
    document: &'a Value,
    /// Whether an object has just the fields that are named, unless something is said of others.
    names_all: bool,
}

impl Checker<'_> {
    fn violations(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.check(schema, value, "", &mut found);
        found
    }

    fn check(&self, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
        let Value::Object(keywords) = schema else { panic!("{place}: {schema} is no schema") };
        for (keyword, rule) in keywords {
            let fits = match keyword.as_str() {
                "description" | "examples" | "format" | "writeOnly" => true,
                "$ref" => {
                    let target = rule.as_str().and_then(|target| self.document.pointer(target.trim_start_matches('#')));
                    self.check(target.unwrap_or_else(|| panic!("{rule} is not there")), value, place, found);
                    true
                }
                "type" => match rule {
                    Value::Array(kinds) => kinds.iter().any(|kind| is_a(kind, value)),
                    kind => is_a(kind, value),
                },
                "enum" => list(rule).contains(value),
                "anyOf" => self.matching(rule, value) > 0,
                "oneOf" => self.matching(rule, value) == 1,
                "pattern" => value.as_str().is_none_or(|text| is_match(rule, text)),
                "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 <= number(rule)),
                "minLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 >= number(rule)),
                "minimum" => value.as_f64().is_none_or(|given| given >= number(rule)),
                "maximum" => value.as_f64().is_none_or(|given| given <= number(rule)),
                "minItems" => value.as_array().is_none_or(|items| items.len() as f64 >= number(rule)),
                "maxItems" => value.as_array().is_none_or(|items| items.len() as f64 <= number(rule)),
                "minProperties" => value.as_object().is_none_or(|fields| fields.len() as f64 >= number(rule)),
                "maxProperties" => value.as_object().is_none_or(|fields| fields.len() as f64 <= number(rule)),
                "required" => value.as_object().is_none_or(|fields| {
                    list(rule).iter().all(|name| name.as_str().is_some_and(|name| fields.contains_key(name)))
                }),
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{place}/{index}"), found);
                    }
                    true
                }
                "properties" => {
                    for (name, schema) in object(rule) {
                        if let Some(field) = value.get(name) {
                            self.check(schema, field, &format!("{place}/{name}"), found);
                        }
                    }
                    let is_open = self.names_all && !keywords.contains_key("additionalProperties");
                    for name in value.as_object().into_iter().flat_map(Map::keys).filter(|_| is_open) {
                        if !object(rule).contains_key(name) {
                            found.push(format!("{place}/{name}: is not described"));
                        }
                    }
                    true
                }
                "propertyNames" => {
                    for name in value.as_object().into_iter().flat_map(Map::keys) {
                        self.check(rule, &name.as_str().into(), &format!("{place}/{name}"), found);
                    }
                    true
                }
                "additionalProperties" => {
                    let known = keywords.get("properties").map(object);
                    let others = value.as_object().into_iter().flatten();
                    for (name, field) in others.filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name)))
                    {
                        match rule {
                            Value::Bool(false) => found.push(format!("{place}/{name}: is not described")),
                            schema => self.check(schema, field, &format!("{place}/{name}"), found),
                        }
                    }
                    true
                }
                other => panic!("{place}: the keyword {other} is not known here"),
            };
            if !fits {
                found.push(format!("{place}: {value} is not as {keyword} says: {rule}"));
            }
        }
    }

    fn matching(&self, schemas: &Value, value: &Value) -> usize {
        list(schemas).iter().filter(|schema| self.violations(schema, value).is_empty()).count()
    }
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => panic!("{kind} is no type"),
    }
}

fn is_match(pattern: &Value, text: &str) -> bool {
    let pattern = pattern.as_str().and_then(|pattern| Regex::new(pattern).ok());
    pattern.unwrap_or_else(|| panic!("a pattern cannot be read")).is_match(text)
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}
