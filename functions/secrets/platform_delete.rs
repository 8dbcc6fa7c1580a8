//! `DELETE /v1/secrets/{name}`

use super::canonical_name;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{SecretSealer, SecretTarget};

/// Deletes a platform secret. Running agents keep what they booted with.
pub async fn handle(call: Call, sealer: SecretSealer) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sealer) = (&call, &sealer);
        async move { Ok((canonical_name(call)?, sealer.load(&scope, &SecretTarget::Platform).await?)) }
    };
    let (principal, (name, state)) = call.authenticate_with(read).await?;
    sealer.delete(&principal.scope(), &SecretTarget::Platform, state, &name).await?;
    Ok(Answer::no_content())
}
