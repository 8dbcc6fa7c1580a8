//! `GET /v1/usage/export`
use theazo_functions::{lambda, routes};

lambda!(routes::USAGE_EXPORT);
