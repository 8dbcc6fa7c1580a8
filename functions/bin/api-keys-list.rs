//! `GET /v1/api-keys`
use theazo_functions::{lambda, routes};

lambda!(routes::API_KEYS_LIST);
