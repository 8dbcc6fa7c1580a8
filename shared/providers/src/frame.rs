//! Requests to a guest as adapters send them, and its refusals: one way for every guest that speaks
//! `theazo-guest-protocol`, wherever it runs. How answers are taken is in `intake`.

use crate::error::{BAD_PATH, TAKEN, WRONG_KIND};
use crate::{Environment, ProviderError, ProviderKind};
use bytes::Bytes;
use theazo_guest_protocol::machine::MOST_PORTS;
use theazo_guest_protocol::{FrameError, MAX_PAYLOAD, Refusal, Request, Response, encode_header};
use zeroize::Zeroizing;

/// A request with its payload, wiped when dropped.
pub(crate) struct Frame(Zeroizing<Vec<u8>>);

impl Frame {
    /// Puts a request and its payload together; the payload's pieces must be as long as the request says.
    pub(crate) fn new(provider: ProviderKind, request: &Request, payload: &[&[u8]]) -> Result<Self, ProviderError> {
        let failed = |reason| failed(provider, "ask guest", reason);
        let length = request.payload_len();
        if length > MAX_PAYLOAD {
            return Err(failed("a request that is too large for one message"));
        }
        let header = encode_header(request).map_err(|error| match error {
            FrameError::TooLong(_) => failed("a request that is too large for one message"),
            _ => failed("a request that cannot be written"),
        })?;
        // The exact size from the start: growing would leave an unwiped copy behind.
        let mut frame = Zeroizing::new(Vec::with_capacity(header.len() + length));
        frame.extend_from_slice(&header);
        payload.iter().for_each(|piece| frame.extend_from_slice(piece));
        debug_assert_eq!(frame.len(), header.len() + length);
        Ok(Self(frame))
    }

    /// The frame that delivers an environment.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] for a name or value that cannot be in an environment, without saying which.
    pub(crate) fn deliver(provider: ProviderKind, environment: &Environment) -> Result<Self, ProviderError> {
        let mut pieces: Vec<&[u8]> = Vec::new();
        for (name, value) in environment.iter() {
            let value = value.expose();
            if name.is_empty() || name.contains(['=', '\0']) || value.contains(&0) {
                return Err(failed(provider, "deliver environment", "a variable that no process can have"));
            }
            pieces.extend([name.as_bytes(), b"=", value, b"\0"]);
        }
        Self::new(provider, &Request::Deliver { payload: pieces.iter().map(|piece| piece.len()).sum() }, &pieces)
    }

    /// The bytes to send.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, wiped when the last part of them is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self.0)
    }
}

/// An answer of a kind that does not belong to the question; a refusal as what it means.
pub(crate) fn unexpected(provider: ProviderKind, operation: &'static str, answer: Response) -> ProviderError {
    match answer {
        Response::Refused { reason } => refused(provider, operation, reason),
        _ => failed(provider, operation, "the guest answered another question"),
    }
}

/// The guest's refusals as ours.
fn refused(provider: ProviderKind, operation: &'static str, reason: Refusal) -> ProviderError {
    match reason {
        Refusal::NotFound => ProviderError::FileNotFound,
        Refusal::OutsideRoots => ProviderError::PathOutside,
        Refusal::WrongKind => ProviderError::PathUnusable(WRONG_KIND),
        Refusal::PermissionDenied => ProviderError::PathUnusable("the agent's user has no permission"),
        Refusal::BadPath => ProviderError::PathUnusable(BAD_PATH),
        Refusal::NoSpace => ProviderError::NoSpace,
        Refusal::NoRuntime => ProviderError::NoRuntime,
        Refusal::PortReserved => ProviderError::PortUnusable(TAKEN),
        Refusal::TooManyPorts => ProviderError::TooManyPorts { most: MOST_PORTS },
        Refusal::Os(number) => failed(provider, operation, format!("the guest met operating system error {number}")),
        Refusal::BadRequest => failed(provider, operation, "the guest did not understand the request"),
    }
}

fn failed(provider: ProviderKind, operation: &'static str, reason: impl Into<String>) -> ProviderError {
    ProviderError::Failed { provider, operation, status: None, retryable: false, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_guest_protocol::{Language, MAX_HEADER, read_header};
    use theazo_vault::SecretValue;

    const KIND: ProviderKind = ProviderKind::Docker;

    fn environment(entries: &[(&str, &[u8])]) -> Environment {
        let mut environment = Environment::default();
        for (name, value) in entries {
            environment.set(*name, SecretValue::from_bytes(value.to_vec()));
        }
        environment
    }

    #[test]
    fn values_travel_in_the_payload_and_never_in_the_header() {
        let frame = Frame::deliver(KIND, &environment(&[("A", b"one"), ("B", b"t=w\no"), ("EMPTY", b"")])).unwrap();
        let mut reader = frame.bytes();
        let header: Request = read_header(&mut reader).unwrap();
        assert_eq!(header, Request::Deliver { payload: reader.len() });
        assert_eq!(reader, b"A=one\0B=t=w\no\0EMPTY=\0");
    }

    #[test]
    fn an_empty_environment_is_a_delivery_too() {
        let frame = Frame::deliver(KIND, &Environment::default()).unwrap();
        assert_eq!(read_header::<Request>(&mut frame.bytes()).unwrap(), Request::Deliver { payload: 0 });
    }

    #[test]
    fn variables_that_no_process_can_have_are_refused_without_being_named() {
        for (name, value) in [("A=B", b"v9x".as_slice()), ("A\0", b"v9x"), ("", b"v9x"), ("A", b"v9x\0")] {
            let Err(error) = Frame::deliver(KIND, &environment(&[(name, value)])) else { panic!("{name:?} was taken") };
            assert!(!format!("{error} {error:?}").contains("v9x"));
        }
    }

    #[test]
    fn a_request_over_the_limit_is_not_sent() {
        assert!(Frame::new(KIND, &Request::Deliver { payload: MAX_PAYLOAD + 1 }, &[]).is_err());
        let code = "x".repeat(MAX_HEADER);
        let (timeout_ms, output_cap) = (1, 1);
        let exec = Request::Exec { language: Language::Bash, code, timeout_ms, output_cap, stream: false, payload: 0 };
        assert!(Frame::new(KIND, &exec, &[]).is_err());
    }
}
