//! Lists and their cursors.
//!
//! A cursor is `base64url(HMAC-SHA-256 (32 bytes) | position)`. The HMAC is keyed with 32 random bytes of the platform
//! and covers label, platform, mode, path, filters and position, so a cursor works only where it was given. It is
//! read before the caller is authenticated (to read ahead) and verified before anything is released.

use crate::{Answer, ApiError, Call};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use theazo_store::{Page, PageRequest, Position};
use theazo_tenancy::Principal;

const LABEL: &str = "theazo/cursor/v1";
const MAC_BYTES: usize = 32;
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: u64 = 100;
/// A sort key has at most 1,024 bytes.
const MAX_CURSOR_CHARS: usize = 2048;

/// The paging part of a query, its cursor not verified yet.
pub struct PageQuery {
    request: PageRequest,
    mac: Option<Vec<u8>>,
}

impl PageQuery {
    /// Reads `limit` and `cursor`.
    ///
    /// # Errors
    /// `invalid_request` for a limit outside 1 to 100 or a cursor that is not one.
    pub fn parse(call: &Call) -> Result<Self, ApiError> {
        let query = call.request().query()?;
        let limit = match query.number("limit")? {
            None => DEFAULT_LIMIT,
            Some(limit @ 1..=MAX_LIMIT) => limit as usize,
            Some(_) => return Err(ApiError::invalid("limit", "must be from 1 to 100")),
        };
        let Some(text) = query.get("cursor") else {
            return Ok(Self { request: PageRequest { limit, after: None }, mac: None });
        };
        let (mac, position) = take_apart(text).ok_or_else(bad_cursor)?;
        Ok(Self { request: PageRequest { limit, after: Some(Position(position)) }, mac: Some(mac) })
    }

    /// What to read.
    pub fn request(&self) -> &PageRequest {
        &self.request
    }

    fn verify(&self, call: &Call, principal: &Principal) -> Result<(), ApiError> {
        let (Some(mac), Some(after)) = (&self.mac, &self.request.after) else { return Ok(()) };
        cover(call, principal, &after.0)?.verify_slice(mac).map_err(|_| bad_cursor())
    }
}

/// The answer to a list: verifies the cursor that was given, and gives the next one.
///
/// # Errors
/// `invalid_request` for a cursor that was not given to this platform for this path and these filters.
pub fn list_answer<T>(
    call: &Call,
    principal: &Principal,
    query: &PageQuery,
    page: Page<T>,
    show: impl Fn(&T) -> Value,
) -> Result<Answer, ApiError> {
    query.verify(call, principal)?;
    let data: Vec<Value> = page.rows.iter().map(show).collect();
    let mut body = json!({ "data": data, "hasMore": page.next.is_some() });
    if let Some(Position(position)) = page.next {
        let mut cursor = cover(call, principal, &position)?.finalize().into_bytes().to_vec();
        cursor.extend_from_slice(position.as_bytes());
        body["cursor"] = URL_SAFE_NO_PAD.encode(cursor).into();
    }
    Answer::json(200, &body)
}

fn bad_cursor() -> ApiError {
    ApiError::invalid("cursor", "is not one that this list gave")
}

fn take_apart(text: &str) -> Option<(Vec<u8>, String)> {
    if text.len() > MAX_CURSOR_CHARS {
        return None;
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    if bytes.len() <= MAC_BYTES {
        return None;
    }
    let position = String::from_utf8(bytes.split_off(MAC_BYTES)).ok()?;
    Some((bytes, position))
}

fn cover(call: &Call, principal: &Principal, position: &str) -> Result<Hmac<Sha256>, ApiError> {
    let filters = call.request().query()?.filters();
    let mut mac = Hmac::<Sha256>::new_from_slice(principal.cursor_key()).map_err(|_| ApiError::internal())?;
    let parts =
        [LABEL, principal.platform().as_str(), principal.mode().as_str(), &call.request().raw_path, &filters, position];
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    Ok(mac)
}
