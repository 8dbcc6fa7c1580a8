//! `POST /v1/agents/{id}/retry`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_RETRY);
