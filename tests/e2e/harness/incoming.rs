//! Requests as the gateway hands them to a function, for what a test serves by itself.

use bytes::Bytes;
use http::HeaderValue;
use serde_json::Value;
use theazo_functions::Incoming;

/// A request with that credential, if any, and a body unless that is null. The path may have a query.
pub fn incoming(method: &str, path: &str, key: Option<&str>, body: &Value) -> Incoming {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let mut incoming = incoming_bytes(method, path, body);
    if let Some(key) = key {
        incoming.headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    }
    incoming
}

/// The same to be done once, under that idempotency key, if any.
pub fn incoming_once(method: &str, path: &str, key: Option<&str>, once: Option<&str>, body: &Value) -> Incoming {
    let mut incoming = incoming(method, path, key, body);
    if let Some(once) = once {
        incoming.headers.insert("idempotency-key", HeaderValue::from_str(once).unwrap());
    }
    incoming
}

/// A request without a credential, of any bytes.
pub fn incoming_bytes(method: &str, path: &str, body: Bytes) -> Incoming {
    let (raw_path, raw_query) = path.split_once('?').unwrap_or((path, ""));
    Incoming {
        method: method.parse().unwrap(),
        source_ip: None,
        raw_path: raw_path.to_owned(),
        raw_query: raw_query.to_owned(),
        headers: http::HeaderMap::new(),
        body,
    }
}
