//! `GET /v1/agents/{id}/files/{path*}`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_FILES_READ);
