//! Compute providers as a platform sees them.

pub mod list;
