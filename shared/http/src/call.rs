//! A call: one request on its way through authentication.

use crate::{ApiError, ErrorCode, Pattern, Request};
use std::future::Future;
use theazo_store::{Credentials, now_ms};
use theazo_tenancy::{Claim, Principal, ReadScope, Unauthorized};

/// Part of the contract and not built yet: a caller who relies on it must not be told that all is well.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

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
}

/// One request with the means to authenticate it. Handing out a scope is the only thing it does with a credential.
pub struct Call {
    request: Request,
    route: &'static RouteInfo,
    credentials: Credentials,
}

impl Call {
    /// A call of that route.
    pub fn new(request: Request, route: &'static RouteInfo, credentials: Credentials) -> Self {
        Self { request, route, credentials }
    }

    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The route.
    pub fn route(&self) -> &'static RouteInfo {
        self.route
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
    /// credential proved good.
    ///
    /// # Errors
    /// As [`Call::authenticate`], and then whatever `read` failed with.
    pub async fn authenticate_with<T, F>(&self, read: impl FnOnce(ReadScope) -> F) -> Result<(Principal, T), ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let claim = Claim::parse(self.request.bearer().ok_or(Unauthorized)?)?;
        let (record, withheld) =
            futures_util::future::join(self.credentials.find(&claim), claim.read_ahead(read)).await;
        let principal = claim.prove(record?.as_ref(), now_ms())?;
        let kind = if principal.session().is_some() { Caller::Session } else { Caller::Platform };
        if !self.route.callers.contains(&kind) {
            return Err(ApiError::new(ErrorCode::Forbidden, "this kind of credential may not call this route"));
        }
        tracing::Span::current().record("credential", principal.credential_id().as_str());
        if self.request.headers.contains_key(IDEMPOTENCY_KEY) {
            return Err(ApiError::not_built(IDEMPOTENCY_KEY));
        }
        Ok((principal.clone(), withheld.release(&principal)??))
    }
}
