//! What can go wrong between us and the table.

/// A failed call to the store. `Display` is for our logs; callers get a text of their own.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The row to change is not there, or is another caller's.
    #[error("no such row")]
    NotFound,
    /// The row's state does not allow the change.
    #[error("the state does not allow it: {0}")]
    Conflict(&'static str),
    /// What a change was for does not hold any more.
    #[error("what it was for does not hold any more")]
    Overtaken,
    /// A counter that limits would be passed.
    #[error("limit {limit} reached: {used} of {max}")]
    LimitExceeded {
        /// The limit's name, as in the API.
        limit: &'static str,
        /// What is used now.
        used: u64,
        /// What is allowed.
        max: u64,
    },
    /// As many of the platform's agents run at a provider as it wants at most.
    #[error("{max} agents run at {provider}, which is as many as may")]
    ProviderFull {
        /// The provider's name.
        provider: String,
        /// How many may run there.
        max: u32,
    },
    /// The scope would hold too many secrets, or too large ones.
    #[error("the scope is full: {0}")]
    ScopeFull(&'static str),
    /// A secret that was asked for is not there, or may not be selected.
    #[error("a selected secret is not available")]
    UnknownSecret(String),
    /// A secret that was to become a provider's credential is none that the provider could use. Says why, and nothing of
    /// the value.
    #[error("the secret is no credential that can be used: {0}")]
    UnusableCredential(String),
    /// Others kept changing the same rows until we gave up.
    #[error("gave up after {0} attempts against concurrent changes")]
    Contended(u32),
    /// A row is not what we wrote: damaged, moved, or by a newer version of this code.
    #[error("a row of the table is not readable: {0}")]
    Corrupt(&'static str),
    /// A variable of the process's environment is missing, or not what it may be.
    #[error("the variable {0} is missing or wrong")]
    Environment(&'static str),
    /// The table did not do what was asked.
    #[error("the table failed at {operation}: {code}")]
    Table {
        /// What was being done.
        operation: &'static str,
        /// The service's error code, or what the connection did.
        code: String,
    },
    /// The key service did not do what was asked. The vault stays closed.
    #[error("the key service failed at {operation}: {code}")]
    Kms {
        /// What was being done.
        operation: &'static str,
        /// The service's error code, or what the connection did.
        code: String,
    },
    /// No root key was ever made for this deployment.
    #[error("this deployment has no root key")]
    NoRootKey,
    /// This process has no key to seal or verify credentials with.
    #[error("this process has no credential key")]
    NoCredentialKey,
    /// Sealing or opening failed.
    #[error("the vault refused: {0}")]
    Vault(#[from] theazo_vault::VaultError),
}

/// What a credential does not reach is to its caller as what is not there.
impl From<theazo_tenancy::OutOfReach> for StoreError {
    fn from(_: theazo_tenancy::OutOfReach) -> Self {
        Self::NotFound
    }
}

const TIMEOUT: &str = "timeout";
const NO_CONNECTION: &str = "no connection";
const UNREADABLE: &str = "unreadable answer";
const NOT_MADE: &str = "the request could not be made";

/// The table's operations that change it.
const WRITES: [&str; 5] = ["TransactWriteItems", "UpdateItem", "PutItem", "DeleteItem", "BatchWriteItem"];

impl StoreError {
    /// Whether the service was never heard of: no connection, no answer in time, or no region or credentials to ask
    /// with.
    pub fn is_unreachable(&self) -> bool {
        let (Self::Table { code, .. } | Self::Kms { code, .. }) = self else { return false };
        [TIMEOUT, NO_CONNECTION, NOT_MADE].contains(&code.as_str())
    }

    /// Whether the change that failed may have been made all the same: the table was asked to, and its answer was lost.
    pub fn may_be_done(&self) -> bool {
        let Self::Table { operation, code } = self else { return false };
        let lost = [TIMEOUT, NO_CONNECTION, UNREADABLE, "InternalServerError", "ServiceUnavailable"];
        WRITES.contains(operation) && lost.contains(&code.as_str())
    }

    /// Why the key service failed, if it did.
    pub fn kms_failure(&self) -> Option<KmsFailure> {
        match self {
            Self::Kms { code, .. } => Some(KmsFailure::of(code)),
            _ => None,
        }
    }
}

/// Why the key service failed: what whoever reads our logs has to do about it. Callers are not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KmsFailure {
    /// We ask more often than the account may. It passes.
    Throttled,
    /// The function's role or the key's policy does not allow it.
    Denied,
    /// The key was disabled, and can be enabled again.
    Disabled,
    /// The key is to be deleted, which can still be called off, or is in another state in which it cannot be used.
    PendingDeletion,
    /// There is no such key (any more).
    NoSuchKey,
    /// The wrapped key was damaged, or its encryption context is another: the row was edited, moved or copied.
    InvalidCiphertext,
    /// The wrapped key was wrapped under another KMS key.
    IncorrectKey,
    /// Nobody was reached.
    Unreachable,
    /// There was no answer in time.
    TimedOut,
    /// Anything else, such as failures inside the service.
    Other,
}

impl KmsFailure {
    /// The failure behind an error code, as listed for `Decrypt`, `ReEncrypt` and
    /// `GenerateDataKeyWithoutPlaintext` and under "Common error types" in the AWS KMS API reference, or behind what
    /// the connection did.
    pub(crate) fn of(code: &str) -> Self {
        match code {
            "ThrottlingException" | "Throttling" | "TooManyRequestsException" | "RequestLimitExceeded" => {
                Self::Throttled
            }
            "AccessDeniedException"
            | "AccessDenied"
            | "NotAuthorized"
            | "OptInRequired"
            | "UnrecognizedClientException"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "IncompleteSignature" => Self::Denied,
            "DisabledException" => Self::Disabled,
            "KMSInvalidStateException" => Self::PendingDeletion,
            "NotFoundException" => Self::NoSuchKey,
            "InvalidCiphertextException" => Self::InvalidCiphertext,
            "IncorrectKeyException" => Self::IncorrectKey,
            NO_CONNECTION | NOT_MADE => Self::Unreachable,
            TIMEOUT => Self::TimedOut,
            _ => Self::Other,
        }
    }

    /// Its name in our logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Disabled => "disabled",
            Self::PendingDeletion => "pending deletion",
            Self::NoSuchKey => "no such key",
            Self::InvalidCiphertext => "invalid ciphertext or context",
            Self::IncorrectKey => "incorrect key",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Other => "other",
        }
    }
}

/// The service's error code of a failed call, without the request or the answer.
pub(crate) fn code_of<E, R>(error: &aws_smithy_runtime_api::client::result::SdkError<E, R>) -> String
where
    E: aws_smithy_types::error::metadata::ProvideErrorMetadata,
{
    use aws_smithy_runtime_api::client::result::SdkError;
    match error {
        SdkError::ServiceError(context) => context.err().code().unwrap_or("unknown service error").to_owned(),
        SdkError::TimeoutError(_) => TIMEOUT.into(),
        SdkError::DispatchFailure(_) => NO_CONNECTION.into(),
        SdkError::ResponseError(_) => UNREADABLE.into(),
        _ => NOT_MADE.into(),
    }
}

pub(crate) fn table_error<E, R>(
    operation: &'static str,
) -> impl FnOnce(aws_smithy_runtime_api::client::result::SdkError<E, R>) -> StoreError
where
    E: aws_smithy_types::error::metadata::ProvideErrorMetadata,
{
    move |error| StoreError::Table { operation, code: code_of(&error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_whose_answer_was_lost_may_be_done() {
        let failed = |operation, code: &str| StoreError::Table { operation, code: code.into() }.may_be_done();
        for lost in [TIMEOUT, NO_CONNECTION, UNREADABLE, "InternalServerError"] {
            assert!(WRITES.iter().all(|operation| failed(operation, lost)), "{lost}");
            assert!(!failed("Query", lost) && !failed("GetItem", lost), "{lost}");
        }
        for refused in ["ValidationException", "AccessDeniedException", "ThrottlingException", NOT_MADE] {
            assert!(!failed("TransactWriteItems", refused), "{refused}");
        }
        assert!(!StoreError::Contended(1).may_be_done());
        assert!(!StoreError::Kms { operation: "Decrypt", code: TIMEOUT.into() }.may_be_done());
    }
}
