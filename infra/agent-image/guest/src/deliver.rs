//! The delivered environment. Owns the format and the file: written whole or not at all, by a user that the
//! agent's programs are not, and read anew before each program.

use crate::files::refusal;
use crate::place::Place;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use theazo_guest_protocol::Refusal;

/// `root` writes, the agent's group reads.
const MODE: u32 = 0o640;

/// Replaces the delivered environment. Programs that run keep what they started with.
pub fn replace(place: &Place, entries: &[u8]) -> Result<(), Refusal> {
    if !well_formed(entries) {
        return Err(Refusal::BadRequest);
    }
    // Process ids are unique inside a sandbox, so a file of this name is one that a dead guest left.
    let temporary = place.run.join(format!(".env.{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let written = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all(entries)
    });
    let moved = written.and_then(|()| std::fs::rename(&temporary, &place.env_file));
    moved.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        refusal(&error)
    })
}

/// Reads the delivered environment; none has been delivered when there is no file. Any other failure is
/// an error, so that no program runs without the secrets it was promised.
pub fn read(place: &Place) -> Result<Vec<(OsString, OsString)>, Refusal> {
    match std::fs::read(&place.env_file) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(refusal(&error)),
    }
}

/// Whether the bytes are entries, each ended by a NUL. Which names are allowed is the control plane's business.
fn well_formed(entries: &[u8]) -> bool {
    match entries.split_last() {
        None => true,
        Some((0, body)) => body.split(|byte| *byte == 0).all(|entry| split(entry).is_some()),
        Some(_) => false,
    }
}

fn parse(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    bytes
        .split(|byte| *byte == 0)
        .filter_map(split)
        .map(|(name, value)| (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())))
        .collect()
}

fn split(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = entry.iter().position(|byte| *byte == b'=')?;
    let (name, value) = entry.split_at_checked(at)?;
    (!name.is_empty()).then_some((name, value.get(1..)?))
}

/// Opens a file for writing that only its owner can read, and that did not exist.
pub fn create_private(path: &std::path::Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_anything_but_a_nul() {
        let parsed = parse(b"A=1\0EMPTY=\0MULTI=a=b\nc\xff\0");
        assert_eq!(parsed.len(), 3);
        assert_eq!(parsed[1], ("EMPTY".into(), "".into()));
        assert_eq!(parsed[2].1, OsString::from_vec(b"a=b\nc\xff".to_vec()));
    }

    #[test]
    fn a_delivery_that_is_not_entries_is_refused() {
        for bad in [b"A=1".as_slice(), b"A\0", b"=x\0", b"\0", b"A=1\0\0"] {
            assert!(!well_formed(bad), "{bad:?}");
        }
        assert!(well_formed(b""));
        assert!(well_formed(b"A=\0B=2\0"));
    }
}
