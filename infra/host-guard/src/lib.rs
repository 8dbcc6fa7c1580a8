//! Keeps agents from the Docker host that they run on.
//!
//! Owns the firewall's rules (`firewall.sh`, which root can also run by hand), putting them and the agent image on a host by
//! nothing but its engine, and the probe: an agent that tries what it must not reach, because rules that nobody has tried are
//! a hope. A network per agent alone leaves open what the host offers on any of its addresses, private networks and the
//! cloud's metadata address.

mod enroll;
mod probe;

pub use enroll::{Lasting, load_image, put_firewall};
pub use probe::{Probe, remove_probes};

use std::time::Duration;

/// The firewall of a host, as a program for `sh`. It explains itself when it is run without arguments.
pub const FIREWALL: &str = include_str!("../firewall.sh");

/// Why a host could not be set up. `Display` says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// An engine refused or failed a call.
    #[error("{doing}: {source}")]
    Engine {
        /// In our words.
        doing: &'static str,
        /// What the engine said.
        source: Box<bollard::errors::Error>,
    },
    /// Neither engine has the image.
    #[error("neither the host nor the engine that it would come from has the image {0}; `cargo dev` builds it")]
    NoImage(String),
    /// The firewall's program failed on the host.
    #[error("the host's firewall could not be put in place: {0}")]
    Firewall(String),
    /// It took too long.
    #[error("{doing} took longer than {} s", .within.as_secs())]
    TimedOut {
        /// In our words.
        doing: &'static str,
        /// How long it was given.
        within: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::FIREWALL;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn firewall(arguments: &[&str], input: &str) -> (Option<i32>, String) {
        let mut command = Command::new("sh");
        command.args(["-c", FIREWALL, "firewall.sh"]).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn only_name_servers_that_a_container_can_use_are_let_through() {
        let found = |text: &str| firewall(&["resolvers", "/nowhere", "/dev/stdin"], text).1;
        let text = "# nameserver 10.0.0.1\nsearch x\nnameserver 127.0.0.53\n nameserver\t10.0.0.2 \nnameserver fd00::1\n\
                    nameserver 8.8.8.8; rm -rf /\nnameserver 256.1.1.1\nnameserver 1.2.3\nnameserver 9.9.9.9\n";
        assert_eq!(found(text), "10.0.0.2\n9.9.9.9\n");
        assert_eq!(found("nameserver 127.0.0.53\n"), "");
    }

    #[test]
    fn the_script_explains_itself_and_takes_no_port_that_is_none() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/firewall.sh");
        let explained = Command::new("sh").arg(file).output().unwrap();
        assert_eq!(explained.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&explained.stdout).contains("firewall.sh install"));
        for bad in ["", "80x", "-j", "1:65535", "$(id)"] {
            assert_eq!(firewall(&["open", bad], "").0, Some(2), "{bad}");
        }
    }
}
