//! `POST /v1/sessions/{id}/secrets`
use theazo_functions::{lambda, routes};

lambda!(routes::SECRETS_SET);
