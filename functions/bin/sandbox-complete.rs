//! `POST /a/{token}/v1/sandbox/complete`
use theazo_functions::{lambda, routes};

lambda!(routes::SANDBOX_COMPLETE);
