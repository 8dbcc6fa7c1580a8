//! `GET /health`
use theazo_functions::{lambda, routes};

lambda!(routes::HEALTH);
