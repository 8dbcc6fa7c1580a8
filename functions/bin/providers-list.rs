//! `GET /v1/providers`
use theazo_functions::{lambda, routes};

lambda!(routes::PROVIDERS_LIST);
