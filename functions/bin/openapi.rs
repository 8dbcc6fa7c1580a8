//! `GET /v1/openapi`
use theazo_functions::{lambda, routes};

lambda!(routes::OPENAPI);
