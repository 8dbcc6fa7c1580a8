//! The provider contract, and an adapter per provider.
//!
//! An adapter turns the contract into one provider's own calls. It knows nothing of HTTP requests, of the
//! table or of tenants: it is told an agent's id, and everything it makes is found again by that id. The five
//! promises every adapter keeps about secrets:
//!
//! 1. every process the agent runs sees the delivered variables;
//! 2. they stay until the sandbox stops, and are gone after;
//! 3. no provider API answer, event or log shows a value;
//! 4. no snapshot, image or export contains one;
//! 5. restart and resume deliver the vault's current values.

mod contract;
pub mod docker;
pub mod e2b;
mod error;
pub mod fly;
mod frame;
mod guest_calls;
mod http;
mod intake;
mod known;
mod port_key;
pub mod simulated;

pub use contract::{
    AgentRef, Capacity, Environment, ExecOutput, ExecRequest, FilePiece, Health, Kept, OpenPort, OutputPiece,
    OutputStream, OutputWatch, OwnedSandbox, Presence, Provider, ProviderKind, Sandbox, SandboxSpec,
};
pub use error::ProviderError;
pub use theazo_guest_protocol::{FileEntry, Language, WriteAt};
