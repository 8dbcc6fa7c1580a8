//! `GET /v1/sessions/{id}/usage`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_USAGE);
