//! `POST /v1/sessions/{id}/resume`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_RESUME);
