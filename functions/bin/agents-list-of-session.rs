//! `GET /v1/sessions/{id}/agents`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_LIST_OF_SESSION);
