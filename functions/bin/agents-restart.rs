//! `POST /v1/agents/{id}/restart`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_RESTART);
