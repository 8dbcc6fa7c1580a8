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
    #[error("a sandbox's room cannot be opened: {0}")]
    Room(std::io::Error),
    /// The kernel does not let this user have namespaces.
    #[error("a sandbox's room does not stand: {0}")]
    NoRoom(String),
    /// The listener failed.
    #[error("the emulator stopped: {0}")]
    Serve(std::io::Error),
}

/// A refusal of the management API.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) code: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), code: None }
    }

    pub(crate) fn coded(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), code: Some(code) }
    }

    pub(crate) fn no_sandbox(id: &str) -> Self {
        Self::new(404, format!("Sandbox \"{id}\" doesn't exist or you don't have access to it"))
    }
}

impl From<EmulatorError> for Refusal {
    fn from(error: EmulatorError) -> Self {
        tracing::error!(%error, "the emulator failed");
        Self::coded(500, "internal_server_error", error.to_string())
    }
}

/// A refusal of the daemon in a sandbox, by the protocol's code.
#[derive(Clone, Debug)]
pub(crate) struct RpcError {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl RpcError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The HTTP status of a unary call's refusal.
    pub(crate) fn status(&self) -> u16 {
        match self.code {
            "canceled" => 499,
            "invalid_argument" | "failed_precondition" => 400,
            "deadline_exceeded" => 504,
            "not_found" => 404,
            "already_exists" => 409,
            "permission_denied" => 403,
            "resource_exhausted" => 429,
            "unimplemented" => 501,
            "unavailable" => 503,
            "unauthenticated" => 401,
            _ => 500,
        }
    }

    pub(crate) fn from_io(error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => "not_found",
            std::io::ErrorKind::AlreadyExists => "already_exists",
            std::io::ErrorKind::PermissionDenied => "permission_denied",
            std::io::ErrorKind::NotADirectory | std::io::ErrorKind::IsADirectory => "invalid_argument",
            _ => "internal",
        };
        Self::new(code, error.to_string())
    }
}
