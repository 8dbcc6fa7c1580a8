//! `GET /v1/metrics/summary`
use theazo_functions::{lambda, routes};

lambda!(routes::METRICS_SUMMARY);
