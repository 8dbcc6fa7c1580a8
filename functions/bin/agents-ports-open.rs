//! `POST /v1/agents/{id}/ports`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_PORTS_OPEN);
