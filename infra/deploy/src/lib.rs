//! The deployment as files: `infra/template.yaml` and what `cargo lambda watch` routes by, both made from the route table,
//! and the permissions of each function, recorded from what it really calls.
//!
//! `infra/permissions.json` is the record. The end-to-end tests hold it against the calls of every endpoint, in both
//! directions; this crate makes the roles of it. The frame around the functions (tables, key, API, alarms) is plain
//! YAML in `src/frame/`.

#[cfg(test)]
mod capabilities;
mod counted;
mod function;
mod permissions;
mod role;
mod template;
mod watch;

pub use permissions::{Access, CREDENTIALS, Call, Permissions, PermissionsError, Service, key_pattern};
pub use template::{digest_of, template};
pub use watch::{watch_router, with_watch_router};

use std::path::{Path, PathBuf};

/// The repository that this was built from.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The recorded permissions cannot be used.
    #[error(transparent)]
    Permissions(#[from] PermissionsError),
    /// The workspace's manifest has no place for the router.
    #[error("Cargo.toml has no line {0:?}")]
    NoMark(&'static str),
}

/// The files that are made, with what they should hold now.
///
/// # Errors
/// [`DeployError`] when a source of theirs cannot be read.
pub fn made_files() -> Result<Vec<(PathBuf, String)>, DeployError> {
    let permissions = Permissions::read(&repository().join("infra/permissions.json"))?;
    let manifest = repository().join("Cargo.toml");
    let old = std::fs::read_to_string(&manifest);
    let old = old.map_err(|source| DeployError::File { path: manifest.clone(), source })?;
    Ok(vec![(repository().join("infra/template.yaml"), template(&permissions)), (manifest, with_watch_router(&old)?)])
}

/// Brings the made files up to date, and names those that changed.
///
/// # Errors
/// [`DeployError::File`].
pub fn update() -> Result<Vec<PathBuf>, DeployError> {
    let mut changed = Vec::new();
    for (path, wanted) in made_files()? {
        if std::fs::read_to_string(&path).is_ok_and(|now| now == wanted) {
            continue;
        }
        std::fs::write(&path, wanted).map_err(|source| DeployError::File { path: path.clone(), source })?;
        changed.push(path);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_checked_in_is_what_the_route_table_makes() {
        for (path, wanted) in made_files().unwrap() {
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(now == wanted, "{} is out of date: run `cargo dev template`", path.display());
        }
    }
}
