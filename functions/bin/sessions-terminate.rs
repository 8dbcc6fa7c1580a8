//! `POST /v1/sessions/{id}/terminate`
use theazo_functions::{lambda, routes};

lambda!(routes::SESSIONS_TERMINATE);
