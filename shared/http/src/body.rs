//! Fields of a JSON body, each read with a rule and refused by name.

use crate::times::parse_duration_ms;
use crate::{ApiError, parse_time_ms};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A JSON object's fields. Unknown ones are ignored, as the contract says; `null` counts as absent.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn from_value(value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { path: String::new(), map }),
            _ => Err(ApiError::invalid("body", "must be a JSON object")),
        }
    }

    fn full_name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn wrong(&self, name: &str, rule: &str) -> ApiError {
        ApiError::invalid(&self.full_name(name), rule)
    }

    /// A field as it is.
    pub fn raw(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The names of the fields that are given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// Whether a field is given as `null`.
    pub fn is_null(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_null)
    }

    /// A text.
    ///
    /// # Errors
    /// `invalid_request` for another type, or for more than `max` bytes.
    pub fn text(&self, name: &str, max: usize) -> Result<Option<&str>, ApiError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= max => Ok(Some(text)),
            Some(Value::String(_)) => Err(self.wrong(name, &format!("must be at most {max} bytes"))),
            Some(_) => Err(self.wrong(name, "must be a string")),
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// As [`Fields::text`], and when it is absent.
    pub fn required_text(&self, name: &str, max: usize) -> Result<&str, ApiError> {
        self.text(name, max)?.ok_or_else(|| self.wrong(name, "is required"))
    }

    /// A yes or no.
    ///
    /// # Errors
    /// `invalid_request` for another type.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    /// A whole number from `min` to `max`.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        match value.as_u64().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, &format!("must be a whole number from {min} to {max}"))),
        }
    }

    /// A duration: `"90s"`, `"5m"`, `"24h"`, `"7d"`, or a number of milliseconds. Gives milliseconds.
    ///
    /// # Errors
    /// `invalid_request` for anything else, and outside `min_ms..=max_ms`.
    pub fn duration_ms(&self, name: &str, min_ms: i64, max_ms: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        let parsed = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => parse_duration_ms(text),
            _ => None,
        };
        let Some(ms) = parsed else {
            return Err(self.wrong(name, "must be a duration such as \"90s\", \"5m\", \"24h\", or milliseconds"));
        };
        if !(min_ms..=max_ms).contains(&ms) {
            return Err(self.wrong(name, &format!("must be from {min_ms} to {max_ms} milliseconds")));
        }
        Ok(Some(ms))
    }

    /// A time in ISO 8601, as Unix milliseconds.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub fn time_ms(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.text(name, 64)? {
            None => Ok(None),
            Some(text) => {
                parse_time_ms(text).map(Some).ok_or_else(|| self.wrong(name, "must be an ISO 8601 time in UTC"))
            }
        }
    }

    /// One of a few names.
    ///
    /// # Errors
    /// `invalid_request` for any other.
    pub fn one_of<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ApiError> {
        match self.text(name, 256)? {
            None => Ok(None),
            Some(text) => parse(text).map(Some).ok_or_else(|| self.wrong(name, "is unknown")),
        }
    }

    /// An object.
    ///
    /// # Errors
    /// `invalid_request` for another type.
    pub fn object(&self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { path: self.full_name(name), map: map.clone() })),
            Some(_) => Err(self.wrong(name, "must be an object")),
        }
    }

    /// An object of texts, such as metadata: at most `max_entries`, each at most 1 KiB.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub fn texts(&self, name: &str, max_entries: usize) -> Result<Option<BTreeMap<String, String>>, ApiError> {
        let Some(object) = self.object(name)? else { return Ok(None) };
        if object.map.len() > max_entries {
            return Err(self.wrong(name, &format!("must have at most {max_entries} entries")));
        }
        let mut texts = BTreeMap::new();
        for (key, value) in &object.map {
            match value {
                Value::String(text) if key.len() + text.len() <= 1024 => texts.insert(key.clone(), text.clone()),
                Value::String(_) => return Err(object.wrong(key, "must be at most 1 KiB with its name")),
                _ => return Err(object.wrong(key, "must be a string")),
            };
        }
        Ok(Some(texts))
    }

    /// A list of texts.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub fn text_list(&self, name: &str) -> Result<Option<Vec<&str>>, ApiError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                texts.map(Some).ok_or_else(|| self.wrong(name, "must be a list of strings"))
            }
            Some(_) => Err(self.wrong(name, "must be a list of strings")),
        }
    }

    /// Refuses fields that ask for something not built, by name. `false` asks for nothing.
    ///
    /// # Errors
    /// `unprocessable_entity` with the first such field.
    pub fn refuse_unbuilt(&self, names: &[&str]) -> Result<(), ApiError> {
        let asked = names.iter().find(|name| self.raw(name).is_some_and(|value| *value != Value::Bool(false)));
        asked.map_or(Ok(()), |name| Err(ApiError::not_built(&self.full_name(name))))
    }
}
