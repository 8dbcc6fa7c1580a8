//! `POST /v1/api-keys/{id}/rotate`

use super::{KEY, key_id, show_new};
use crate::idempotency::once;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{ApiKeys, Replays};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Longest overlap of a key and its successor.
const MAX_OVERLAP_MS: i64 = 30 * DAY_MS;

/// Makes a key that takes another's place; the old one ends after the overlap.
pub async fn handle(call: Call, keys: ApiKeys, replays: Replays) -> Result<Answer, ApiError> {
    let read = |_| async {
        let fields = call.request().fields(true)?;
        let overlap_ms = fields.duration_ms("overlap", 0, MAX_OVERLAP_MS)?.unwrap_or(DAY_MS);
        Ok((key_id(&call)?, overlap_ms))
    };
    let (principal, (id, overlap_ms)) = call.authenticate_with(read).await?;
    let work = async {
        let (key, issued) = keys.rotate(&principal, &id, overlap_ms).await?;
        Answer::json(201, &show_new(&key, &issued))
    };
    once(&call, &principal, &replays, Some(KEY), work).await
}
