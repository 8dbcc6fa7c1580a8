//! The state file: one JSON document, mode 0600, replaced as a whole and never written in place.
//!
//! `{"format":1,"sha256":"…","state":{…}}`; the digest is over the state as this crate serialises it, so a changed
//! byte is found when the file is opened and not as a key that silently opens nothing.
//!
//! A new state goes to `<file>.tmp`, is synced, renamed over the file, and the directory is synced. A crash at any
//! point leaves the old file or the new one.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::EmulatorError;
use crate::state::State;

const FORMAT: u32 = 1;
const OWNER_ONLY: u32 = 0o600;

/// The document around the state.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<S> {
    format: u32,
    sha256: String,
    state: S,
}

/// The file, locked for as long as this exists.
pub(crate) struct StateFile {
    path: PathBuf,
    _lock: Lock,
}

/// The lock on `<file>.lock`, a file of its own because the state file is replaced by each write.
struct Lock(File);

impl Drop for Lock {
    /// Unlocks in so many words. Closing would do only when the last copy of the descriptor is closed, and a program
    /// that another thread is just starting holds one until its exec.
    fn drop(&mut self) {
        // A lock that cannot be released goes with the process.
        let _ = self.0.unlock();
    }
}

impl StateFile {
    /// Locks the file and reads it; a missing file is created with an empty state.
    pub(crate) fn open(path: &Path) -> Result<(Self, State), EmulatorError> {
        let file = Self { path: path.to_owned(), _lock: lock(path)? };
        match file.read()? {
            Some(content) => {
                let state = parse(&content).map_err(|why| EmulatorError::Damaged { path: path.to_owned(), why })?;
                let permissions = fs::Permissions::from_mode(OWNER_ONLY);
                fs::set_permissions(path, permissions).map_err(failed("set the mode of", path))?;
                Ok((file, state))
            }
            None => {
                let state = State::default();
                file.save(&state)?;
                Ok((file, state))
            }
        }
    }

    /// Replaces the file. When this returns `Ok` the state survives a crash; on an error the file holds the old
    /// state or the new one.
    pub(crate) fn save(&self, state: &State) -> Result<(), EmulatorError> {
        let content = render(state)?;
        let temporary = beside(&self.path, ".tmp");
        // A leftover of a crash may have any mode, or be a link: it is removed, not reused.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &temporary)(error)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(OWNER_ONLY)
            .open(&temporary)
            .map_err(failed("create", &temporary))?;
        file.write_all(&content).map_err(failed("write", &temporary))?;
        file.sync_all().map_err(failed("sync", &temporary))?;
        fs::rename(&temporary, &self.path).map_err(failed("replace", &self.path))?;
        let directory = directory_of(&self.path);
        File::open(directory).and_then(|handle| handle.sync_all()).map_err(failed("sync", directory))
    }

    fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, EmulatorError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &self.path)(error)),
        };
        let length = file.metadata().map_err(failed("read", &self.path))?.len();
        // One byte more than the file has, so that reading to its end does not grow the vector.
        let room = usize::try_from(length).unwrap_or(0).saturating_add(1);
        let mut content = Zeroizing::new(Vec::with_capacity(room));
        file.read_to_end(&mut content).map_err(failed("read", &self.path))?;
        Ok(Some(content))
    }
}

fn lock(path: &Path) -> Result<Lock, EmulatorError> {
    let name = beside(path, ".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(OWNER_ONLY)
        .open(&name)
        .map_err(failed("create", &name))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(EmulatorError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &name)(error)),
    }
}

/// The state in a document's content, or what is wrong with it. JSON errors are reduced to their place, because
/// their text can quote the content.
fn parse(content: &[u8]) -> Result<State, String> {
    let document: Document<State> = serde_json::from_slice(content).map_err(|error| {
        let kind = match error.classify() {
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Data => "it is JSON of another shape",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is not JSON",
        };
        format!("{kind} (line {}, column {})", error.line(), error.column())
    })?;
    if document.format != FORMAT {
        return Err(format!("it has format {}, and this emulator reads format {FORMAT}", document.format));
    }
    let digest = Measure::of(&document.state).map_err(|error| error.to_string())?.digest;
    if digest != document.sha256 {
        return Err("its content does not match its digest".to_owned());
    }
    document.state.contradiction().map_or(Ok(document.state), Err)
}

/// The document of a state, written into a vector that is large enough from the start: one that grew would leave
/// key material behind unwiped.
fn render(state: &State) -> Result<Zeroizing<Vec<u8>>, EmulatorError> {
    let measure = Measure::of(state)?;
    let mut content = Zeroizing::new(Vec::with_capacity(measure.length + 256));
    let document = Document { format: FORMAT, sha256: measure.digest, state };
    serde_json::to_writer(&mut *content, &document)
        .map_err(|_| EmulatorError::Internal("the state cannot be serialised"))?;
    Ok(content)
}

/// Length and digest of a serialised state, taken without keeping the bytes.
struct Measure {
    length: usize,
    digest: String,
}

impl Measure {
    fn of(state: &State) -> Result<Self, EmulatorError> {
        let mut sink = Sink { length: 0, hasher: Sha256::new() };
        serde_json::to_writer(&mut sink, state)
            .map_err(|_| EmulatorError::Internal("the state cannot be serialised"))?;
        Ok(Self { length: sink.length, digest: hex::encode(sink.hasher.finalize()) })
    }
}

struct Sink {
    length: usize,
    hasher: Sha256,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len();
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmulatorError {
    let path = path.to_owned();
    move |source| EmulatorError::File { step, path, source }
}
