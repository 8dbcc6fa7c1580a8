//! `GET /v1/secrets`
use theazo_functions::{lambda, routes};

lambda!(routes::PLATFORM_SECRETS_LIST);
