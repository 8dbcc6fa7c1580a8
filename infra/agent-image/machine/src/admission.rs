//! Who may send requests, and how long the machine has. Files in memory that only root can see are all there is between the
//! two commands: `admit` writes them, `serve` reads them when somebody connects and as time goes by.

use crate::layout::OWN_DIR;
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use theazo_guest_protocol::ENV_FILE;
use theazo_guest_protocol::machine::{FINGERPRINT, TOKEN};

/// How long a machine has that nobody has given time to: whoever starts one does that at once.
pub const UNLESS_TOLD: u64 = 300;
/// Longest time that can be given, in seconds.
const LONGEST: u64 = 8 * 24 * 3600;
/// How long the server may take to come up before `admit` gives up.
const UP_WITHIN: Duration = Duration::from_secs(8);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn place(name: &str) -> PathBuf {
    Path::new(OWN_DIR).join(name)
}

/// Admits a token and prints the fingerprint of the server's key. Without time for it a machine must have been delivered to
/// since it booted: false where it was not, and then nothing is admitted.
pub fn admit(digest: &str, seconds: Option<u64>) -> io::Result<bool> {
    let digest = hex::decode(digest).ok().filter(|digest| digest.len() == 32);
    let digest = digest.ok_or_else(|| io::Error::other("DIGEST is the SHA-256 of a token, in hex"))?;
    let until = Instant::now() + UP_WITHIN;
    let fingerprint = loop {
        match fs::read_to_string(place("fingerprint")) {
            Ok(fingerprint) => break fingerprint,
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => sleep(LOOK_AGAIN),
        }
    };
    match seconds {
        Some(seconds) => replace("deadline", (now() + seconds.min(LONGEST)).to_string().as_bytes())?,
        None if fs::exists(ENV_FILE)? => {}
        None => return Ok(false),
    }
    replace("admitted", hex::encode(digest).as_bytes())?;
    writeln!(io::stdout(), "{fingerprint}")?;
    Ok(true)
}

/// Whether that token is admitted now.
pub fn admits(token: &[u8; TOKEN]) -> bool {
    let Ok(admitted) = fs::read_to_string(place("admitted")) else { return false };
    let Ok(admitted) = hex::decode(admitted) else { return false };
    Sha256::digest(token).ct_eq(&admitted).into()
}

/// Says that the server is up, and with which key.
pub fn announce(fingerprint: &[u8; FINGERPRINT]) -> io::Result<()> {
    replace("deadline", (now() + UNLESS_TOLD).to_string().as_bytes())?;
    replace("fingerprint", hex::encode(fingerprint).as_bytes())
}

/// Whether the machine's time is over. What cannot be read gives none.
pub fn is_over() -> bool {
    let deadline = fs::read_to_string(place("deadline")).ok().and_then(|text| text.parse::<u64>().ok());
    deadline.is_none_or(|deadline| now() >= deadline)
}

/// Seconds since the machine began to run, those included in which it was suspended.
fn now() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

/// Replaces a file whole.
fn replace(name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = place(&format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, place(name))
}
