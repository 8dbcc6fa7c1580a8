//! `POST /v1/api-keys/{id}/rotate`
use theazo_functions::{lambda, routes};

lambda!(routes::API_KEYS_ROTATE);
