//! `GET /v1/audit`
use theazo_functions::{lambda, routes};

lambda!(routes::AUDIT_LIST);
