//! `GET /v1/sessions`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_LIST);
