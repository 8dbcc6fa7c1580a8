//! From the engine's errors to ours: status and our own words, never an answer's text.

use crate::{ProviderError, ProviderKind};
use bollard::errors::Error as EngineError;
use std::future::Future;
use std::time::Duration;

/// The HTTP status the engine answered with, where it answered.
pub(super) fn status(error: &EngineError) -> Option<u16> {
    match error {
        EngineError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Whether the engine's own words for a refusal contain `words`. The words themselves go no further.
pub(super) fn says(error: &EngineError, words: &str) -> bool {
    matches!(error, EngineError::DockerResponseServerError { message, .. } if message.contains(words))
}

/// An engine error as ours. The engine's message can quote a request, so it is not passed on.
pub(super) fn from_engine(operation: &'static str, error: EngineError) -> ProviderError {
    match &error {
        EngineError::RequestTimeoutError => ProviderError::TimedOut,
        EngineError::DockerResponseServerError { status_code, .. } => ProviderError::Failed {
            provider: ProviderKind::Docker,
            operation,
            status: Some(*status_code),
            // A conflict is another creation or removal that the engine has not finished.
            retryable: *status_code >= 500 || matches!(*status_code, 409 | 429),
            reason: format!("the engine answered {status_code}"),
        },
        EngineError::HyperLegacyError { err } if certificate_fault(err).is_some() => {
            failed(operation, false, certificate_fault(err).unwrap_or_default())
        }
        EngineError::HyperLegacyError { err } if err.is_connect() => {
            failed(operation, true, "the engine cannot be reached")
        }
        EngineError::HyperLegacyError { .. } | EngineError::HyperResponseError { .. } => {
            failed(operation, true, "the connection to the engine broke")
        }
        // Made by `transport` out of fixed words, or by the operating system: no part of a body either way.
        EngineError::IOError { err } => failed(operation, true, err.to_string()),
        _ => failed(operation, false, "the engine's answer was not understood"),
    }
}

/// What is wrong with a certificate, on either side, or with an address: neither passes by waiting. With TLS 1.3 an engine
/// refuses ours only after the handshake, so that it is not always the connecting that fails.
fn certificate_fault(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied && io.get_ref().is_some()) {
            return Some("its address is none that hosts may have");
        }
        // The operating system's view of it has no source, only what is wrapped.
        let wrapped = io.and_then(|io| io.get_ref()).and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match wrapped.or_else(|| error.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(_)) => {
                return Some("the engine's certificate is not one of the given authority for that name");
            }
            Some(rustls::Error::AlertReceived(_)) => return Some("the engine does not take the given certificate"),
            _ => next = error.source(),
        }
    }
    None
}

/// A failure in our own words.
pub(super) fn failed(operation: &'static str, retryable: bool, reason: impl Into<String>) -> ProviderError {
    ProviderError::Failed { provider: ProviderKind::Docker, operation, status: None, retryable, reason: reason.into() }
}

/// An engine call with a limit on all of it; bollard's own covers only the wait for the headers.
pub(super) async fn timed<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(EngineError::RequestTimeoutError))
}
