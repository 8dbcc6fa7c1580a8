//! What the control plane and `theazo-machine` say to each other over TLS, where a sandbox is a virtual machine that no
//! engine attaches to.
//!
//! Whoever connects knows the server's key beforehand, by [`fingerprint length`](FINGERPRINT), and sends its token of
//! [`TOKEN`] bytes. The server answers with one byte, [`ADMITTED`] or [`REFUSED`]. An admitted client sends one request,
//! as a guest reads it from standard input. The server then sends [`ALIVE`] every [`ALIVE_SECONDS`] until it has the
//! guest's answer, and before that [`ANSWER`]. What a guest tells while its program runs comes in [`PIECE`]s, with which the
//! answer itself may begin. Closing the connection earlier ends what the request has started.
//!
//! [`Request::OpenPort`](crate::Request::OpenPort) is answered by the server itself.

/// Where the program is inside the image.
pub const MACHINE_PATH: &str = "/usr/local/bin/theazo-machine";
/// How its `admit` exits where nothing was delivered since the machine booted and no time is given to it: it has lost what it
/// had, and must not run anything as if it had not.
pub const UNDELIVERED: u8 = 3;
/// The port that it listens on inside the machine.
pub const MACHINE_PORT: u16 = 7443;
/// The port inside the machine on which it takes requests to the agent's ports, in HTTP: the provider's proxy ends TLS
/// before it. Agents may not listen on such a one, even where nobody else does.
pub const INGRESS_PORT: u16 = 80;
/// Most open ports of one agent.
pub const MOST_PORTS: usize = 8;
/// Bytes of a token, random ones.
pub const TOKEN: usize = 32;
/// Bytes of a fingerprint: SHA-256 of the server's public key as SubjectPublicKeyInfo in DER.
pub const FINGERPRINT: usize = 32;
/// The token is not the admitted one.
pub const REFUSED: u8 = 0;
/// The token is the admitted one.
pub const ADMITTED: u8 = 1;
/// The answer is not there yet.
pub const ALIVE: u8 = 2;
/// The rest is the answer.
pub const ANSWER: u8 = 3;
/// A part of what the guest says follows, after its length in bytes as a u32 in big-endian.
pub const PIECE: u8 = 4;
/// Most bytes of a part.
pub const MAX_PIECE: usize = 64 * 1024;
/// How often a waiting client hears that its request is still worked on: proxies close what is silent.
pub const ALIVE_SECONDS: u64 = 15;
