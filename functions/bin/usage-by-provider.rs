//! `GET /v1/usage/by-provider`
use theazo_functions::{lambda, routes};

lambda!(routes::USAGE_BY_PROVIDER);
