//! The body of a set: `{name: value, ...}`, a value being a text or `{"value", "expiresAt"?, "mask"?, "inherit"?}`.
//!
//! It is read by a visitor of our own, for two reasons: values go straight into the type that wipes them, and the
//! parser's own error messages, which quote what they did not like, are never built.

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use theazo_http::{ApiError, ErrorCode, parse_time_ms};
use theazo_store::{MAX_NAMES_PER_CALL, MAX_VALUE_BYTES, NewSecret, SecretName, now_ms};
use theazo_vault::SecretValue;

/// Whose secrets are set; only a platform's can be kept from being inherited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyKind {
    Session,
    Platform,
}

/// Reads and checks a whole body. A bad entry refuses all of it and is named; its value never is.
pub(super) fn parse(body: &[u8], kind: BodyKind) -> Result<Vec<NewSecret>, ApiError> {
    let Ok(Given::Object(entries)) = serde_json::from_slice(body) else {
        return Err(ApiError::invalid("body", "must be a JSON object of names and values in UTF-8"));
    };
    if entries.is_empty() || entries.len() > MAX_NAMES_PER_CALL {
        return Err(ApiError::invalid("body", "must name 1 to 90 secrets"));
    }
    let mut seen = HashSet::new();
    let mut secrets = Vec::with_capacity(entries.len());
    for (name, given) in entries {
        let shown: String = name.chars().take(128).collect();
        let secret = check(&name, &shown, given, kind)?;
        if !seen.insert(secret.name.canonical().to_owned()) {
            return Err(ApiError::invalid(&shown, "is given twice (names do not differ by case)"));
        }
        secrets.push(secret);
    }
    Ok(secrets)
}

fn check(name: &str, shown: &str, given: Given, kind: BodyKind) -> Result<NewSecret, ApiError> {
    let wrong = |rule: &str| ApiError::invalid(shown, rule);
    let name = SecretName::parse(name).map_err(|error| {
        ApiError::new(ErrorCode::UnprocessableEntity, format!("{shown}: {error}")).detail("field", shown)
    })?;
    let fields = match given {
        Given::Object(fields) => fields,
        Given::Text(_) => vec![("value".to_owned(), given)],
        _ => return Err(wrong("must be a string or an object with a value")),
    };
    let (mut value, mut expires_at_ms, mut mask, mut inherit) = (None, None, true, true);
    for (field, given) in fields {
        match (field.as_str(), given) {
            (_, Given::Null) => {}
            ("value", Given::Text(text)) => value = Some(text),
            ("value", _) => return Err(wrong("value must be a string")),
            ("expiresAt", Given::Text(text)) => {
                let at = std::str::from_utf8(text.expose()).ok().and_then(parse_time_ms);
                let at = at.ok_or_else(|| wrong("expiresAt must be an ISO 8601 time"))?;
                if at <= now_ms() {
                    return Err(wrong("expiresAt must be in the future"));
                }
                expires_at_ms = Some(at);
            }
            ("expiresAt", _) => return Err(wrong("expiresAt must be an ISO 8601 time")),
            ("mask", Given::Flag(flag)) => mask = flag,
            ("mask", _) => return Err(wrong("mask must be true or false")),
            ("inherit", _) if kind == BodyKind::Session => return Err(wrong("inherit is for platform secrets")),
            ("inherit", Given::Flag(flag)) => inherit = flag,
            ("inherit", _) => return Err(wrong("inherit must be true or false")),
            _ => {}
        }
    }
    let value: SecretValue = value.ok_or_else(|| wrong("value is required"))?;
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return Err(wrong("must have 1 byte to 32 KiB"));
    }
    if value.expose().contains(&0) {
        return Err(wrong("must not have a NUL character"));
    }
    Ok(NewSecret { name, value, expires_at_ms, mask, inherit })
}

