//! What the machine must look like before agent code runs in it. Owns the places outside the agent's reach.

use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use theazo_guest_protocol::{AGENT_UID, RUN_DIR};

/// This program's own memory file system: the admitted token's digest, the deadline, the key's fingerprint.
pub const OWN_DIR: &str = "/run/theazo-machine";
/// Where the provider's init offers its API to whoever is root inside. Hidden, should the agent ever get past its user.
const PLATFORM_DIR: &str = "/.fly";
const DATA: &str = "/data";

/// Lays the machine out. Nothing may run in it when this fails.
pub fn prepare() -> io::Result<()> {
    if !rustix::process::getuid().is_root() {
        return Err(io::Error::other("must run as root, as the image for machines says"));
    }
    memory(RUN_DIR, &format!("mode=0750,uid=0,gid={AGENT_UID},size=16m"))?;
    memory(OWN_DIR, "mode=0700,uid=0,gid=0,size=1m")?;
    match fs::set_permissions(PLATFORM_DIR, Permissions::from_mode(0o700)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(DATA)?;
    // A fresh volume belongs to root.
    if fs::metadata(DATA)?.uid() != AGENT_UID {
        chown(DATA, Some(AGENT_UID), Some(AGENT_UID))?;
    }
    fs::set_permissions("/tmp", Permissions::from_mode(0o1777))
}

/// Mounts memory there: what lies in it is on no disk, and gone when the machine stops.
fn memory(dir: &str, options: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let options = CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("tmpfs", Path::new(dir), "tmpfs", flags, Some(options.as_c_str()))?)
}
