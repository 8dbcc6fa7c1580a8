//! `POST /a/{token}/v1/sandbox/span`
use theazo_functions::{lambda, routes};

lambda!(routes::SANDBOX_SPAN);
