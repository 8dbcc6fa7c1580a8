//! `GET /v1/sessions/{id}/secrets`

use super::listing;
use futures_util::future::{try_join, try_join3};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, SecretNames, SecretOrigin, SecretTarget, Sessions, now_ms};

/// A session's secret names, or with `?details=true` everything about them but their values.
pub async fn handle(call: Call, sessions: Sessions, names: SecretNames, agents: Agents) -> Result<Answer, ApiError> {
    let read = |scope: theazo_tenancy::ReadScope| {
        let (call, sessions, names, agents) = (&call, &sessions, &names, &agents);
        async move {
            let query = call.query()?;
            let details = query.flag("details")?;
            let with_inherited = query.flag("inherited")?;
            let id = call.request().session_id()?;
            let own = scope.session(&id).ok_or_else(ApiError::not_found)?;
            let inherited = async {
                match with_inherited {
                    true => names.load(&scope, &SecretTarget::Platform).await.map(Some),
                    false => Ok(None),
                }
            };
            let holders = async {
                match details {
                    true => agents.unsettled_of_session(&own).await,
                    false => Ok(Vec::new()),
                }
            };
            let target = SecretTarget::Session(id.clone());
            let read = try_join3(sessions.get(&scope, &id), names.load(&scope, &target), inherited);
            let ((session, own, inherited), holders) = try_join(read, holders).await?;
            Ok((details, session, own, inherited, holders))
        }
    };
    let (principal, (details, session, own, inherited, holders)) = call.authenticate_with(read).await?;
    if !session.is_some_and(|session| principal.scope().sees(&session.id)) {
        return Err(ApiError::not_found());
    }
    let now = now_ms();
    if details {
        let mut shown = listing::details(&own, SecretOrigin::Session, &holders, now);
        shown.extend(listing::deleted(&own, SecretOrigin::Session, &holders));
        if let Some(platform) = inherited {
            shown.extend(listing::deleted(&platform, SecretOrigin::Platform, &holders));
            // What has expired overrides nothing: agents get the inherited one.
            let not_overridden = platform.only_inherited().without(&own.without_expired(now));
            shown.extend(listing::details(&not_overridden, SecretOrigin::Platform, &holders, now));
        }
        listing::sort(&mut shown);
        return Answer::json(200, &shown);
    }
    let merged = match inherited {
        Some(platform) => own.clone().without_expired(now).merged_with(platform.only_inherited()).merged_with(own),
        None => own,
    };
    Answer::json(200, &listing::names(&merged))
}
