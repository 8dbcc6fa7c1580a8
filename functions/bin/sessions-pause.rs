//! `POST /v1/sessions/{id}/pause`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_PAUSE);
