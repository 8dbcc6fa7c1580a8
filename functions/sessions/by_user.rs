//! `POST /v1/sessions/by-user/{userId}`

use super::{MAX_METADATA, limits, show};
use crate::idempotency::once;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Replays, SessionChanges, Sessions};
use theazo_tenancy::UserId;

/// The user's live session, or a new one.
pub async fn handle(call: Call, sessions: Sessions, replays: Replays) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sessions) = (&call, &sessions);
        async move {
            let user = UserId::parse(call.request().param("userId")?)
                .ok_or_else(|| ApiError::invalid("userId", "cannot be a user id"))?;
            let fields = call.request().fields(true)?;
            let changes = SessionChanges {
                limits: limits::read(&fields, "limits")?,
                metadata: fields.texts("metadata", MAX_METADATA)?,
                ..SessionChanges::default()
            };
            let found = sessions.find_by_user(&scope, &user).await?;
            Ok((user, changes, found))
        }
    };
    let (principal, (user, changes, found)) = call.authenticate_with(read).await?;
    let work = async {
        let session = sessions.by_user(&principal.scope(), &user, &changes, found).await?;
        Answer::json(200, &show(&session))
    };
    once(&call, &principal, &replays, None, work).await
}
