//! The way from a port of a Docker host to one port of one agent on it, for those who have the port's token. What the program
//! is told and what it says is in `theazo_guest_protocol::forwarder`.
//!
//! It runs on the host's network, since nothing else reaches an agent's, in a container of its own without any right: as a
//! user of its own, who could not talk to services of the host by abstract sockets either, which know root only. What it can
//! do is bounded by its [`Way`]: connections leave through the agent's own bridge, or not at all. So one that was forgotten
//! leads to no other agent, even when another has the address by then, and ends when the bridge goes.
//!
//! The library is also what forwards inside an agent's virtual machine (`theazo-machine`), where one listener has the ways to
//! several ports: see [`Routes`].
//!
//! Both sides are hostile: strangers who find the port, and the agent's code, whose answers it passes on. It keeps nothing,
//! and prints nothing but the number of its port.

mod admission;
mod forward;
mod idle;
mod proxy;
mod routes;
mod strangers;
mod way;

pub use admission::Admission;
pub use forward::{Body, NoAnswer, forward};
pub use proxy::Proxy;
pub use routes::Routes;
pub use way::Way;
