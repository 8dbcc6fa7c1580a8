//! What can go wrong in the emulator, and how the service words its refusals.

use std::path::PathBuf;

/// The emulator cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The file system refused.
    #[error("{path}: {source}")]
    File {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `unshare` or `nsenter` (Debian: util-linux) cannot be run.
    #[error("a machine's room cannot be opened: {0}")]
    Room(std::io::Error),
    /// The kernel does not let this user have namespaces.
    #[error("a machine's room does not stand: {0}")]
    NoRoom(String),
    /// Machines have several users, which only root can give them.
    #[error("the Fly emulator must run as root")]
    NotRoot,
    /// The listener failed.
    #[error("the emulator stopped: {0}")]
    Serve(std::io::Error),
}

/// A refusal of the API.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) code: Option<String>,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), code: None }
    }

    pub(crate) fn coded(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), code: Some(code.to_owned()) }
    }

    pub(crate) fn no_app() -> Self {
        Self::new(404, "app not found")
    }

    pub(crate) fn no_machine() -> Self {
        Self::new(404, "machine not found")
    }

    pub(crate) fn unmet(message: impl std::fmt::Display) -> Self {
        Self::new(412, format!("failed_precondition: {message}"))
    }

    pub(crate) fn invalid(message: impl std::fmt::Display) -> Self {
        Self::new(400, format!("invalid_argument: {message}"))
    }
}

impl From<EmulatorError> for Refusal {
    fn from(error: EmulatorError) -> Self {
        tracing::error!(%error, "the emulator failed");
        Self::new(500, error.to_string())
    }
}
