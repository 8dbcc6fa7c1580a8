//! `GET /docs`

use theazo_docs_page::{HTML, POLICY};
use theazo_http::{Answer, ApiError, Call};

/// The API's own description for reading in a browser: one page that asks nobody else for anything.
pub async fn handle(_call: Call) -> Result<Answer, ApiError> {
    Ok(Answer::page(HTML, POLICY))
}
