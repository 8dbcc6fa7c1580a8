//! The folder that holds all of a local stack's state.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A data folder, locked for as long as this lives.
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another stack uses it.
    #[error("{0} is in use by another local stack")]
    InUse(PathBuf),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, DataDirError> {
    result.map_err(|source| DataDirError::Io { path: path.to_owned(), source })
}

impl DataDir {
    /// Opens or makes the folder, mode 0700, and locks it.
    ///
    /// # Errors
    /// [`DataDirError`] when another stack has it or the file system refuses.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        at(path, DirBuilder::new().recursive(true).mode(0o700).create(path))?;
        let lock_path = path.join("lock");
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock_path);
        let lock = at(&lock_path, open)?;
        lock.try_lock().map_err(|_| DataDirError::InUse(path.to_owned()))?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A small text file's content, without the line's end.
    ///
    /// # Errors
    /// [`DataDirError::Io`] when it is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, DataDirError> {
        let path = self.file(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Io { path, source }),
        }
    }

    /// Writes a small text file, mode 0600, whole or not at all, and on disk when this returns.
    ///
    /// # Errors
    /// [`DataDirError::Io`] when the file system refuses.
    pub fn write(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        let (path, draft) = (self.file(name), self.file(&format!(".{name}.new")));
        let written = (|| {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            std::fs::rename(&draft, &path)?;
            File::open(&self.path)?.sync_all()
        })();
        at(&path, written)
    }
}

impl Drop for DataDir {
    /// Unlocks it, also for a process that was begun meanwhile and has the open file until it runs its own program.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(path = %self.path.display(), %error, "the folder could not be unlocked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_private_and_a_folder_has_one_owner_at_a_time() {
        let path = std::env::temp_dir().join(format!("theazo-data-dir-{}", std::process::id()));
        let dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.read("api-key").unwrap(), None);
        dir.write("api-key", "secret").unwrap();
        assert_eq!(dir.read("api-key").unwrap().as_deref(), Some("secret"));
        assert_eq!(std::fs::metadata(dir.file("api-key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse(_))));
        drop(dir);
        assert!(DataDir::open(&path).is_ok());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
