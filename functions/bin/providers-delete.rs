//! `DELETE /v1/providers/{provider}`
use theazo_functions::{lambda, routes};

lambda!(routes::PROVIDERS_DELETE);
