//! `GET /v1/agents/{id}/files`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_FILES_LIST);
