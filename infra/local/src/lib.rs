//! The local stack: the same functions behind one local server, over an embedded DynamoDB-compatible engine, a small
//! KMS emulator, and the machine's Docker engine.

pub mod bench;
pub mod data_dir;
mod door;
pub mod lambda;
pub mod quickstart;
mod scratch;
mod server;
mod stack;
pub mod terminal;

pub use scratch::{On, Throwaway};
pub use stack::{Stack, StackConfig, StackError};
