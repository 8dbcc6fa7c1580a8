//! The local stack: the same functions behind one local server, over an embedded DynamoDB-compatible engine, a small
//! KMS emulator, and the machine's Docker engine.

pub mod bench;
pub mod data_dir;
mod door;
pub mod lambda;
pub mod quickstart;
mod server;
mod stack;
pub mod terminal;

pub use stack::{Stack, StackConfig, StackError};
