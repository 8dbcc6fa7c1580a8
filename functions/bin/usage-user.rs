//! `GET /v1/usage/users/{userId}`
use theazo_functions::{lambda, routes};

lambda!(routes::USAGE_USER);
