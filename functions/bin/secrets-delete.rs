//! `DELETE /v1/sessions/{id}/secrets/{name}`
use theazo_functions::{lambda, routes};

lambda!(routes::SECRETS_DELETE);
