//! `GET /v1/sessions/{id}/limits`

use futures_util::future::try_join;
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Counters, Limits, Sessions};

/// Each limit that is set, and how much of it is used.
pub async fn handle(call: Call, sessions: Sessions) -> Result<Answer, ApiError> {
    let read = |scope: theazo_tenancy::ReadScope| {
        let (call, sessions) = (&call, &sessions);
        async move {
            let id = call.request().session_id()?;
            let own = scope.session(&id).ok_or_else(ApiError::not_found)?;
            Ok(try_join(sessions.get(&scope, &id), sessions.counters(&own)).await?)
        }
    };
    let (principal, (session, counters)) = call.authenticate_with(read).await?;
    let session = session.filter(|session| principal.scope().sees(&session.id));
    Answer::json(200, &show(&session.ok_or_else(ApiError::not_found)?.limits, &counters))
}

pub(super) fn show(limits: &Limits, counters: &Counters) -> Value {
    let mut shown = json!({});
    if let Some(max) = limits.max_agents {
        let used = u32::try_from(counters.active_agents).unwrap_or(0);
        let percentage = if max == 0 { 100.0 } else { f64::from(used) * 100.0 / f64::from(max) };
        shown["maxAgents"] = json!({
            "limit": max,
            "used": used,
            "remaining": max.saturating_sub(used),
            "percentage": (percentage * 100.0).round() / 100.0,
        });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_shows_what_is_used_and_what_remains() {
        let counters = Counters { active_agents: 1, total_agents: 5, compute_ms: 0 };
        let shown = show(&Limits { max_agents: Some(3) }, &counters);
        assert_eq!(shown["maxAgents"], json!({"limit": 3, "used": 1, "remaining": 2, "percentage": 33.33}));
        assert_eq!(show(&Limits::default(), &counters), json!({}));
        assert_eq!(show(&Limits { max_agents: Some(0) }, &counters)["maxAgents"]["percentage"], 100.0);
    }
}
