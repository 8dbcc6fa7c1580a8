//! The audit trail: who changed what.

pub mod list;
