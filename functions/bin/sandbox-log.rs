//! `POST /a/{token}/v1/sandbox/log`
use theazo_functions::{lambda, routes};

lambda!(routes::SANDBOX_LOG);
