//! The cache directory: downloaded packages, the engine's log, and the locks that make processes take turns.

use crate::{Progress, SetupError};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// The lock of whoever builds the agent image, or the programs in it.
pub const IMAGE_LOCK: &str = "image";

/// The directory; it exists.
pub struct Cache {
    /// Its path.
    pub dir: PathBuf,
}

impl Cache {
    /// Finds and makes the directory.
    pub fn open() -> Result<Self, SetupError> {
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        let dir = base.unwrap_or_else(std::env::temp_dir).join("theazo");
        std::fs::create_dir_all(&dir).map_err(SetupError::file(&dir))?;
        Ok(Self { dir })
    }

    /// Waits for its turn; the turn is over when the file is dropped, or when this process ends in any way.
    pub async fn lock(&self, name: &str, progress: &dyn Progress) -> Result<File, SetupError> {
        let path = self.dir.join(format!("{name}.lock"));
        let failed = SetupError::file(&path);
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            Ok(file) => file,
            Err(error) => return Err(failed(error)),
        };
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => progress.detail("waiting for another process that does the same"),
        }
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        locked.unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into())).map_err(failed)
    }

    /// An empty directory for one build. The caller holds the lock that makes it the only one.
    pub fn scratch(&self) -> Result<Scratch, SetupError> {
        let dir = self.dir.join("build");
        // A process that was killed left it.
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(SetupError::file(&dir))?;
        }
        std::fs::create_dir(&dir).map_err(SetupError::file(&dir))?;
        Ok(Scratch(dir))
    }
}

/// A directory that is gone when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it and says where.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, SetupError> {
        let path = self.0.join(name);
        std::fs::write(&path, content).map_err(SetupError::file(&path))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
