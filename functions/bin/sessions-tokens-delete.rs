//! `DELETE /v1/sessions/{id}/tokens`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_TOKENS_DELETE);
