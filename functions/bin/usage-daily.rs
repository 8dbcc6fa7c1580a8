//! `GET /v1/usage/daily`
use theazo_functions::{lambda, routes};

lambda!(routes::USAGE_DAILY);
