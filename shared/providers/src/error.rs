//! What can go wrong at a provider, in words that are safe to pass on.

use crate::ProviderKind;

/// Why a path cannot be used that names a directory where a file is meant, or the other way round.
pub(crate) const WRONG_KIND: &str = "it names something of another kind";
/// Why a path cannot be used that no file can have.
pub(crate) const BAD_PATH: &str = "it is too long or has a NUL byte";

/// Why a port cannot be opened that is not for agents.
pub(crate) const TAKEN: &str = "is the provider's own";

/// A failed call to a provider. `Display` is for our logs and carries no value, credential or raw answer body.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The provider answered with an error, or not at all.
    #[error("{provider} failed at {operation}: {reason}", provider = provider.as_str())]
    Failed {
        /// Which provider.
        provider: ProviderKind,
        /// What was being done, in our words.
        operation: &'static str,
        /// The provider's HTTP status, where there was one.
        status: Option<u16>,
        /// Whether the same call may succeed later.
        retryable: bool,
        /// For our logs only: a short reason without bodies or values.
        reason: String,
    },
    /// The provider has no sandbox of that agent, or it no longer runs.
    #[error("the sandbox is gone")]
    SandboxGone,
    /// The provider has no room for another sandbox now, or the account may have no more.
    #[error("the provider has no capacity left")]
    NoCapacity,
    /// The provider has no region of that name. Nothing was made.
    #[error("the provider has no such region")]
    UnknownRegion,
    /// The provider does not keep this sandbox's files without its memory, and with it nothing is kept. It runs on.
    #[error("the provider does not pause this sandbox without its memory")]
    CannotPause,
    /// The provider does not keep a copy of this sandbox's files alone while it runs. Nothing is kept.
    #[error("the provider makes no checkpoint of this sandbox's files alone")]
    CannotCheckpoint,
    /// No port of a sandbox can be reached from outside at this provider, or not at this one's host.
    #[error("the provider opens no ports")]
    NoPorts,
    /// The sandbox has as many open ports as it may have.
    #[error("the sandbox has {most} open ports already")]
    TooManyPorts {
        /// How many it may have.
        most: usize,
    },
    /// The port is the provider's own.
    #[error("the port cannot be opened: {0}")]
    PortUnusable(&'static str),
    /// The sandbox does not answer in time; the call may or may not have had an effect.
    #[error("the sandbox did not answer in time")]
    TimedOut,
    /// No such file or directory in the sandbox.
    #[error("no such file")]
    FileNotFound,
    /// The path is not beneath a directory that file calls may reach.
    #[error("the path is outside the reachable directories")]
    PathOutside,
    /// The path cannot be used: too long, a NUL byte, or it names something of another kind.
    #[error("the path cannot be used: {0}")]
    PathUnusable(&'static str),
    /// The sandbox has no space left.
    #[error("no space left in the sandbox")]
    NoSpace,
    /// The image cannot run that language.
    #[error("no runtime for that language")]
    NoRuntime,
}
