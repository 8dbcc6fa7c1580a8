//! Fields of a JSON body, each read with a rule and refused by name.

use crate::times::parse_duration_ms;
use crate::{ApiError, parse_time_ms};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Most money in one field, cents: 10 million dollars.
pub const MAX_CENTS: u32 = 1_000_000_000;

/// A JSON object's fields. Unknown ones are ignored, as the contract says; `null` counts as absent. What they hold may be
/// nobody else's business, so it cannot be printed.
#[derive(Clone, Default)]
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

    /// The refusal of a field for breaking that rule.
    pub fn wrong(&self, name: &str, rule: &str) -> ApiError {
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

    /// Money: `{"amount": <whole cents>, "currency": "usd"}`, from `min` to `max` cents. The currency may be left out.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub fn cents(&self, name: &str, min: u32, max: u32) -> Result<Option<u32>, ApiError> {
        let Some(money) = self.object(name)? else { return Ok(None) };
        let currency = money.text("currency", 16)?;
        if currency.is_some_and(|currency| currency != "usd") {
            return Err(money.wrong("currency", "must be usd"));
        }
        let amount = money.number("amount", min.into(), max.into())?;
        let amount = amount.and_then(|amount| u32::try_from(amount).ok());
        amount.map(Some).ok_or_else(|| money.wrong("amount", "is required"))
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

    /// An object of texts, such as metadata: at most `max_entries`, each with a name and at most 1 KiB.
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
            if key.is_empty() {
                // The table has no place for it.
                return Err(self.wrong(name, "must not have an empty name"));
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::refused;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::from_value(value).unwrap()
    }

    #[test]
    fn only_an_object_has_fields() {
        for value in [json!([]), json!("x"), json!(5), json!(true), json!(null)] {
            assert_eq!(refused(Fields::from_value(value)), "body");
        }
    }

    #[test]
    fn a_field_that_is_absent_null_or_unknown_is_no_mistake() {
        for given in [fields(json!({ "other": [1] })), fields(json!({ "f": null }))] {
            assert_eq!(given.text("f", 1).unwrap(), None);
            assert_eq!(given.flag("f").unwrap(), None);
            assert_eq!(given.number("f", 0, 1).unwrap(), None);
            assert_eq!(given.duration_ms("f", 0, 1).unwrap(), None);
            assert_eq!(given.time_ms("f").unwrap(), None);
            assert_eq!(given.one_of("f", |_| Some(1)).unwrap(), None);
            assert!(given.object("f").unwrap().is_none());
            assert_eq!(given.texts("f", 1).unwrap(), None);
            assert_eq!(given.text_list("f").unwrap(), None);
            assert!(given.refuse_unbuilt(&["f"]).is_ok());
            assert_eq!(refused(given.required_text("f", 1)), "f");
        }
        assert!(fields(json!({ "f": null })).is_null("f") && !fields(json!({})).is_null("f"));
    }

    #[test]
    fn another_type_is_refused_by_name_at_any_depth() {
        let wrong = [json!(1.5), json!([1]), json!({ "x": 1 }), json!("\u{0}?"), json!(true)];
        for (index, value) in wrong.into_iter().enumerate() {
            let outer = fields(json!({ "a": { "b": { "f": value } } }));
            let given = outer.object("a").unwrap().unwrap().object("b").unwrap().unwrap();
            let mut refusals = vec![
                refused(given.number("f", 0, 9)),
                refused(given.duration_ms("f", 0, 9)),
                refused(given.time_ms("f")),
                refused(given.one_of("f", |_| None::<u8>)),
            ];
            refusals.extend((index != 3).then(|| refused(given.text("f", 9))));
            refusals.extend((index != 4).then(|| refused(given.flag("f"))));
            refusals.extend((index != 2).then(|| refused(given.object("f"))));
            refusals.push(refused(given.text_list("f")));
            assert!(refusals.iter().all(|field| field == "a.b.f"), "{refusals:?}");
        }
    }

    #[test]
    fn bounds_are_inclusive_and_texts_are_measured_in_bytes() {
        let given = fields(json!({ "n": 5, "t": "\u{fc}\u{fc}", "d": "5s" }));
        assert_eq!(given.number("n", 5, 5).unwrap(), Some(5));
        assert_eq!(refused(given.number("n", 6, 9)), "n");
        assert_eq!(refused(given.number("n", 0, 4)), "n");
        assert_eq!(given.text("t", 4).unwrap(), Some("\u{fc}\u{fc}"));
        assert_eq!(refused(given.text("t", 3)), "t");
        assert_eq!(given.duration_ms("d", 5_000, 5_000).unwrap(), Some(5_000));
        assert_eq!(refused(given.duration_ms("d", 5_001, 9_000)), "d");
        assert_eq!(refused(given.duration_ms("d", 0, 4_999)), "d");
        for number in [json!(-1), json!(u64::MAX), json!(1e300), json!("5")] {
            assert_eq!(refused(fields(json!({ "n": number })).number("n", 0, 100)), "n");
        }
    }

    #[test]
    fn durations_are_texts_with_a_unit_or_milliseconds() {
        for (value, ms) in
            [(json!("90s"), 90_000), (json!("5m"), 300_000), (json!(250), 250), (json!("7d"), 604_800_000)]
        {
            assert_eq!(fields(json!({ "d": value })).duration_ms("d", 0, i64::MAX).unwrap(), Some(ms));
        }
        for value in [json!("5 m"), json!(""), json!("-5m"), json!(-5), json!(1.5), json!(u64::MAX), json!("1e3")] {
            assert_eq!(refused(fields(json!({ "d": value })).duration_ms("d", 0, i64::MAX)), "d");
        }
    }

    #[test]
    fn money_is_whole_cents_in_the_one_currency_there_is() {
        let money = |value: Value| fields(json!({ "m": value })).cents("m", 1, 500);
        assert_eq!(money(json!({ "amount": 500, "currency": "usd" })).unwrap(), Some(500));
        assert_eq!(money(json!({ "amount": 1 })).unwrap(), Some(1));
        assert_eq!(money(json!(null)).unwrap(), None);
        for (value, field) in [
            (json!({ "amount": 501 }), "m.amount"),
            (json!({ "amount": 0 }), "m.amount"),
            (json!({ "amount": -1 }), "m.amount"),
            (json!({ "amount": 1.5 }), "m.amount"),
            (json!({ "amount": "5" }), "m.amount"),
            (json!({}), "m.amount"),
            (json!({ "amount": 5, "currency": "eur" }), "m.currency"),
            (json!({ "amount": 5, "currency": 1 }), "m.currency"),
            (json!(5), "m"),
        ] {
            assert_eq!(refused(money(value)), field);
        }
    }

    #[test]
    fn metadata_is_texts_of_bounded_number_and_size() {
        let full = "x".repeat(1023);
        let given = fields(json!({ "m": { "k": full, "l": "" } }));
        assert_eq!(given.texts("m", 2).unwrap().unwrap()["k"], full);
        assert_eq!(refused(given.texts("m", 1)), "m");
        assert_eq!(refused(fields(json!({ "m": { "": "v" } })).texts("m", 2)), "m");
        assert_eq!(refused(fields(json!({ "m": { "k": "x".repeat(1024) } })).texts("m", 2)), "m.k");
        for value in [json!(1), json!(null), json!({}), json!([]), json!(true)] {
            assert_eq!(refused(fields(json!({ "m": { "k": value } })).texts("m", 2)), "m.k");
        }
    }

    #[test]
    fn a_list_of_texts_has_nothing_else_in_it() {
        assert_eq!(fields(json!({ "l": [] })).text_list("l").unwrap(), Some(vec![]));
        assert_eq!(fields(json!({ "l": ["a", ""] })).text_list("l").unwrap(), Some(vec!["a", ""]));
        for value in [json!(["a", 1]), json!([null]), json!("a"), json!({ "0": "a" })] {
            assert_eq!(refused(fields(json!({ "l": value })).text_list("l")), "l");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_by_its_full_name_unless_it_is_declined() {
        let outer = fields(json!({ "a": { "f": false, "g": null, "h": 0 } }));
        let given = outer.object("a").unwrap().unwrap();
        assert!(given.refuse_unbuilt(&["f", "g", "absent"]).is_ok());
        let error = given.refuse_unbuilt(&["f", "h"]).err().unwrap();
        assert_eq!((error.code().status(), &error.details()["feature"]), (422, &json!("a.h")));
        for asked in [json!(true), json!([]), json!({}), json!("")] {
            assert!(fields(json!({ "f": asked })).refuse_unbuilt(&["f"]).is_err());
        }
    }
}
