//! `POST /v1/agents/{id}/resume`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_RESUME);
