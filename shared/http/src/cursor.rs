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
/// A sort key has at most 1,024 bytes. The table refuses a longer one, and the caller's mistake would look like ours.
const MAX_POSITION_BYTES: usize = 1024;

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
        let query = call.query()?;
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
    let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    if bytes.len() <= MAC_BYTES || bytes.len() > MAC_BYTES + MAX_POSITION_BYTES {
        return None;
    }
    let position = String::from_utf8(bytes.split_off(MAC_BYTES)).ok()?;
    Some((bytes, position))
}

fn cover(call: &Call, principal: &Principal, position: &str) -> Result<Hmac<Sha256>, ApiError> {
    let filters = call.query()?.filters();
    let mut mac = Hmac::<Sha256>::new_from_slice(principal.cursor_key()).map_err(|_| ApiError::internal())?;
    let parts =
        [LABEL, principal.platform().as_str(), principal.mode().as_str(), &call.request().raw_path, &filters, position];
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{Caller, make_call, make_caller};
    use theazo_tenancy::Mode;

    fn read(call: &Call) -> PageQuery {
        PageQuery::parse(call).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// The answer to a page of one row with that position, or why there is none.
    fn answer(caller: &Caller, path: &str, query: &str, position: &str) -> Result<Value, ApiError> {
        let call = make_call(path, query);
        let page = Page { rows: vec!["row"], next: Some(Position(position.into())) };
        let answer = list_answer(&call, &caller.principal, &PageQuery::parse(&call)?, page, |row| (*row).into())?;
        Ok(serde_json::from_slice(answer.body()).unwrap())
    }

    fn cursor(caller: &Caller, path: &str, query: &str, position: &str) -> String {
        answer(caller, path, query, position).unwrap()["cursor"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_cursor_leads_back_to_its_position_whatever_the_limit() {
        let caller = make_caller(Mode::Live);
        for position in ["x", "ses_01", "\u{fc}/?#&=", &"k".repeat(MAX_POSITION_BYTES)] {
            let given = cursor(&caller, "/v1/things", "a=1&limit=5", position);
            // What no route takes is no filter.
            let query = format!("limit=100&cursor={given}&a=1&unheard=of");
            let call = make_call("/v1/things", &query);
            assert_eq!(read(&call).request().after, Some(Position(position.to_owned())));
            assert!(answer(&caller, "/v1/things", &query, "next").is_ok());
        }
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let caller = make_caller(Mode::Live);
        let call = make_call("/v1/things", "");
        let page = Page { rows: Vec::<u8>::new(), next: None };
        let answer = list_answer(&call, &caller.principal, &read(&call), page, |row| (*row).into()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(answer.body()).unwrap(), json!({ "data": [], "hasMore": false }));
    }

    #[test]
    fn a_cursor_is_refused_anywhere_but_where_it_was_given() {
        let caller = make_caller(Mode::Live);
        let given = cursor(&caller, "/v1/things", "a=1", "ses_01");
        let query = format!("a=1&cursor={given}");
        assert!(answer(&caller, "/v1/things", &query, "next").is_ok());
        let test_mode = caller.in_mode(Mode::Test);
        let other_key = caller.with_cursor_key([8; 32]);
        let stranger = make_caller(Mode::Live);
        for other in [&test_mode, &other_key, &stranger] {
            assert_eq!(answer(other, "/v1/things", &query, "next"), Err(bad_cursor()));
        }
        for (path, filters) in
            [("/v1/thing", "a=1"), ("/v1/things", ""), ("/v1/things", "a=2"), ("/v1/things", "a=1&b=1"), ("/", "a=1")]
        {
            let query = format!("{filters}&cursor={given}");
            assert_eq!(answer(&caller, path, &query, "next"), Err(bad_cursor()), "{path}?{filters}");
        }
    }

    #[test]
    fn filters_and_paths_cannot_be_shifted_into_one_another() {
        let caller = make_caller(Mode::Live);
        for (one, other) in [("a=1%26b%3D2", "a=1&b=2"), ("a=bc", "ab=c"), ("a=%22", "%22=a")] {
            let given = cursor(&caller, "/v1/things", one, "p");
            let query = format!("{other}&cursor={given}");
            assert_eq!(answer(&caller, "/v1/things", &query, "next"), Err(bad_cursor()), "{one} {other}");
        }
    }

    #[test]
    fn a_cursor_with_any_character_changed_added_or_cut_off_is_refused() {
        let caller = make_caller(Mode::Live);
        let given = cursor(&caller, "/v1/things", "", "ses_01");
        let refused = |text: &str| {
            let outcome = answer(&caller, "/v1/things", &format!("cursor={text}"), "next");
            assert_eq!(outcome, Err(bad_cursor()), "{text}");
        };
        for index in 0..given.len() {
            let (before, rest) = given.split_at(index);
            let replacement = if rest.starts_with('A') { 'B' } else { 'A' };
            refused(&format!("{before}{replacement}{}", rest.split_at(1).1));
            refused(before);
        }
        for added in ["A", "=", "%3D", "%00", " "] {
            refused(&format!("{given}{added}"));
        }
    }

    #[test]
    fn what_is_no_cursor_at_all_is_refused_before_anything_is_read() {
        let longest = URL_SAFE_NO_PAD.encode([b'a'; MAC_BYTES + MAX_POSITION_BYTES]);
        assert!(PageQuery::parse(&make_call("/", &format!("cursor={longest}"))).is_ok());
        let too_long = URL_SAFE_NO_PAD.encode([b'a'; MAC_BYTES + MAX_POSITION_BYTES + 1]);
        let only_mac = URL_SAFE_NO_PAD.encode([b'a'; MAC_BYTES]);
        let not_utf8 = URL_SAFE_NO_PAD.encode([0xff; MAC_BYTES + 4]);
        let huge = "A".repeat(10 * 1024);
        for text in ["", "!", "%C3%BC", &too_long, &only_mac, &not_utf8, &huge] {
            let error = PageQuery::parse(&make_call("/", &format!("cursor={text}"))).err();
            assert_eq!(error, Some(bad_cursor()), "{text}");
        }
    }

    #[test]
    fn a_limit_is_a_whole_number_from_1_to_100() {
        assert_eq!(read(&make_call("/", "")).request().limit, DEFAULT_LIMIT);
        for (text, limit) in [("1", 1), ("100", 100), ("007", 7)] {
            assert_eq!(read(&make_call("/", &format!("limit={text}"))).request().limit, limit);
        }
        for text in ["", "0", "101", "-1", "1.5", "ten", "+5", "%2B5", "99999999999999999999999"] {
            let error = PageQuery::parse(&make_call("/", &format!("limit={text}"))).err().unwrap();
            assert_eq!(error.details()["field"], "limit", "{text}");
        }
    }
}
