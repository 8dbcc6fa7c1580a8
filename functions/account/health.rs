//! `GET /health`: liveness. It touches nothing, so it says nothing about what lies behind.

use serde_json::json;
use theazo_http::{Answer, ApiError, Call};

/// Answers that the service runs.
pub async fn handle(_call: Call) -> Result<Answer, ApiError> {
    Answer::json(200, &json!({ "status": "ok" }))
}
