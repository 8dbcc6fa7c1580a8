//! `DELETE /v1/api-keys/{id}`
use theazo_functions::{lambda, routes};

lambda!(routes::API_KEYS_DELETE);
