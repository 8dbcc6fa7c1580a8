//! `DELETE /v1/sessions/{id}/secrets/{name}`

use super::{canonical_name, live};
use futures_util::future::try_join;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{SecretSealer, SecretTarget, Sessions};

/// Deletes a session's secret. Running agents keep what they booted with.
pub async fn handle(call: Call, sessions: Sessions, sealer: SecretSealer) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sessions, sealer) = (&call, &sessions, &sealer);
        async move {
            let id = call.request().session_id()?;
            let name = canonical_name(call)?;
            let target = SecretTarget::Session(id.clone());
            let (session, state) = try_join(sessions.get(&scope, &id), sealer.load(&scope, &target)).await?;
            Ok((target, name, session, state))
        }
    };
    let (principal, (target, name, session, state)) = call.authenticate_with(read).await?;
    live(session)?;
    sealer.delete(&principal.scope(), &target, state, &name).await?;
    Ok(Answer::no_content())
}
