//! What can go wrong, and what the operator is told about it.

use crate::target::Target;
use std::path::PathBuf;
use std::time::Duration;
use theazo_functions::deployment::ConfigError;
use theazo_store::StoreError;
use theazo_tenancy::{KeyId, PlatformId};

/// A command that failed. No variant holds a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// The platform that was named is not in the table.
    #[error("there is no platform {0}; `cargo admin platform list` shows which there are")]
    UnknownPlatform(PlatformId),
    /// The platform has no such key any more, or never had one.
    #[error("{platform} has no key {key} that is good; `cargo admin key list {platform}` shows which it has")]
    UnknownKey {
        /// Whose.
        platform: PlatformId,
        /// Which.
        key: KeyId,
    },
    /// Without that key the platform could not make itself another.
    #[error("{0} is the platform's last live key: say --force if it is to be locked out")]
    LastKey(KeyId),
    /// The deployment's variables are incomplete.
    #[error("{0}: say it as the functions have it, or name a local stack's data folder with --data-dir")]
    Config(#[from] ConfigError),
    /// Where a deployment's providers are, or what they cost, is not said.
    #[error(
        "{0} is not set: with --aws say where providers are and what they cost as the functions have it, which the stack's \
         output OperatorEnvironment tells (empty: as it usually is)"
    )]
    Unsaid(&'static str),
    /// Something is not as it should be.
    #[error("{0} of what was looked at is not as it should be")]
    Unwell(usize),
    /// A run of reconciling failed as a whole.
    #[error("the work list cannot be read: is the table there, and does it answer? `cargo admin doctor` looks")]
    NotReconciled,
    /// The answer could not be written, by which a key may be lost.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
    /// What cannot be undone was not asked for twice.
    #[error("this {0}: say --yes if that is meant")]
    Unconfirmed(String),
    /// The ledger that was named, or is named by the table's name, is not there.
    #[error("the ledger's table is not there: name the one that was in use with --ledger")]
    NoLedger,
    /// Some deletions could not be replayed.
    #[error("{0} deletions are not done: serve nobody from this table yet, and repeat the command")]
    Incomplete(usize),
    /// The key service, the key or the deployment's name is not known.
    #[error(
        "{what} is needed: {} says nothing of a local stack with this table (name its data folder with --data-dir)",
        .folder.display()
    )]
    WhichKey {
        /// The option.
        what: &'static str,
        /// Where it was looked up.
        folder: PathBuf,
    },
    /// The credential key that was given is none.
    #[error("THEAZO_CREDENTIAL_KEY is not 64 hexadecimal digits")]
    NotACredentialKey,
    /// A version of the root key must stay.
    #[error("version {version} of the root key was not retired: {why}")]
    NotRetired {
        /// Which.
        version: u32,
        /// Why.
        why: String,
    },
    /// Values of a platform are in the way of forgetting its old key.
    #[error(
        "{values} sealed values of {platform} do not open where they lie (damaged or moved) and name its old key, which is \
         kept for them; put them right or remove them, and run this again. Among them: {}", .places.join(", ")
    )]
    Stuck {
        /// Whose.
        platform: PlatformId,
        /// How many.
        values: u64,
        /// Where some of them lie.
        places: Vec<String>,
    },
    /// Agents have something at the provider.
    #[error("{0} agents have something there still, and nobody could end them any more: end them first")]
    ProviderInUse(usize),
    /// The platform has not configured that provider.
    #[error("{platform} has not configured {provider}")]
    NotConfigured {
        /// Whose.
        platform: PlatformId,
        /// Which.
        provider: &'static str,
    },
    /// Agents on some hosts reach what they must not, or nobody knows.
    #[error("{0} hosts are not known to keep agents from what they must not reach: `host enroll` sets them up")]
    HostsOpen(usize),
    /// The platform has no host of that name.
    #[error("the platform's credential has no host {0}")]
    NoSuchHost(String),
    /// The credential of a platform's hosts cannot be used.
    #[error("the credential of the platform's Docker hosts {0}")]
    HostCredential(String),
    /// The engine that has the agent image cannot be used.
    #[error(transparent)]
    Engine(#[from] theazo_providers::ProviderError),
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
            Self::Store(StoreError::NoCredentialKey) => {
                format!(
                    "THEAZO_CREDENTIAL_KEY is needed, as the functions have it: {} says nothing of a local stack with this \
                     table (name its data folder with --data-dir)",
                    target.data_dir().display()
                )
            }
            Self::Store(StoreError::Kms { code, .. }) if code == "InvalidCiphertextException" => {
                "the key service does not vouch for a root key's row: it was edited, or --deployment or --kms-key is \
                 another than it was made with"
                    .into()
            }
            Self::Store(error @ StoreError::Kms { .. }) if error.is_unreachable() && !target.is_aws() => {
                "the key service does not answer: is `cargo dev` running, and is it the one meant?".into()
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
