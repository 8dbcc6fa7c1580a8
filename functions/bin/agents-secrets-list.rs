//! `GET /v1/agents/{id}/secrets`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_SECRETS_LIST);
