//! A call: one request on its way through authentication.

use crate::{ApiError, ErrorCode, LateOutcome, Pattern, QueryParams, Request, StreamLimits};
use futures_util::future::{Either, select};
use std::future::Future;
use theazo_store::{Admission, Ahead, Credentials, now_ms};
use theazo_tenancy::{Claim, CredentialKind, Origin, Principal, ReadScope, Unauthorized};

/// Requests are counted by the second.
const RETRY_AFTER_S: u64 = 1;
/// The header under which a request that creates is done once.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The kinds of caller a route may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// An API key.
    Platform,
    /// A session's token.
    Session,
    /// An agent's token.
    Agent,
    /// No credential at all; only liveness and the API's own description.
    Anyone,
}

/// What becomes of a request that is sent again, as clients do by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// It changes nothing that the first did not: reading, or setting what is set.
    Harmless,
    /// Under one `Idempotency-Key` it is done once, and the first answer is given again.
    Once,
    /// It is done again; an `Idempotency-Key` is refused, so that nobody relies on one.
    Again,
}

/// What a route declares about itself.
#[derive(Clone, Copy, Debug)]
pub struct RouteInfo {
    /// Its name, which is also its function's.
    pub name: &'static str,
    /// The HTTP method.
    pub method: &'static str,
    /// The path.
    pub pattern: Pattern,
    /// Who may call it.
    pub callers: &'static [Caller],
    /// Whether its answer is a stream.
    pub streams: bool,
    /// What becomes of a request that is sent again.
    pub repeats: Repeats,
    /// The query's parameters that its handler is given; it never sees another, which is ignored.
    pub query: &'static [&'static str],
}

/// The path parameter that holds a credential. The sandbox's client sends none, so its address has one.
const TOKEN: &str = "token";

impl RouteInfo {
    /// Whether its callers are looked up by a credential.
    pub fn authenticates(&self) -> bool {
        self.callers.iter().any(|caller| *caller != Caller::Anyone)
    }

    /// Whether the caller's credential is a part of the path, and not in a header. Such a path is never to be logged.
    pub fn has_credential_in_path(&self) -> bool {
        self.pattern.has_parameter(TOKEN)
    }
}

/// One request with the means to authenticate it. Handing out a scope is the only thing it does with a credential.
pub struct Call {
    request: Request,
    route: &'static RouteInfo,
    credentials: Credentials,
    streams: StreamLimits,
    late: LateOutcome,
}

impl Call {
    /// A call of that route.
    pub fn new(request: Request, route: &'static RouteInfo, credentials: Credentials) -> Self {
        Self { request, route, credentials, streams: StreamLimits::default(), late: LateOutcome::default() }
    }

    /// The same with other limits of streams.
    #[must_use]
    pub fn with_streams(self, streams: StreamLimits) -> Self {
        Self { streams, ..self }
    }

    /// The same with someone to be told how its work ended, should that be after its answer has begun.
    #[must_use]
    pub fn with_late(self, late: LateOutcome) -> Self {
        Self { late, ..self }
    }

    /// Who is to be told how its work ended, should that be after its answer has begun.
    pub fn late(&self) -> LateOutcome {
        self.late.clone()
    }

