//! Files of a sandbox, resolved as from inside it: the kernel takes the room's root for the root of every path and link.

use crate::error::RpcError;
use crate::room::{User, is_root};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A path from inside, taken apart into its directory, opened, and its last name.
struct Place {
    dir: OwnedFd,
    name: String,
    shown: String,
}

fn resolve(root: &Path, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = if path.is_empty() { "/" } else { path };
    openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Absolute, with `~` and relative paths at the user's home.
fn absolute(user: User, path: &str) -> String {
    match path.strip_prefix('~').map(|rest| rest.trim_start_matches('/')) {
        Some(rest) => format!("{}/{rest}", user.home()),
        None if path.starts_with('/') => path.to_owned(),
        None => format!("{}/{path}", user.home()),
    }
}

fn own(path: &Path, user: User) -> io::Result<()> {
    if is_root() { chown(path, Some(user.uid()), Some(user.uid())) } else { Ok(()) }
}

impl Place {
    /// Opens the directory of a path; where asked, it and those above it are made.
    fn find(root: &Path, user: User, path: &str, make: bool) -> io::Result<Self> {
        let shown = absolute(user, path);
        let components: Vec<&str> = shown.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let (name, parents) = match components.split_last() {
            Some((name, parents)) => ((*name).to_owned(), parents),
            None => (".".to_owned(), &[][..]),
        };
        let mut above = String::new();
        let mut dir = resolve(root, "/", OFlags::PATH | OFlags::DIRECTORY)?;
        for part in parents {
            above = format!("{above}/{part}");
            dir = match resolve(root, &above, OFlags::PATH | OFlags::DIRECTORY) {
                Err(Errno::NOENT) if make => {
                    mkdirat(&dir, *part, Mode::from_raw_mode(0o755))?;
                    let made = resolve(root, &above, OFlags::PATH | OFlags::DIRECTORY)?;
                    own(&through(&made), user)?;
                    made
                }
                other => other?,
            };
        }
        Ok(Self { dir, name, shown })
    }

    fn outside(&self) -> PathBuf {
        through(&self.dir).join(&self.name)
    }
}

/// An open directory's path for calls that take one.
fn through(dir: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", dir.as_raw_fd()).into()
}

pub(crate) fn is_dir(root: &Path, path: &str) -> bool {
    resolve(root, path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
}

/// A whole file.
pub(crate) fn read(root: &Path, user: User, path: &str) -> io::Result<Vec<u8>> {
    let mut file = File::from(resolve(root, &absolute(user, path), OFlags::RDONLY)?);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a file; it belongs to the user, and everybody inside may read it.
pub(crate) fn write(root: &Path, user: User, path: &str, bytes: &[u8]) -> io::Result<Value> {
    let place = Place::find(root, user, path, true)?;
    let mut file = match resolve(root, &place.shown, OFlags::WRONLY | OFlags::TRUNC) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => File::create(place.outside())?,
        Err(error) => return Err(error.into()),
    };
    file.write_all(bytes)?;
    own(&through(&OwnedFd::from(file)), user)?;
    Ok(json!({ "path": place.shown, "name": place.name, "type": "file" }))
}

fn entry(path: &Path, shown: &str) -> io::Result<Value> {
    let link = std::fs::symlink_metadata(path)?;
    let target = link.is_symlink().then(|| std::fs::read_link(path)).transpose()?;
    Ok(show(&link, shown, target))
}

fn show(metadata: &Metadata, shown: &str, target: Option<PathBuf>) -> Value {
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => "FILE_TYPE_DIRECTORY",
        kind if kind.is_symlink() => "FILE_TYPE_SYMLINK",
        _ => "FILE_TYPE_FILE",
    };
    let modified = OffsetDateTime::from_unix_timestamp(metadata.mtime()).ok();
    let modified = modified.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
    let mut entry = json!({
        "name": shown.rsplit('/').next().unwrap_or_default(), "type": kind, "path": shown,
        "size": metadata.size().to_string(), "mode": metadata.mode() & 0o7777,
        "permissions": format!("{:o}", metadata.mode() & 0o7777),
        "owner": metadata.uid().to_string(), "group": metadata.gid().to_string(), "modifiedTime": modified,
    });
    if let Some(target) = target {
        entry["symlinkTarget"] = target.to_string_lossy().into();
    }
    entry
}

/// A call of the file system's service.
pub(crate) fn procedure(root: &Path, user: User, method: &str, request: &Value) -> Result<Value, RpcError> {
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    let outcome = match method {
        "Stat" => stat(root, user, text("path")),
        "ListDir" => list(root, user, text("path"), request["depth"].as_u64().unwrap_or(1).max(1)),
        "MakeDir" => {
            let made = Place::find(root, user, text("path"), true).and_then(|place| {
                std::fs::create_dir(place.outside())?;
                own(&place.outside(), user)?;
                entry(&place.outside(), &place.shown)
            });
            made.map(|entry| json!({ "entry": entry }))
        }
        "Move" => Place::find(root, user, text("source"), false).and_then(|source| {
            let target = Place::find(root, user, text("destination"), true)?;
            std::fs::rename(source.outside(), target.outside())?;
            Ok(json!({ "entry": entry(&target.outside(), &target.shown)? }))
        }),
        "Remove" => Place::find(root, user, text("path"), false).and_then(|place| {
            let path = place.outside();
            let removed = match std::fs::symlink_metadata(&path)?.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            removed.map(|()| json!({}))
        }),
        _ => return Err(RpcError::new("unimplemented", format!("{method} is not emulated"))),
    };
    outcome.map_err(|error| RpcError::from_io(&error))
}

fn stat(root: &Path, user: User, path: &str) -> io::Result<Value> {
    let place = Place::find(root, user, path, false)?;
    Ok(json!({ "entry": entry(&place.outside(), &place.shown)? }))
}

fn list(root: &Path, user: User, path: &str, depth: u64) -> io::Result<Value> {
    let mut entries = Vec::new();
    let mut waiting = vec![(absolute(user, path), 1)];
    while let Some((shown, level)) = waiting.pop() {
        let dir = resolve(root, &shown, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for child in std::fs::read_dir(through(&dir))? {
            let child = child?;
            let below = format!("{}/{}", shown.trim_end_matches('/'), child.file_name().to_string_lossy());
            if level < depth && child.file_type()?.is_dir() {
                waiting.push((below.clone(), level + 1));
            }
            entries.push(entry(&child.path(), &below)?);
        }
    }
    entries.sort_by(|a, b| a["path"].as_str().cmp(&b["path"].as_str()));
    Ok(json!({ "entries": entries }))
}
