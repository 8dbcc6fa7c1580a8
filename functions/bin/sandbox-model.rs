//! `POST /a/{token}/v1/sandbox/model`
use theazo_functions::{lambda, routes};

lambda!(routes::SANDBOX_MODEL);
