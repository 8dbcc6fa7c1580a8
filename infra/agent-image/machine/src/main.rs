//! The main program of a virtual machine that one agent runs in, where the provider offers no way to attach to a process:
//! it takes requests over TLS and hands each to a guest of its own, as an engine would.
//!
//! `serve` is the machine's main process and runs as root: it lays the machine out, makes a key that never leaves its
//! memory, and listens. `admit DIGEST [SECONDS]`, also as root, is run through the provider's own exec call, and so by
//! whoever owns the machine: it admits the token with that SHA-256 and no other, gives the machine that long from now if
//! it says so, and prints the fingerprint of the key. A machine that nobody gives time to ends soon; nor is anybody admitted
//! to one without, to which nothing was delivered since it booted.
//!
//! Requests run as the agent's user; only a delivery runs as root. Nothing here prints, logs or stores a byte of a request.
//!
//! `forward` is what `serve` starts for requests from outside to the agent's ports, as a user with no other right.

mod admission;
mod forward;
mod layout;
mod ports;
mod serve;
mod socket;
mod strangers;
mod tls;

use std::io::Write;
use std::process::ExitCode;
use theazo_guest_protocol::machine::UNDELIVERED;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve"] => serve::run().map(|()| true),
        ["forward"] => forward::run().map(|()| true),
        ["admit", digest] => admission::admit(digest, None),
        ["admit", digest, seconds] => match seconds.parse() {
            Ok(seconds) => admission::admit(digest, Some(seconds)),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            complain("theazo-machine: nothing was delivered since this machine booted");
            ExitCode::from(UNDELIVERED)
        }
        Err(error) => {
            complain(&format!("theazo-machine: {error}"));
            ExitCode::from(1)
        }
    }
}

fn usage() -> ExitCode {
    complain("usage: theazo-machine serve | admit DIGEST [SECONDS]");
    ExitCode::from(2)
}

/// Says something on standard error, where the machine's owner sees it.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
