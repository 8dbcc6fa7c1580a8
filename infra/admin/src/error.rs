//! What can go wrong, and what the operator is told about it.

use crate::target::Target;
use std::time::Duration;
use theazo_store::StoreError;
use theazo_tenancy::PlatformId;

/// A command that failed. No variant holds a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// The platform that was named is not in the table.
    #[error("there is no platform {0}; `cargo admin platform list` shows which there are")]
    UnknownPlatform(PlatformId),
    /// The answer could not be written, by which a key may be lost.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
    /// What cannot be undone was not asked for twice.
    #[error("this deletes {0} for good, with its keys, sessions, agents and secrets: say --yes if that is meant")]
    Unconfirmed(PlatformId),
    /// The ledger that was named, or is named by the table's name, is not there.
    #[error("the ledger's table is not there: name the one that was in use with --ledger")]
    NoLedger,
    /// Some deletions could not be replayed.
    #[error("{0} deletions are not done: serve nobody from this table yet, and repeat the command")]
    Incomplete(usize),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Anything else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AdminError {
    /// The error in the operator's terms: which deployment, and what to look at.
    pub(crate) fn explain(&self, target: &Target) -> String {
        match self {
            Self::Store(StoreError::Table { code, .. }) if code == "ResourceNotFoundException" => {
                format!("there is no table `{}` at {target}", target.table_name())
            }
            Self::Store(error) if error.is_unreachable() && target.is_aws() => {
                format!("AWS cannot be reached: are region, credentials and network in order? ({error})")
            }
            Self::Store(error) if error.is_unreachable() => {
                format!("nothing answers at {target}: is `cargo dev` running?")
            }
            other => other.to_string(),
        }
    }
}
