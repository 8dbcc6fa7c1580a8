//! `POST /v1/agents/{id}/terminate`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_TERMINATE);
