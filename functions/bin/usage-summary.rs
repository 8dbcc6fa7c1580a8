//! `GET /v1/usage/summary`
use theazo_functions::{lambda, routes};

lambda!(routes::USAGE_SUMMARY);
