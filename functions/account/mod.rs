//! Who is calling, and whether anyone answers.

pub mod docs;
pub mod health;
pub mod openapi;
pub mod whoami;
