//! Who is calling, and whether anyone answers.

pub mod health;
pub mod whoami;