/// JSON whose texts are wiped when dropped. What no rule can use is not kept.
enum Given {
    Text(SecretValue),
    Flag(bool),
    Object(Vec<(String, Given)>),
    Null,
    Other,
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GivenVisitor)
    }
}

struct GivenVisitor;

impl<'de> Visitor<'de> for GivenVisitor {
    type Value = Given;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Given, E> {
        Ok(Given::Text(SecretValue::from_bytes(text.as_bytes().to_vec())))
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Given, E> {
        Ok(Given::Flag(flag))
    }

    fn visit_unit<E: Error>(self) -> Result<Given, E> {
        Ok(Given::Null)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Given, E> {
        Ok(Given::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Given, E> {
        Ok(Given::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Given, E> {
        Ok(Given::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Given, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Given::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Given::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str, kind: BodyKind) -> (u16, String) {
        let error = parse(body.as_bytes(), kind).err().unwrap_or_else(|| panic!("{body} was accepted"));
        assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
        (error.code().status(), format!("{error:?}"))
    }

    #[test]
    fn texts_and_objects_are_values() {
        let body =
            r#"{"a_key": "one", "B": {"value": "two", "mask": false, "expiresAt": "2999-01-01T00:00:00Z", "x": 1}}"#;
        let secrets = parse(body.as_bytes(), BodyKind::Session).unwrap();
        assert_eq!(secrets[0].name.display(), "a_key");
        assert_eq!((secrets[0].value.expose(), secrets[0].mask), (b"one".as_slice(), true));
        assert_eq!((secrets[1].value.expose(), secrets[1].mask), (b"two".as_slice(), false));
        assert!(secrets[1].expires_at_ms.is_some());
    }

    #[test]
    fn a_bad_entry_refuses_the_whole_call_and_is_named_without_its_value() {
        for (body, status, named) in [
            ("", 400, "body"),
            ("[]", 400, "body"),
            ("\"s3cr3t\"", 400, "body"),
            ("{}", 400, "body"),
            (r#"{"A": "s3cr3t""#, 400, "body"),
            (r#"{"A": "s3cr3t"} x"#, 400, "body"),
            (r#"{"A": 5}"#, 400, "A"),
            (r#"{"A": null}"#, 400, "A"),
            (r#"{"A": ["s3cr3t"]}"#, 400, "A"),
            (r#"{"A": {"value": true}}"#, 400, "A"),
            (r#"{"A": {"mask": false}}"#, 400, "A"),
            (r#"{"A": {"value": "s3cr3t", "mask": "no"}}"#, 400, "A"),
            (r#"{"A": {"value": "s3cr3t", "expiresAt": "soon"}}"#, 400, "A"),
            (r#"{"A": {"value": "s3cr3t", "expiresAt": "2001-01-01T00:00:00Z"}}"#, 400, "A"),
            (r#"{"A": {"value": "s3cr3t", "inherit": false}}"#, 400, "A"),
            (r#"{"A": ""}"#, 400, "A"),
            (r#"{"A": "s3cr3t\u0000"}"#, 400, "A"),
            (r#"{"ok": "x", "Ab": "s3cr3t", "aB": "s3cr3t"}"#, 400, "aB"),
            (r#"{"ok": "x", "1bad": "s3cr3t"}"#, 422, "1bad"),
            (r#"{"PATH": "s3cr3t"}"#, 422, "PATH"),
        ] {
            let (given, text) = refusal(body, BodyKind::Session);
            assert_eq!(given, status, "{body}");
            assert!(text.contains(&format!("\"field\": String(\"{named}\")")), "{body}: {text}");
        }
        let large = format!(r#"{{"A": "{}"}}"#, "x".repeat(MAX_VALUE_BYTES + 1));
        assert_eq!(refusal(&large, BodyKind::Platform).0, 400);
        let many: Vec<String> = (0..91).map(|index| format!(r#""N{index}": "v""#)).collect();
        assert_eq!(refusal(&format!("{{{}}}", many.join(",")), BodyKind::Session).0, 400);
    }
}
