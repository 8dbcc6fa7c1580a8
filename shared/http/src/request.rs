//! Requests, as an endpoint sees them.

use crate::{ApiError, Fields, Params};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::net::IpAddr;
use theazo_tenancy::{AgentId, RequestId, SessionId};

/// Largest request: the gateway's 6 MB.
pub const MAX_BODY_BYTES: usize = 6_000_000;

/// A request whose route is known. It has no `Debug`: its body may hold secrets and its headers a key.
///
/// ```
/// fn record(request: &theazo_http::Request) -> String {
///     format!("{}", request.id)
/// }
/// ```
///
/// ```compile_fail,E0277
/// fn record(request: &theazo_http::Request) -> String {
///     format!("{request:?}")
/// }
/// ```
pub struct Request {
    /// Its id, made here.
    pub id: RequestId,
    /// The address the request came from, as the gateway or the listening socket saw it.
    pub source_ip: Option<IpAddr>,
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

/// A query's parameters. Unknown ones are ignored, as the contract says. One of them may be a token, so it cannot be printed.
#[derive(Clone)]
pub struct QueryParams(BTreeMap<String, String>);

impl Request {
    /// The bearer token; none where the header is there twice, of which gateways show the one or the other.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let mut values = self.headers.get_all(http::header::AUTHORIZATION).iter();
        let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// Whether it says anything about who the caller is in the usual place.
    pub(crate) fn has_authorization(&self) -> bool {
        self.headers.contains_key(http::header::AUTHORIZATION)
    }

    /// The trace that it says it belongs to, by `traceparent` (<https://www.w3.org/TR/trace-context/>) or by the
    /// gateway's `X-Amzn-Trace-Id`. Anything of another form is as good as absent.
    pub fn trace(&self) -> Option<String> {
        Self::trace_of(&self.headers)
    }

    /// The same of a request's headers alone.
    pub fn trace_of(headers: &http::HeaderMap) -> Option<String> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_hex = |text: &str, len: usize| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let of_parent = header("traceparent").and_then(|value| value.split('-').nth(1)).filter(|id| is_hex(id, 32));
        let of_amazon = || {
            let root = header("x-amzn-trace-id")?.split(';').find_map(|part| part.trim().strip_prefix("Root="))?;
            let mut parts = root.split('-');
            let is_root = parts.next() == Some("1")
                && parts.next().is_some_and(|part| is_hex(part, 8))
                && parts.next().is_some_and(|part| is_hex(part, 24))
                && parts.next().is_none();
            is_root.then_some(root)
        };
        of_parent.or_else(of_amazon).map(str::to_owned)
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

    /// The query's parameters, whatever the route. Handlers are given those of their route, by
    /// [`Call::query`](crate::Call::query).
    pub(crate) fn query(&self) -> Result<QueryParams, ApiError> {
        QueryParams::parse(&self.raw_query)
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
    /// The parameters of a query that is still percent-encoded.
    ///
    /// # Errors
    /// `invalid_request` when it cannot be decoded, or gives a parameter twice: of those a proxy before us may have looked
    /// at the other.
    pub fn parse(raw: &str) -> Result<Self, ApiError> {
        let mut params = BTreeMap::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode_query(name)?, decode_query(value)?);
            if params.contains_key(&name) {
                // A text that is no parameter's name may be anything, a token among it.
                let is_name = name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
                return Err(ApiError::invalid(if is_name { &name } else { "query" }, "must give each name once"));
            }
            params.insert(name, value);
        }
        Ok(Self(params))
    }

