//! What the control plane and `theazo-forwarder` agree on: the way from a host's port to one port of one agent on it.
//!
//! `theazo-forwarder LISTEN TO BRIDGE DIGEST UNTIL` listens on a port that the kernel picks, prints its number in a line of
//! its own as the only thing that it ever prints on standard output, and ends at that time. A request that carries the token
//! in [`PORT_TOKEN_HEADER`], the one with that digest, is forwarded without it; any other is refused. Nothing of its
//! arguments is secret: whoever sees the digest of a random token cannot tell the token.

/// Where the program is inside the image.
pub const FORWARDER_PATH: &str = "/usr/local/bin/theazo-forwarder";
/// The user and group that it runs as: nobody else's.
pub const FORWARDER_UID: u32 = 10002;
/// The header that a request carries the token in, as 64 hexadecimal digits.
pub const PORT_TOKEN_HEADER: &str = "theazo-port-token";
/// LISTEN: only this machine can connect.
pub const LOOPBACK: &str = "loopback";
/// LISTEN: whoever reaches the machine can connect.
pub const EVERYWHERE: &str = "everywhere";
