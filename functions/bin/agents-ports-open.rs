//! `POST /v1/agents/{id}/exec`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_PORTS_OPEN);
