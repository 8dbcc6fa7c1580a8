//! `GET /v1/agents/{id}`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_GET);
