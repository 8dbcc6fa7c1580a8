//! The crate's one error type, and the names under which KMS refuses a request.

use std::path::PathBuf;

/// Why the emulator could not open its file, serve, or do what a request asked.
///
/// No variant carries key material, plaintext or any part of the state file's content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The file system refused one step of reading or replacing the state file.
    #[error("cannot {step} {}: {source}", path.display())]
    File {
        /// What was being done, such as "read".
        step: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The state file exists and is not a complete, consistent state. Nothing was changed.
    #[error("the KMS state file {} is damaged: {why}", path.display())]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What is wrong, without quoting the file.
        why: String,
    },
    /// Another emulator has the state file open.
    #[error("the KMS state file {} is in use by another emulator", path.display())]
    InUse {
        /// The state file.
        path: PathBuf,
    },
    /// The request is refused, as AWS KMS would refuse it.
    #[error("{code}: {message}")]
    Refused {
        /// The exception's name on the wire, such as `NotFoundException`.
        code: &'static str,
        /// The text for the caller; empty where AWS gives none.
        message: String,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
    /// Something that this crate's own checks rule out; a programming fault.
    #[error("internal fault: {0}")]
    Internal(&'static str),
    /// The listener failed.
    #[error("the KMS listener failed: {0}")]
    Serve(#[source] std::io::Error),
}

impl EmulatorError {
    /// A refusal with one of the names in [`code`].
    pub(crate) fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    /// The refusal of a ciphertext that does not open. Like AWS it says nothing more: a reason would tell a tampered
    /// blob from a wrong context.
    pub(crate) fn invalid_ciphertext() -> Self {
        Self::refused(code::INVALID_CIPHERTEXT, "")
    }
}

/// Exception names from the KMS service model, and from the JSON protocol for the last two.
pub(crate) mod code {
    pub(crate) const ALREADY_EXISTS: &str = "AlreadyExistsException";
    pub(crate) const DISABLED: &str = "DisabledException";
    pub(crate) const INCORRECT_KEY: &str = "IncorrectKeyException";
    pub(crate) const INTERNAL: &str = "KMSInternalException";
    pub(crate) const INVALID_ALIAS_NAME: &str = "InvalidAliasNameException";
    pub(crate) const INVALID_ARN: &str = "InvalidArnException";
    pub(crate) const INVALID_CIPHERTEXT: &str = "InvalidCiphertextException";
    pub(crate) const INVALID_KEY_USAGE: &str = "InvalidKeyUsageException";
    pub(crate) const INVALID_MAC: &str = "KMSInvalidMacException";
    pub(crate) const INVALID_MARKER: &str = "InvalidMarkerException";
    pub(crate) const INVALID_STATE: &str = "KMSInvalidStateException";
    pub(crate) const LIMIT_EXCEEDED: &str = "LimitExceededException";
    pub(crate) const NOT_FOUND: &str = "NotFoundException";
    pub(crate) const UNSUPPORTED: &str = "UnsupportedOperationException";
    pub(crate) const VALIDATION: &str = "ValidationException";
    pub(crate) const SERIALIZATION: &str = "SerializationException";
    pub(crate) const UNKNOWN_OPERATION: &str = "UnknownOperationException";
}
