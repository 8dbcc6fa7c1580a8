//! `GET /v1/agents/{id}/status`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_STATUS);
