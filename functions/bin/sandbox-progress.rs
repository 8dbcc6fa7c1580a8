//! `POST /a/{token}/v1/sandbox/progress`
use theazo_functions::{lambda, routes};

lambda!(routes::SANDBOX_PROGRESS);
