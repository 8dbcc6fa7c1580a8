//! `POST /v1/agents/{id}/pause`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_PAUSE);
