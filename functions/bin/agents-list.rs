//! `GET /v1/agents`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_LIST);
