//! `GET /v1/logs/stream`
use theazo_functions::{lambda, routes};

lambda!(routes::LOGS_STREAM);
