//! `GET /v1/agents/{id}/logs/stream`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_LOGS_STREAM);
