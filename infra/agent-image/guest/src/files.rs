//! Files of the agent. Owns the rule that a path stays beneath `/data` or `/tmp`: the kernel resolves it
//! relative to that directory (`openat2` with `RESOLVE_BENEATH`), so neither `..` nor a link the agent made,
//! not even one exchanged meanwhile, leads out. An absolute link is refused even if it leads back in.
//!
//! The guest has only the agent's rights here; the rule protects other files of the sandbox, such as the
//! delivered environment, from being read through the file endpoints.

use crate::place::Place;
use crate::serve::TOO_BIG;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, open, openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use theazo_guest_protocol::{FileEntry, MAX_HEADER, MAX_PAYLOAD, Refusal, WriteAt};

/// A FIFO must not make the guest wait for its other end, and a terminal must not become ours.
const CALM: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const NEW_FILE: Mode = Mode::from_raw_mode(0o644);
const NEW_DIR: Mode = Mode::from_raw_mode(0o755);
/// Longest path that is looked at, in bytes; the kernel's own limit.
const LONGEST_PATH: usize = 4095;

/// A piece of a file.
pub struct Piece {
    /// Size of the whole file in bytes.
    pub size: u64,
    /// The piece.
    pub bytes: Vec<u8>,
}

/// Writes to a regular file; missing parents are made. Without `at` the whole file is replaced: a new file
/// beside it takes its place in one step and keeps its permissions, so a reader sees the old or the new
/// content and a full disk leaves the old.
pub fn write(place: &Place, path: &str, at: Option<WriteAt>, bytes: &[u8]) -> Result<(), Refusal> {
    let path = Beneath::parse(place, path)?;
    let Some((name, parents)) = path.components.split_last() else { return Err(Refusal::WrongKind) };
    let parent = path.make_parents(parents)?;
    match at {
        None => path.replace(&parent, name, bytes),
        Some(at) => {
            let mut flags = OFlags::WRONLY | OFlags::CREATE | CALM;
            if at == WriteAt::End {
                flags |= OFlags::APPEND;
            }
            let mut file = File::from(path.open(flags, NEW_FILE)?);
            regular(&file)?;
            match at {
                WriteAt::End => file.write_all(bytes),
                WriteAt::Offset(offset) => file.write_all_at(bytes, offset),
            }
            .map_err(|error| refusal(&error))
        }
    }
}

/// Reads at most `length` bytes, and at most what fits into an answer, from `offset` on.
pub fn read(place: &Place, path: &str, offset: u64, length: u64) -> Result<Piece, Refusal> {
    let path = Beneath::parse(place, path)?;
    let file = File::from(path.open(OFlags::RDONLY | CALM, Mode::empty())?);
    let size = regular(&file)?.1;
    let wanted = length.min(size.saturating_sub(offset)).min(MAX_PAYLOAD as u64);
    let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(MAX_PAYLOAD)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refusal(&error)),
        }
    }
    bytes.truncate(filled);
    Ok(Piece { size, bytes })
}

