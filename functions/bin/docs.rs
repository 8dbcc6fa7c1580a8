//! `GET /v1/docs`
use theazo_functions::{lambda, routes};

lambda!(routes::DOCS);
