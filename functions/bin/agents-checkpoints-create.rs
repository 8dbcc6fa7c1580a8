//! `POST /v1/agents/{id}/checkpoints`
use theazo_functions::{lambda, routes};

lambda!(routes::AGENTS_CHECKPOINTS_CREATE);