    /// Those of these names.
    pub(crate) fn only(mut self, names: &[&str]) -> Self {
        self.0.retain(|name, _| names.contains(&name.as_str()));
        self
    }

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
        let Some(text) = self.get(name) else { return Ok(None) };
        // The parser of the standard library also takes a plus sign.
        let parsed = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        parsed.map(Some).ok_or_else(|| ApiError::invalid(name, "must be a whole number"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{make_request, refused};

    fn with_authorization(value: &[u8]) -> Request {
        let mut request = make_request("/", "", b"");
        request.headers.insert(http::header::AUTHORIZATION, http::HeaderValue::from_bytes(value).unwrap());
        request
    }

    #[test]
    fn a_bearer_token_is_taken_whatever_the_case_of_its_scheme_and_nothing_else_is() {
        for value in ["Bearer key", "bearer key", "BEARER  key "] {
            assert_eq!(with_authorization(value.as_bytes()).bearer(), Some("key"), "{value}");
        }
        for value in ["key", "Bearer", "Basic key", "Bearerkey", "", "Token key"] {
            assert_eq!(with_authorization(value.as_bytes()).bearer(), None, "{value}");
        }
        assert_eq!(with_authorization(b"Bearer \xff").bearer(), None);
        assert_eq!(make_request("/", "", b"").bearer(), None);
        let mut twice = with_authorization(b"Bearer key");
        twice.headers.append(http::header::AUTHORIZATION, http::HeaderValue::from_static("Bearer key"));
        assert_eq!(twice.bearer(), None);
    }

    #[test]
    fn a_trace_is_taken_from_either_header_and_only_in_its_own_form() {
        let traced = |headers: &[(&'static str, &str)]| {
            let mut request = make_request("/", "", b"");
            for (name, value) in headers {
                request.headers.insert(*name, value.parse().unwrap());
            }
            request.trace()
        };
        let (parent, root) = ("4bf92f3577b34da6a3ce929d0e0e4736", "1-5759e988-bd862e3fe1be46a994272793");
        let parent_header = format!("00-{parent}-00f067aa0ba902b7-01");
        let root_header = format!("Self=x; Root={root};Parent=53995c3f42cd8ad8;Sampled=1");
        assert_eq!(traced(&[("traceparent", &parent_header)]).as_deref(), Some(parent));
        assert_eq!(traced(&[("x-amzn-trace-id", &root_header)]).as_deref(), Some(root));
        let both = [("traceparent", parent_header.as_str()), ("x-amzn-trace-id", root_header.as_str())];
        assert_eq!(traced(&both).as_deref(), Some(parent));
        for bad in ["", "x", "00-zz-00-01", "Root=1-5759e988-bd862e3fe1be46a994272793-x", "Root=2-5759e988-bd862e"] {
            assert_eq!(traced(&[("traceparent", bad), ("x-amzn-trace-id", bad)]), None, "{bad}");
        }
    }

    #[test]
    fn a_body_is_a_json_object_and_may_be_absent_only_where_that_is_said() {
        for empty in ["", " \r\n\t"] {
            assert_eq!(make_request("/", "", empty.as_bytes()).fields(true).unwrap().names().count(), 0);
            assert_eq!(refused(make_request("/", "", empty.as_bytes()).fields(false)), "body");
        }
        assert_eq!(make_request("/", "", br#" {"a": 1} "#).fields(false).unwrap().names().collect::<Vec<_>>(), ["a"]);
        let deep = "[".repeat(100_000);
        for bad in ["{", "{} {}", "[]", "null", "\"x\"", "{\"a\": 1,}", "{'a': 1}", "\u{feff}{}", deep.as_str()] {
            assert_eq!(refused(make_request("/", "", bad.as_bytes()).fields(true)), "body");
        }
        assert_eq!(refused(make_request("/", "", b"{\"a\": \"\xff\"}").fields(true)), "body");
    }

    #[test]
    fn a_refused_body_is_not_quoted() {
        for body in [r#"{"a": s3cr3t}"#, r#"{"a": "s3cr3t""#, r#"["s3cr3t"]"#, r#""s3cr3t""#] {
            let error = make_request("/", "", body.as_bytes()).fields(true).err().unwrap();
            assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
        }
    }

    #[test]
    fn a_query_is_decoded_once_and_gives_each_name_once() {
        let query = make_request("/", "a=1&b=x%20y+z&c&=d&e=%252F&f=g=h&&%C3%BC=%C3%BC", b"").query().unwrap();
        for (name, value) in
            [("a", "1"), ("b", "x y z"), ("c", ""), ("", "d"), ("e", "%2F"), ("f", "g=h"), ("\u{fc}", "\u{fc}")]
        {
            assert_eq!(query.get(name), Some(value), "{name}");
        }
        assert_eq!(query.get("absent"), None);
        for bad in ["a=%ff", "%ff=a", "a=%C3"] {
            assert_eq!(refused(make_request("/", bad, b"").query()), "query");
        }
        for twice in ["a=1&a=2", "b=0&a=1&a=1", "a&%61"] {
            assert_eq!(refused(make_request("/", twice, b"").query()), "a", "{twice}");
        }
        for name in ["th_sess_x", "%C3%BC", &"x".repeat(33)] {
            assert_eq!(refused(make_request("/", &format!("{name}&{name}"), b"").query()), "query", "{name}");
        }
    }

    #[test]
    fn flags_numbers_and_names_of_a_query_are_strict() {
        let query = make_request("/", "t=true&f=false&odd=yes&n=12&neg=-1&empty=", b"").query().unwrap();
        assert_eq!(
            (query.flag("t").unwrap(), query.flag("f").unwrap(), query.flag("absent").unwrap()),
            (true, false, false)
        );
        assert_eq!((query.number("n").unwrap(), query.number("absent").unwrap()), (Some(12), None));
        for name in ["odd", "empty"] {
            assert_eq!(refused(query.flag(name)), name);
        }
        for name in ["odd", "neg", "empty"] {
            assert_eq!(refused(query.number(name)), name);
        }
        let parse = |text: &str| (text == "12").then_some(12);
        assert_eq!(query.one_of("n", parse).unwrap(), Some(12));
        assert_eq!(query.one_of("absent", parse).unwrap(), None);
        assert_eq!(refused(query.one_of("odd", parse)), "odd");
    }

    #[test]
    fn filters_are_the_same_in_any_order_and_without_what_pages() {
        let filters = |query: &str| make_request("/", query, b"").query().unwrap().filters();
        assert_eq!(filters("a=1&b=2"), filters("limit=5&b=2&cursor=x&a=%31"));
        assert_ne!(filters("a=1"), filters("a=2"));
        assert_ne!(filters("a=1"), filters("a=1&b="));
    }

    #[test]
    fn a_path_that_can_be_no_id_is_not_found() {
        for id in ["", "x", "agt_", "ses_01", "SES_00000000000000000000000000", "ses_0000000000000000000000000\u{fc}"] {
            let mut request = make_request("/", "", b"");
            request.params = crate::Params::of("id", id);
            assert_eq!(request.session_id(), Err(ApiError::not_found()), "{id}");
            assert_eq!(request.agent_id(), Err(ApiError::not_found()), "{id}");
        }
        let mut request = make_request("/", "", b"");
        assert_eq!(request.param("id"), Err(ApiError::internal()));
        let id = SessionId::make();
        request.params = crate::Params::of("id", id.as_str());
        assert_eq!(request.session_id(), Ok(id));
        assert_eq!(request.agent_id(), Err(ApiError::not_found()));
    }
}
