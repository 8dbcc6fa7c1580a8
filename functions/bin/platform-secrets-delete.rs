//! `DELETE /v1/secrets/{name}`
use theazo_functions::{lambda, routes};

lambda!(routes::PLATFORM_SECRETS_DELETE);
