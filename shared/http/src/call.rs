//! A call: one request on its way through authentication.

use crate::{ApiError, ErrorCode, Pattern, Request, StreamLimits};
use futures_util::future::{Either, select};
use std::future::Future;
use std::pin::pin;
use theazo_store::{Ahead, Credentials, now_ms};
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
}

impl Call {
    /// A call of that route.
    pub fn new(request: Request, route: &'static RouteInfo, credentials: Credentials) -> Self {
        Self { request, route, credentials, streams: StreamLimits::default() }
    }

    /// The same with other limits of streams.
    #[must_use]
    pub fn with_streams(self, streams: StreamLimits) -> Self {
        Self { streams, ..self }
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

    /// The key under which the request is to be done once.
    ///
    /// # Errors
    /// `invalid_request` for anything but 1 to 255 visible ASCII characters.
    pub fn idempotency_key(&self) -> Result<Option<&str>, ApiError> {
        let Some(value) = self.request.headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
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
        let admitting = pin!(self.admit(&claim));
        let reading = pin!(ahead.hold(claim.read_ahead(read)));
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
        let origin =
            Origin { request: self.request.id.clone(), source_ip: self.request.source_ip, trace: self.request.trace() };
        let principal = claim.prove(admission.record.as_ref(), now_ms())?.in_request(origin);
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
    use crate::support::{make_call, make_call_of, make_request};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use theazo_tenancy::{Mode, PlatformId, make_api_key};

    fn with_key(key: &str) -> Call {
        let mut request = make_request("/v1/things", "", b"");
        request.headers.insert(http::header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
        make_call_of(request)
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
