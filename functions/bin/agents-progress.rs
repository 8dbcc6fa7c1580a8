//! `GET /v1/agents/{id}/progress`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_PROGRESS);
