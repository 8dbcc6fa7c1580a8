//! What a simulated sandbox has: its files by path, and the names of its variables. Owns the rules of paths, which are
//! the guest's (`infra/agent-image/guest/src/files.rs`) without links.

use super::{KEPT_AFTER_END_MS, MAX_INDEX_BYTES, MAX_PIECE_BYTES, failed};
use crate::ProviderError;
use crate::error::{BAD_PATH, WRONG_KIND};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use theazo_guest_protocol::FileEntry;

/// Longest path in bytes, as Linux has it.
const LONGEST_PATH: usize = 4095;
/// Longest name in bytes, as most of its file systems have it.
const LONGEST_NAME: usize = 255;
/// What an empty directory takes on most file systems, in bytes.
const DIRECTORY_SIZE: u64 = 4096;

/// All of a sandbox but the bytes of its files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Index {
    /// The session's id.
    pub(super) session: String,
    /// When the sandbox ends by itself, Unix milliseconds.
    pub(super) ends_at_ms: i64,
    /// Whether it was stopped.
    #[serde(default)]
    pub(super) stopped: bool,
    /// What it was given at its last boot, by name.
    pub(super) variables: Vec<String>,
    /// The checkpoints, by id: where the list of each one's files lies.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) checkpoints: BTreeMap<String, Manifest>,
    /// Whether there is nothing here but checkpoints.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) discarded: bool,
    /// By path. A directory is there as long as a file lies beneath it, which is for ever: no call removes a file.
    pub(super) files: BTreeMap<String, File>,
}

/// The pieces that the list of a checkpoint's files lies in: its files have pieces of their own.
pub(super) type Manifest = Vec<String>;

/// A file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct File {
    /// Bytes.
    pub(super) size: u64,
    /// Unix milliseconds.
    pub(super) modified_ms: i64,
    /// The pieces in order, each for [`MAX_PIECE_BYTES`] of the file. What is missing at the end of one, or a whole one,
    /// is zeros.
    pub(super) pieces: Vec<Option<String>>,
}

/// A path that file calls may reach, without `.` and doubled slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SimulatedPath {
    /// `/data/a/b`
    text: String,
}

/// What a path names.
enum Named<'a> {
    File(&'a File),
    Directory,
    Nothing,
}

impl SimulatedPath {
    pub(super) fn parse(path: &str) -> Result<Self, ProviderError> {
        if path.len() > LONGEST_PATH || path.contains('\0') {
            return Err(ProviderError::PathUnusable(BAD_PATH));
        }
        if !path.starts_with('/') {
            return Err(ProviderError::PathOutside);
        }
        let components: Vec<&str> = path.split('/').filter(|component| !matches!(*component, "" | ".")).collect();
        let is_inside = matches!(components.first(), Some(&"data" | &"tmp")) && !components.contains(&"..");
        if !is_inside {
            return Err(ProviderError::PathOutside);
        }
        Ok(Self { text: components.iter().flat_map(|component| ["/", *component]).collect() })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Every path from the root directory down to this one, with the last name of each.
    fn levels(&self) -> impl Iterator<Item = (&str, &str)> {
        let ends = self.text.match_indices('/').map(|(at, _)| at).skip(1).chain([self.text.len()]);
        ends.filter_map(|end| {
            let level = self.text.get(..end)?;
            Some((level, level.rsplit('/').next()?))
        })
    }
}

impl Index {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ProviderError> {
        serde_json::from_slice(bytes).map_err(|_| failed("read index", false, "an index is not readable"))
    }

    /// # Errors
    /// [`ProviderError::NoSpace`] when there are too many files.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, ProviderError> {
        let bytes = serde_json::to_vec(self).map_err(|_| failed("write index", false, "an index cannot be written"))?;
        if bytes.len() > MAX_INDEX_BYTES { Err(ProviderError::NoSpace) } else { Ok(bytes) }
    }

    pub(super) fn gone_by_ms(&self) -> i64 {
        self.ends_at_ms.saturating_add(KEPT_AFTER_END_MS)
    }

    /// What a process would find in a variable. Values are not kept, so those from the vault are shown as the API masks
    /// them.
    pub(super) fn variable(&self, agent: &str, name: &str) -> Option<String> {
        self.variables.iter().find(|known| *known == name).map(|name| match name.as_str() {
            "THEAZO_AGENT_ID" => agent.to_owned(),
            "THEAZO_SESSION_ID" => self.session.clone(),
            name => format!("[secret:{name}]"),
        })
    }

