//! `GET /v1/sessions/{id}`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_GET);
