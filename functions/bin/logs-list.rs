//! `GET /v1/logs`
use theazo_functions::{lambda, routes};

lambda!(routes::LOGS_LIST);
