//! API keys, as a platform manages its own.

pub mod create;
pub mod delete;
pub mod list;
pub mod rotate;

use serde_json::{Value, json};
use theazo_http::{ApiError, Call, format_time};
use theazo_store::ApiKey;
use theazo_tenancy::{IssuedKey, KeyId};

/// Where an answer shows a new key, this once.
const KEY: &str = "key";

/// A key as the API shows it, without the key itself.
fn show(key: &ApiKey, last_used_ms: Option<i64>) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "environment": key.mode,
        "createdAt": format_time(key.created_at_ms),
        "lastUsedAt": last_used_ms.map(format_time),
        "expiresAt": key.expires_at_ms.map(format_time),
    })
}

/// The same with the key, for its owner to store.
fn show_new(key: &ApiKey, issued: &IssuedKey) -> Value {
    let mut shown = show(key, None);
    shown[KEY] = issued.text.as_str().into();
    shown
}

/// The key that the path names.
fn key_id(call: &Call) -> Result<KeyId, ApiError> {
    KeyId::parse(call.request().param("id")?).map_err(|_| ApiError::not_found())
}
