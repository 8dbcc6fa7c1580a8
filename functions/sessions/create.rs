//! `POST /v1/sessions`

use super::{MAX_METADATA, limits, show};
use crate::idempotency::once;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{NewSession, Replays, SessionEnvironment, Sessions};
use theazo_tenancy::{MAX_USER_ID_BYTES, UserId};

/// Makes a session.
pub async fn handle(call: Call, sessions: Sessions, replays: Replays) -> Result<Answer, ApiError> {
    let (principal, new) = call.authenticate_with(|_| async { parse(&call) }).await?;
    let work = async {
        let session = sessions.create(&principal.scope(), &new).await?;
        Answer::json(201, &show(&session))
    };
    once(&call, &principal, &replays, None, work).await
}

fn parse(call: &Call) -> Result<NewSession, ApiError> {
    let fields = call.request().fields(true)?;
    let user = fields.text("userId", MAX_USER_ID_BYTES)?;
    let user = user.map(|text| UserId::parse(text).ok_or_else(|| ApiError::invalid("userId", "cannot be a user id")));
    let environment = fields.one_of("environment", |name| match name {
        "production" => Some(SessionEnvironment::Production),
        "staging" => Some(SessionEnvironment::Staging),
        "development" => Some(SessionEnvironment::Development),
        _ => None,
    })?;
    Ok(NewSession {
        user: user.transpose()?,
        environment: environment.unwrap_or_default(),
        metadata: fields.texts("metadata", MAX_METADATA)?.unwrap_or_default(),
        limits: limits::read(&fields, "limits")?.unwrap_or_default(),
    })
}
