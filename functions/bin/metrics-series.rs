//! `GET /v1/metrics`
use theazo_functions::{lambda, routes};

lambda!(routes::METRICS_SERIES);
