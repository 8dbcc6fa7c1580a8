//! `GET /v1/openapi.json`

use theazo_http::{Answer, ApiError, Call};

/// The API's own description, as it is checked in.
pub async fn handle(_call: Call) -> Result<Answer, ApiError> {
    Ok(Answer::json_text(include_str!("../../infra/openapi.json")))
}
