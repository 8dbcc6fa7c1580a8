//! `POST /v1/secrets`

use super::body::{self, BodyKind};
use crate::idempotency::once;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Replays, SecretSealer, SecretTarget};

/// Sets the platform's secrets: merges, all or nothing. Every session inherits them unless told otherwise.
pub async fn handle(call: Call, sealer: SecretSealer, replays: Replays) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sealer) = (&call, &sealer);
        async move {
            let secrets = body::parse(&call.request().body, BodyKind::Platform)?;
            Ok((secrets, sealer.load(&scope, &SecretTarget::Platform).await?))
        }
    };
    let (principal, (secrets, state)) = call.authenticate_with(read).await?;
    let work = async {
        sealer.set(&principal.scope(), &SecretTarget::Platform, state, &secrets).await?;
        Ok(Answer::no_content())
    };
    once(&call, &principal, &replays, None, work).await
}
