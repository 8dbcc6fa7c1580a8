//! `POST /v1/api-keys`

use super::{KEY, show_new};
use crate::idempotency::once;
use theazo_http::{Answer, ApiError, Call, ErrorCode, parse_time_ms};
use theazo_store::{ApiKeys, NewApiKey, Replays, now_ms};
use theazo_tenancy::Mode;

const MAX_NAME: usize = 128;

/// Makes an API key. It is shown this once.
pub async fn handle(call: Call, keys: ApiKeys, replays: Replays) -> Result<Answer, ApiError> {
    let (principal, new) = call.authenticate_with(|_| async { parse(&call) }).await?;
    if principal.mode() == Mode::Test && new.mode == Mode::Live {
        return Err(ApiError::new(ErrorCode::Forbidden, "a test key cannot make a live key"));
    }
    let work = async {
        let (key, issued) = keys.create(&principal, &new).await?;
        Answer::json(201, &show_new(&key, &issued))
    };
    once(&call, &principal, &replays, Some(KEY), work).await
}

fn parse(call: &Call) -> Result<NewApiKey, ApiError> {
    let fields = call.request().fields(false)?;
    let name = fields.required_text("name", MAX_NAME)?.to_owned();
    if name.is_empty() {
        return Err(ApiError::invalid("name", "must not be empty"));
    }
    let mode = fields.one_of("environment", Mode::parse)?;
    let expires_at_ms = match fields.text("expiresAt", 64)? {
        Some(text) => {
            let at = parse_time_ms(text).ok_or_else(|| ApiError::invalid("expiresAt", "must be an ISO 8601 time"))?;
            if at <= now_ms() {
                return Err(ApiError::invalid("expiresAt", "must be in the future"));
            }
            Some(at)
        }
        None => None,
    };
    let mode = mode.ok_or_else(|| ApiError::invalid("environment", "must be live or test"))?;
    Ok(NewApiKey { name, mode, expires_at_ms })
}