    /// Bytes in all files.
    pub(super) fn size(&self) -> u64 {
        self.files.values().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Whether any of these pieces belongs to a file.
    pub(super) fn holds_any(&self, pieces: &[String]) -> bool {
        let held = self.files.values().flat_map(|file| file.pieces.iter().flatten());
        !pieces.is_empty() && held.into_iter().any(|held| pieces.contains(held))
    }

    /// The file to be read.
    pub(super) fn file(&self, path: &SimulatedPath) -> Result<&File, ProviderError> {
        match self.named(path)? {
            Named::File(file) => Ok(file),
            Named::Directory => Err(ProviderError::PathUnusable(WRONG_KIND)),
            Named::Nothing => Err(ProviderError::FileNotFound),
        }
    }

    /// The file to be written, where there is one already.
    pub(super) fn writable(&self, path: &SimulatedPath) -> Result<Option<&File>, ProviderError> {
        match self.named(path)? {
            Named::File(file) => Ok(Some(file)),
            Named::Directory => Err(ProviderError::PathUnusable(WRONG_KIND)),
            Named::Nothing if path.levels().any(|(_, name)| name.len() > LONGEST_NAME) => {
                Err(ProviderError::PathUnusable(BAD_PATH))
            }
            Named::Nothing => Ok(None),
        }
    }

    /// A directory's entries by name.
    pub(super) fn list(&self, dir: &SimulatedPath) -> Result<Vec<FileEntry>, ProviderError> {
        match self.named(dir)? {
            Named::Directory => {}
            Named::File(_) => return Err(ProviderError::PathUnusable(WRONG_KIND)),
            Named::Nothing => return Err(ProviderError::FileNotFound),
        }
        let mut entries: HashMap<&str, FileEntry> = HashMap::new();
        for (below, file) in self.beneath(dir.as_str()) {
            let (name, is_directory) = match below.split_once('/') {
                Some((name, _)) => (name, true),
                None => (below, false),
            };
            let size = if is_directory { DIRECTORY_SIZE } else { file.size };
            let entry = entries.entry(name).or_insert_with(|| FileEntry {
                name: name.to_owned(),
                size,
                modified_ms: file.modified_ms,
                directory: is_directory,
            });
            entry.modified_ms = entry.modified_ms.max(file.modified_ms);
        }
        let mut entries: Vec<_> = entries.into_values().collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// What a path names, looked up level by level as a kernel does, so that the same mistake comes first.
    fn named(&self, path: &SimulatedPath) -> Result<Named<'_>, ProviderError> {
        for (level, name) in path.levels() {
            if name.len() > LONGEST_NAME {
                return Err(ProviderError::PathUnusable(BAD_PATH));
            }
            if let Some(file) = self.files.get(level) {
                // A file has nothing beneath it.
                let is_last = level.len() == path.as_str().len();
                return if is_last { Ok(Named::File(file)) } else { Err(ProviderError::PathUnusable(WRONG_KIND)) };
            }
            let is_root = matches!(level, "/data" | "/tmp");
            if !is_root && self.beneath(level).next().is_none() {
                return Ok(Named::Nothing);
            }
        }
        Ok(Named::Directory)
    }

    /// The files beneath a directory, by what follows its path.
    fn beneath(&self, dir: &str) -> impl Iterator<Item = (&str, &File)> {
        let prefix = format!("{dir}/");
        let files = self.files.range(prefix.clone()..);
        files.map_while(move |(path, file)| Some((path.strip_prefix(prefix.as_str())?, file)))
    }
}

impl File {
    /// The ids of the pieces that hold any of these bytes, by the piece's number.
    pub(super) fn pieces_of(&self, start: u64, end: u64) -> impl Iterator<Item = (usize, Option<&str>)> {
        let pieces = self.pieces.iter().enumerate().take(piece_count(end)).skip(piece_of(start));
        pieces.map(|(number, id)| (number, id.as_deref()))
    }
}

/// The number of the piece with that byte.
pub(super) fn piece_of(offset: u64) -> usize {
    usize::try_from(offset / MAX_PIECE_BYTES as u64).unwrap_or(usize::MAX)
}

/// How many pieces a file of that size has.
pub(super) fn piece_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(MAX_PIECE_BYTES as u64)).unwrap_or(usize::MAX)
}
