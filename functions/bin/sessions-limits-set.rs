//! `PATCH /v1/sessions/{id}/limits`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_LIMITS_SET);
