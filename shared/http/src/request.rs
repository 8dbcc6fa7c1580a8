//! Requests, as an endpoint sees them.

use crate::{ApiError, Fields, Params};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use theazo_tenancy::{AgentId, RequestId, SessionId};

/// Largest request: the gateway's 6 MB.
pub const MAX_BODY_BYTES: usize = 6_000_000;

/// A request whose route is known. It has no `Debug`: its body may hold secrets and its headers a key.
pub struct Request {
    /// Its id, made here.
    pub id: RequestId,
    /// The path as it was sent, still percent-encoded.
    pub raw_path: String,
    /// The path's parameters, decoded.
    pub params: Params,
    /// The query as it was sent.
    pub raw_query: String,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A query's parameters. Reading one marks it as known; the rest are ignored, as the contract says.
#[derive(Clone, Debug)]
pub struct QueryParams(BTreeMap<String, String>);

impl Request {
    /// The bearer token.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let value = self.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// A path parameter.
    ///
    /// # Errors
    /// `internal_error` when the route has none of that name; that is a mistake of ours.
    pub fn param(&self, name: &str) -> Result<&str, ApiError> {
        self.params.get(name).ok_or_else(|| {
            tracing::error!(name, "a route has no such parameter");
            ApiError::internal()
        })
    }

    /// The session that the path names.
    ///
    /// # Errors
    /// `not_found` for a text that no session's id can be: the same answer as for a session that is not there.
    pub fn session_id(&self) -> Result<SessionId, ApiError> {
        SessionId::parse(self.param("id")?).map_err(|_| ApiError::not_found())
    }

    /// The agent that the path names.
    ///
    /// # Errors
    /// As [`Request::session_id`].
    pub fn agent_id(&self) -> Result<AgentId, ApiError> {
        AgentId::parse(self.param("id")?).map_err(|_| ApiError::not_found())
    }

    /// The query's parameters; the last of several of one name counts.
    ///
    /// # Errors
    /// `invalid_request` when it is not percent-encoded UTF-8.
    pub fn query(&self) -> Result<QueryParams, ApiError> {
        let mut params = BTreeMap::new();
        for pair in self.raw_query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            params.insert(decode_query(name)?, decode_query(value)?);
        }
        Ok(QueryParams(params))
    }

    /// The body as a JSON object. An empty body is an empty object where the route says so.
    ///
    /// # Errors
    /// `invalid_request` when it is not one.
    pub fn fields(&self, may_be_empty: bool) -> Result<Fields, ApiError> {
        if may_be_empty && self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Fields::default());
        }
        // The parser's own message may quote the body; it is not passed on.
        let value =
            serde_json::from_slice(&self.body).map_err(|_| ApiError::invalid("body", "must be valid JSON in UTF-8"))?;
        Fields::from_value(value)
    }
}

fn decode_query(text: &str) -> Result<String, ApiError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| ApiError::invalid("query", "must be percent-encoded UTF-8"))
}

impl QueryParams {
    /// A parameter, if it was given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A yes-or-no parameter; absent is no.
    ///
    /// # Errors
    /// `invalid_request` for anything but `true` and `false`.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::invalid(name, "must be true or false")),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.get(name)
            .map(|text| text.parse().map_err(|_| ApiError::invalid(name, "must be a whole number")))
            .transpose()
    }

    /// A parameter that takes one of a few names.
    ///
    /// # Errors
    /// `invalid_request` for any other.
    pub fn one_of<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ApiError> {
        self.get(name).map(|text| parse(text).ok_or_else(|| ApiError::invalid(name, "is unknown"))).transpose()
    }

    /// All parameters but those of paging, in a form that is the same for the same filters.
    pub(crate) fn filters(&self) -> String {
        let kept = self.0.iter().filter(|(name, _)| !["limit", "cursor"].contains(&name.as_str()));
        let pairs: BTreeMap<_, _> = kept.collect();
        serde_json::to_string(&pairs).unwrap_or_default()
    }
}