/// A directory's entries by name. A link is shown as itself, not as what it leads to.
pub fn list(place: &Place, dir: &str) -> Result<Vec<FileEntry>, Refusal> {
    let dir = Beneath::parse(place, dir)?.open(OFlags::RDONLY | OFlags::DIRECTORY | CALM, Mode::empty())?;
    let mut entries = Vec::new();
    // What an entry takes in the answer besides its name; control characters take six bytes each.
    let mut budget = MAX_HEADER;
    for entry in Dir::read_from(&dir).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Removed since it was listed.
        let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        budget = budget.checked_sub(96 + name.to_bytes().len()).ok_or(TOO_BIG)?;
        let seconds = stat.st_mtime;
        let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        entries.push(FileEntry {
            name: name.to_string_lossy().into_owned(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ms: seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000),
            directory: FileType::from_raw_mode(stat.st_mode).is_dir(),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// A path taken apart: the open root and what to resolve beneath it.
struct Beneath<'a> {
    root: OwnedFd,
    components: Vec<&'a str>,
}

impl<'a> Beneath<'a> {
    fn parse(place: &Place, path: &'a str) -> Result<Self, Refusal> {
        if path.len() > LONGEST_PATH || path.contains('\0') {
            return Err(Refusal::BadPath);
        }
        if !path.starts_with('/') {
            return Err(Refusal::OutsideRoots);
        }
        let mut components = path.split('/').filter(|component| !matches!(*component, "" | "."));
        let root = match components.next() {
            Some("data") => &place.data,
            Some("tmp") => &place.tmp,
            _ => return Err(Refusal::OutsideRoots),
        };
        let components: Vec<&str> = components.collect();
        // `..` after a link is ambiguous, and nobody needs it.
        if components.contains(&"..") {
            return Err(Refusal::OutsideRoots);
        }
        let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        Ok(Self { root, components })
    }

    fn open(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd, Refusal> {
        self.resolve(&self.components, flags, mode).map_err(errno)
    }

    fn resolve(&self, components: &[&str], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if components.is_empty() { ".".to_owned() } else { components.join("/") };
        let rule = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // The kernel says EAGAIN when a rename elsewhere made its check of `..` in a link uncertain.
        let mut tries = 0;
        loop {
            match openat2(&self.root, &path, flags, mode, rule) {
                Err(Errno::AGAIN | Errno::INTR) if tries < 100 => tries += 1,
                other => return other,
            }
        }
    }

    fn dir(&self, components: &[&str]) -> Result<OwnedFd, Errno> {
        self.resolve(components, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Each level is resolved from the root again, so that a link in the middle may lead elsewhere beneath it.
    fn make_parents(&self, parents: &[&str]) -> Result<OwnedFd, Refusal> {
        match self.dir(parents) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(errno),
        }
        let mut above = self.dir(&[]).map_err(errno)?;
        for (depth, name) in parents.iter().enumerate() {
            let level = parents.get(..=depth).unwrap_or(parents);
            above = match self.dir(level) {
                Err(Errno::NOENT) => {
                    match mkdirat(&above, *name, NEW_DIR) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(errno(error)),
                    }
                    self.dir(level).map_err(errno)?
                }
                other => other.map_err(errno)?,
            };
        }
        Ok(above)
    }

    fn replace(&self, parent: &OwnedFd, name: &str, bytes: &[u8]) -> Result<(), Refusal> {
        // Also refuses a link that leads out; a link that stays beneath is replaced by the file.
        let mode = match self.open(OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(there) => Some(regular(&there)?.0),
            Err(Refusal::NotFound) => None,
            Err(refused) => return Err(refused),
        };
        let temporary = format!(".theazo-{}.tmp", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | CALM;
        let _ = unlinkat(parent, &temporary, AtFlags::empty());
        let opened = rustix::fs::openat(parent, &temporary, flags | OFlags::EXCL, NEW_FILE).map_err(errno)?;
        let mut file = File::from(opened);
        let written = file.write_all(bytes).map_err(|error| refusal(&error)).and_then(|()| {
            if let Some(mode) = mode {
                rustix::fs::fchmod(&file, mode).map_err(errno)?;
            }
            renameat(parent, &temporary, parent, name).map_err(errno)
        });
        if written.is_err() {
            let _ = unlinkat(parent, &temporary, AtFlags::empty());
        }
        written
    }
}

/// Permissions and size of a regular file; anything else is refused.
fn regular(file: &impl std::os::fd::AsFd) -> Result<(Mode, u64), Refusal> {
    let stat = fstat(file).map_err(errno)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Refusal::WrongKind);
    }
    Ok((Mode::from_raw_mode(stat.st_mode & 0o777), u64::try_from(stat.st_size).unwrap_or(0)))
}

/// An operating system error as the protocol tells it.
pub fn refusal(error: &std::io::Error) -> Refusal {
    Errno::from_io_error(error).map_or(Refusal::Os(0), errno)
}

fn errno(error: Errno) -> Refusal {
    match error {
        Errno::NOENT => Refusal::NotFound,
        Errno::XDEV | Errno::LOOP => Refusal::OutsideRoots,
        // ENXIO: a FIFO without a reader, or a socket.
        Errno::NOTDIR | Errno::ISDIR | Errno::NXIO => Refusal::WrongKind,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Refusal::PermissionDenied,
        // EFBIG: the sandbox's file size limit.
        Errno::NOSPC | Errno::DQUOT | Errno::NOMEM | Errno::FBIG => Refusal::NoSpace,
        Errno::NAMETOOLONG => Refusal::BadPath,
        other => Refusal::Os(other.raw_os_error()),
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