    /// How long streams last.
    pub fn streams(&self) -> StreamLimits {
        self.streams
    }

    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The route.
    pub fn route(&self) -> &'static RouteInfo {
        self.route
    }

    /// The query's parameters that the route declares.
    ///
    /// # Errors
    /// As [`QueryParams::parse`](crate::QueryParams::parse).
    pub fn query(&self) -> Result<QueryParams, ApiError> {
        Ok(self.request.query()?.only(self.route.query))
    }

    /// The key under which the request is to be done once. A header that comes more than once is one value, joined by
    /// commas (<https://www.rfc-editor.org/rfc/rfc9110#section-5.2>): that is all that some gateways show of it.
    ///
    /// # Errors
    /// `invalid_request` for anything but 1 to 255 visible ASCII characters.
    pub fn idempotency_key(&self) -> Result<Option<String>, ApiError> {
        let values = self.request.headers.get_all(IDEMPOTENCY_KEY);
        let values: Option<Vec<_>> = values.iter().map(|value| value.to_str().ok()).collect();
        if values.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let text = values.unwrap_or_default().join(",");
        if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Some(text))
        } else {
            Err(ApiError::invalid(IDEMPOTENCY_KEY, "must be 1 to 255 visible ASCII characters"))
        }
    }

    /// The credential as it was presented, for keying what must not be found out from the table.
    pub fn credential_text(&self) -> &str {
        self.credential().unwrap_or_default()
    }

    fn credential(&self) -> Option<&str> {
        if self.route.has_credential_in_path() { self.request.params.get(TOKEN) } else { self.request.bearer() }
    }

    /// What the caller claims to be. A browser cannot set headers on a stream of events: there, and nowhere else, a
    /// session's token may be the query's `token`. An API key may not: addresses end up in histories and logs.
    fn claim(&self) -> Result<Claim, Unauthorized> {
        let takes_token = self.route.streams && self.route.method == "GET";
        let query = takes_token.then(|| self.request.query().ok()).flatten();
        let token = query.as_ref().and_then(|query| query.get(TOKEN));
        let claim = match (self.credential(), token) {
            (Some(credential), None) => return Claim::parse(credential),
            (None, Some(token)) if !self.request.has_authorization() => Claim::parse(token)?,
            // Of two it is not for us to choose.
            _ => return Err(Unauthorized),
        };
        match claim.kind() {
            CredentialKind::Session(_) => Ok(claim),
            CredentialKind::ApiKey | CredentialKind::Agent(..) => Err(Unauthorized),
        }
    }

    /// Authenticates the caller.
    ///
    /// # Errors
    /// `unauthorized`, the same for every credential that is not good; `forbidden` for a caller of the wrong kind.
    pub async fn authenticate(&self) -> Result<Principal, ApiError> {
        self.authenticate_with(|_| async { Ok(()) }).await.map(|(principal, ())| principal)
    }

    /// Authenticates the caller while `read` already parses the request and reads the claimed tenant's data, so that
    /// a read answers after one round trip. What `read` found, an error included, is released only to a caller whose
    /// credential proved good; until then it makes one round of bounded calls ([`Ahead`]), and for others it is dropped
    /// as soon as that is known.
    ///
    /// # Errors
    /// As [`Call::authenticate`], and then whatever `read` failed with.
    pub async fn authenticate_with<T, F>(&self, read: impl FnOnce(ReadScope) -> F) -> Result<(Principal, T), ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let claim = self.claim()?;
        let ahead = Ahead::default();
        // On the heap: unoptimised, these two and what is nested in them are half of a thread's stack.
        let admitting = Box::pin(self.admit(&claim));
        let reading = Box::pin(ahead.hold(claim.read_ahead(read)));
        let (principal, withheld) = match select(admitting, reading).await {
            // Whoever is refused is refused now: how long the read would take tells of the tenant's data.
            Either::Left((admitted, reading)) => {
                let principal = admitted?;
                ahead.proven();
                (principal, reading.await)
            }
            Either::Right((withheld, admitting)) => (admitting.await?, withheld),
        };
        let found = withheld.release(&principal)??;
        Ok((principal, found))
    }

    /// Finds the credential that the claim names, and whether it may make this call now.
    async fn admit(&self, claim: &Claim) -> Result<Principal, ApiError> {
        let admission = self.credentials.admit(claim).await?;
        self.admitted(claim, &admission, now_ms())
    }

    /// The caller whom the credential that was found proves, if they may make this call. What was found beside the
    /// credential is told to nobody without a good one.
    fn admitted(&self, claim: &Claim, admission: &Admission, now_ms: i64) -> Result<Principal, ApiError> {
        let origin =
            Origin { request: self.request.id.clone(), source_ip: self.request.source_ip, trace: self.request.trace() };
        let principal = claim.prove(admission.record.as_ref(), now_ms)?.in_request(origin);
        let principal = principal.in_session(admission.session_is_paused);
        let span = tracing::Span::current();
        span.record("platform", principal.platform().as_str());
        span.record("credential", principal.credential_id().as_str());
        if admission.suspended {
            let refusal = ApiError::new(ErrorCode::Forbidden, "the platform is suspended");
            return Err(refusal.detail("reason", "platform_suspended"));
        }
        if admission.over_limit {
            return Err(ApiError::rate_limited(RETRY_AFTER_S));
        }
        let kind = match principal.kind() {
            CredentialKind::ApiKey => Caller::Platform,
            CredentialKind::Session(_) => Caller::Session,
            CredentialKind::Agent(..) => Caller::Agent,
        };
        if !self.route.callers.contains(&kind) {
            return Err(ApiError::new(ErrorCode::Forbidden, "this kind of credential may not call this route"));
        }
        if self.route.method != "GET" && !principal.permissions().exec {
            return Err(ApiError::new(ErrorCode::Forbidden, "this token may only read"));
        }
        if self.route.repeats == Repeats::Again && self.request.headers.contains_key(IDEMPOTENCY_KEY) {
            return Err(ApiError::not_built(IDEMPOTENCY_KEY));
        }
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Params;
    use crate::support::{ROUTE, make_call, make_call_of, make_request};
    use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use theazo_store::RoundTrips;
    use theazo_tenancy::{
        AgentId, CredentialRecord, IssuedKey, KeyId, Mode, Permissions, PlatformId, SessionId, make_agent_token,
        make_api_key, make_session_token,
    };

    fn with_key(key: &str) -> Call {
        let mut request = make_request("/v1/things", "", b"");
        request.headers.insert(AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
        make_call_of(request)
    }

    /// The call by another route, which differs from the usual one as told.
    fn by(call: Call, change: impl FnOnce(&mut RouteInfo)) -> Call {
        let mut route = ROUTE;
        change(&mut route);
        Call { route: Box::leak(Box::new(route)), ..call }
    }

    fn with_header(mut call: Call, name: &'static str, value: &[u8]) -> Call {
        let value = HeaderValue::from_bytes(value).unwrap();
        call.request.headers.insert(HeaderName::from_static(name), value);
        call
    }

    #[test]
    fn whoever_wants_to_know_how_late_work_ended_is_handed_on_with_the_call() {
        let told = Arc::new(AtomicUsize::new(0));
        let kept = told.clone();
        let call =
            make_call("", "").with_late(LateOutcome::to(move |status, _| kept.store(status.into(), Ordering::Relaxed)));
        call.late().tell(504, RoundTrips { total: 1, sequential: 1 });
        assert_eq!(told.load(Ordering::Relaxed), 504);
    }

    /// A credential of each kind.
    fn issued() -> [IssuedKey; 3] {
        let (platform, session) = (PlatformId::make(), SessionId::make());
        [
            make_api_key(&platform, Mode::Live),
            make_session_token(&platform, Mode::Live, &session),
            make_agent_token(&platform, Mode::Live, &session, &AgentId::make()),
        ]
    }

    /// What is found for a good credential, which ends at 10 ms.
    fn found(key: &IssuedKey, claim: &Claim, exec: bool) -> Admission {
        let platform = key.text.find("plt_").unwrap();
        let record = CredentialRecord {
            hash: key.hash,
            id: KeyId::make(),
            kind: claim.kind().clone(),
            platform: PlatformId::parse(key.text.get(platform..platform + PlatformId::LEN).unwrap()).unwrap(),
            mode: Mode::Live,
            expires_at_ms: Some(10),
            cursor_key: [7; 32],
            permissions: Permissions { exec },
            epoch: 0,
        };
        Admission { record: Some(record), over_limit: false, suspended: false, session_is_paused: false }
    }

    fn refusal(outcome: Result<Principal, ApiError>) -> Option<(ErrorCode, String)> {
        outcome.err().map(|error| (error.code(), error.to_json().to_string()))
    }

    #[test]
    fn a_route_knows_whether_it_authenticates_and_whether_its_path_is_a_secret() {
        let route = |callers, pattern| RouteInfo { callers, pattern: Pattern(pattern), ..ROUTE };
        assert!(route(&[Caller::Platform], "/v1/things").authenticates());
        assert!(route(&[Caller::Anyone, Caller::Agent], "/v1/things").authenticates());
        assert!(!route(&[Caller::Anyone], "/v1/things").authenticates());
        assert!(!route(&[Caller::Agent], "/v1/{id}").has_credential_in_path());
        assert!(route(&[Caller::Agent], "/v1/{token}/things").has_credential_in_path());
    }

    #[test]
    fn a_call_has_the_limits_of_streams_that_it_was_given() {
        assert_eq!(make_call("/v1/things", "").streams(), StreamLimits::default());
        let limits = StreamLimits { lifetime: Duration::from_millis(7), ..StreamLimits::default() };
        assert_eq!(make_call("/v1/things", "").with_streams(limits).streams(), limits);
    }

    #[test]
    fn an_idempotency_key_is_visible_ascii_of_1_to_255_characters() {
        let with = |value: &[u8]| with_header(make_call("/v1/things", ""), IDEMPOTENCY_KEY, value);
        assert_eq!(make_call("/v1/things", "").idempotency_key(), Ok(None));
        for good in ["!", "~", "a-key", &"k".repeat(255)] {
            assert_eq!(with(good.as_bytes()).idempotency_key(), Ok(Some(good.to_owned())));
        }
        // Sent twice it is one value, as gateways show it that join them.
        let twice = |first: &[u8], second: &[u8]| {
            let mut call = with(first);
            call.request.headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(second).unwrap());
            call.idempotency_key()
        };
        assert_eq!(twice(b"one", b"two"), Ok(Some("one,two".to_owned())));
        for bad in [twice(b"one", b"t o"), twice(b"\xff", b"two"), twice(&[b'k'; 128], &[b'k'; 127])] {
            assert_eq!(bad.unwrap_err().code(), ErrorCode::InvalidRequest);
        }
        for bad in [&b""[..], &[b'k'; 256], b"a key", b"a\tkey", b"\xff", "\u{fc}".as_bytes()] {
            let error = with(bad).idempotency_key().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_credential_is_in_the_header_or_where_the_path_has_it() {
        let [key, _, token] = issued();
        let call = with_key(&key.text);
        assert_eq!(call.credential_text(), key.text.as_str());
        assert_eq!(call.claim().unwrap().credential_key(), Claim::parse(&key.text).unwrap().credential_key());
        assert_eq!(make_call("/v1/things", "").credential_text(), "");
        // A route whose path has one takes no other.
        let in_path = |call: Call| by(call, |route| route.pattern = Pattern("/v1/{token}"));
        assert_eq!(in_path(with_key(&key.text)).credential_text(), "");
        let mut call = in_path(with_key(&key.text));
        call.request.params = Params::of("token", &token.text);
        assert_eq!(call.credential_text(), token.text.as_str());
    }

    #[test]
    fn only_a_sessions_token_may_be_in_the_query_and_only_of_a_stream_of_events_without_the_header() {
        let [key, token, agents] = issued();
        let streaming = |call: Call| by(call, |route| route.streams = true);
        let asking = |text: &str| make_call("/v1/things", &format!("token={text}"));
        assert!(streaming(asking(&token.text)).claim().is_ok());
        for refused in [
            asking(&token.text),
            by(asking(&token.text), |route| route.method = "POST"),
            by(asking(&token.text), |route| (route.streams, route.method) = (true, "POST")),
            with_header(streaming(asking(&token.text)), "authorization", b"Basic x"),
            with_header(asking(&token.text), "authorization", b"Basic x"),
            streaming(asking(&key.text)),
            streaming(asking(&agents.text)),
            streaming(make_call("/v1/things", "")),
            streaming(make_call("/v1/things", "token=x")),
        ] {
            assert_eq!(refused.claim().err(), Some(Unauthorized));
        }
    }

    #[test]
    fn a_good_credential_makes_the_calls_of_its_kind() {
        let kinds = [Caller::Platform, Caller::Session, Caller::Agent];
        for (key, kind) in issued().iter().zip(kinds) {
            let claim = Claim::parse(&key.text).unwrap();
            for served in kinds {
                let call = by(with_key(&key.text), |route| route.callers = Box::leak(Box::new([served])));
                let outcome = call.admitted(&claim, &found(key, &claim, true), 9);
                let caller = outcome.as_ref().ok().map(|caller| (caller.kind(), caller.session_is_paused()));
                assert_eq!(caller, (served == kind).then_some((claim.kind(), false)));
                let refused = refusal(outcome).map(|(code, _)| code);
                assert_eq!(refused, (served != kind).then_some(ErrorCode::Forbidden));
            }
            let call = by(with_key(&key.text), |route| route.callers = Box::leak(Box::new([kind])));
            let paused = Admission { session_is_paused: true, ..found(key, &claim, true) };
            assert!(call.admitted(&claim, &paused, 9).is_ok_and(|caller| caller.session_is_paused()));
        }
    }

    #[test]
    fn whoever_has_no_good_credential_learns_nothing_of_what_was_found() {
        let [key, ..] = issued();
        let (call, claim) = (with_key(&key.text), Claim::parse(&key.text).unwrap());
        let all = |record| Admission { record, over_limit: true, suspended: true, session_is_paused: true };
        for (record, now_ms) in [(None, 9), (found(&key, &claim, true).record, 10)] {
            assert_eq!(call.admitted(&claim, &all(record), now_ms).err(), Some(Unauthorized.into()));
        }
    }

    #[test]
    fn a_suspended_platform_a_used_up_limit_and_a_token_that_only_reads_are_refused_by_name() {
        let [key, ..] = issued();
        let claim = Claim::parse(&key.text).unwrap();
        let outcome = |change: fn(&mut RouteInfo), admission: Admission| {
            refusal(by(with_key(&key.text), change).admitted(&claim, &admission, 9))
        };
        let (code, text) = outcome(|_| (), Admission { suspended: true, ..found(&key, &claim, true) }).unwrap();
        assert!(code == ErrorCode::Forbidden && text.contains("platform_suspended"));
        let limited = Admission { over_limit: true, ..found(&key, &claim, true) };
        assert_eq!(
            outcome(|_| (), limited),
            Some((ErrorCode::RateLimited, ApiError::rate_limited(1).to_json().to_string()))
        );
        assert_eq!(outcome(|_| (), found(&key, &claim, false)), None);
        assert_eq!(outcome(|route| route.method = "POST", found(&key, &claim, true)), None);
        let (code, text) = outcome(|route| route.method = "POST", found(&key, &claim, false)).unwrap();
        assert!(code == ErrorCode::Forbidden && text.contains("may only read"));
    }

    #[test]
    fn a_request_that_would_be_done_again_is_refused_if_its_sender_relies_on_a_key() {
        let [key, ..] = issued();
        let claim = Claim::parse(&key.text).unwrap();
        for repeats in [Repeats::Harmless, Repeats::Once, Repeats::Again] {
            let call = || by(with_key(&key.text), |route| route.repeats = repeats);
            assert!(call().admitted(&claim, &found(&key, &claim, true), 9).is_ok());
            let outcome = with_header(call(), IDEMPOTENCY_KEY, b"k").admitted(&claim, &found(&key, &claim, true), 9);
            let expected = (repeats == Repeats::Again).then(|| ApiError::not_built(IDEMPOTENCY_KEY));
            assert_eq!(outcome.err(), expected);
        }
    }

    #[tokio::test]
    async fn a_credential_that_cannot_be_good_is_refused_before_anything_is_read() {
        let good = make_api_key(&PlatformId::make(), Mode::Live);
        let mut wrong_checksum = good.text.to_string();
        wrong_checksum.replace_range(10..11, if wrong_checksum.as_bytes()[10] == b'a' { "b" } else { "a" });
        let reads = AtomicUsize::new(0);
        for call in [make_call("/v1/things", ""), with_key("x"), with_key(""), with_key(&wrong_checksum)] {
            let read = |_| {
                reads.fetch_add(1, Ordering::Relaxed);
                async { Ok(()) }
            };
            // The table of these calls does not exist: asking it would be another error.
            assert_eq!(call.authenticate_with(read).await.err(), Some(Unauthorized.into()));
        }
        assert_eq!(reads.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_was_found_is_withheld_when_the_credential_cannot_be_looked_up() {
        let good = make_api_key(&PlatformId::make(), Mode::Live);
        for found in [Ok("data"), Err(ApiError::not_found())] {
            let outcome = with_key(&good.text).authenticate_with(|_| async { found }).await;
            assert_eq!(outcome.err().map(|error| error.to_json()), Some(ApiError::internal().to_json()));
        }
    }

    #[tokio::test]
    async fn a_caller_who_is_refused_does_not_wait_for_what_is_read() {
        let good = make_api_key(&PlatformId::make(), Mode::Live);
        let outcome = with_key(&good.text).authenticate_with(|_| std::future::pending::<Result<(), _>>()).await;
        assert_eq!(outcome.err().map(|error| error.to_json()), Some(ApiError::internal().to_json()));
    }
}
