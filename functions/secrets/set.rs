//! `POST /v1/sessions/{id}/secrets`

use super::body::{self, BodyKind};
use super::{live, terminated};
use crate::idempotency::once;
use futures_util::future::try_join;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Replays, SecretSealer, SecretTarget, Sessions, StoreError};

/// Sets a session's secrets: merges, all or nothing.
pub async fn handle(
    call: Call,
    sessions: Sessions,
    sealer: SecretSealer,
    replays: Replays,
) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sessions, sealer) = (&call, &sessions, &sealer);
        async move {
            let id = call.request().session_id()?;
            let secrets = body::parse(&call.request().body, BodyKind::Session)?;
            let target = SecretTarget::Session(id.clone());
            let (session, state) = try_join(sessions.get(&scope, &id), sealer.load(&scope, &target)).await?;
            Ok((target, secrets, session, state))
        }
    };
    let (principal, (target, secrets, session, state)) = call.authenticate_with(read).await?;
    let work = async {
        // Whatever the session has become since, a request that was answered is answered again.
        live(session)?;
        match sealer.set(&principal.scope(), &target, state, &secrets).await {
            Ok(()) => Ok(Answer::no_content()),
            // It was there a moment ago, and sessions do not go: it has ended meanwhile.
            Err(StoreError::NotFound) => Err(terminated()),
            Err(error) => Err(error.into()),
        }
    };
    once(&call, &principal, &replays, None, work).await
}
