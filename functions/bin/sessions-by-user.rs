//! `POST /v1/sessions/by-user/{userId}`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_BY_USER);
