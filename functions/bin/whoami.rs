//! `GET /v1/whoami`
use theazo_functions::{lambda, routes};

lambda!(routes::WHOAMI);
