//! The Machines API under one token. A call is repeated where that cannot do anything twice; what a lost answer may have
//! made is looked for by whoever asked for it.

use super::failure::{failed, from_answer, not_understood};
use super::{FlyService, KIND};
use crate::ProviderError;
use crate::http::{Answer, Call, NetworkFault};
use crate::port_key::PortKey;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use theazo_guest_protocol::machine::TOKEN;
use theazo_vault::SecretValue;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Longer than any wait that a call asks the service for.
const CALL_LIMIT: Duration = Duration::from_secs(75);
/// Repetitions of a call, and what they may take together.
const REPEATS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(150);
/// What separates uses of what is derived from the token.
const TOKENS_LABEL: &[u8] = b"theazo: tokens of machines, 1";

/// An account at Fly: what its token opens.
pub(super) struct Account {
    pub(super) service: Arc<FlyService>,
    authorization: HeaderValue,
    /// What the account is known by, without saying its token.
    pub(super) fingerprint: [u8; 32],
    /// What the tokens of its machines are derived from.
    secret: Zeroizing<[u8; 32]>,
    /// What the tokens of its agents' ports are derived from.
    pub(super) port_key: PortKey,
}

/// Whether a call may be done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twice {
    Harmless,
    /// It makes something each time: only what surely was not done is repeated.
    Makes,
}

impl Account {
    /// # Errors
    /// [`ProviderError::Failed`] for a token that no header can carry.
    pub(super) fn new(service: Arc<FlyService>, token: &SecretValue) -> Result<Self, ProviderError> {
        let unusable = || failed("token", None, false, "the credential is no access token");
        let text = std::str::from_utf8(token.expose()).map_err(|_| unusable())?;
        let bare = without_scheme(text);
        if bare.is_empty() {
            return Err(unusable());
        }
        let header = Zeroizing::new(format!("{} {bare}", scheme(bare)));
        let mut authorization = HeaderValue::from_str(&header).map_err(|_| unusable())?;
        authorization.set_sensitive(true);
        let mut mac = Hmac::<Sha256>::new_from_slice(bare.as_bytes()).map_err(|_| unusable())?;
        mac.update(TOKENS_LABEL);
        let secret = Zeroizing::new(mac.finalize().into_bytes().into());
        let port_key = PortKey::derive(bare.as_bytes());
        Ok(Self { service, authorization, fingerprint: Sha256::digest(bare).into(), secret, port_key })
    }

    /// The token that an agent's machine takes requests with: whoever has the account's token can derive it, nobody else.
    pub(super) fn machine_token(&self, agent: &str) -> Zeroizing<[u8; TOKEN]> {
        let mut token = Zeroizing::new([0; TOKEN]);
        // HMAC takes keys of any length.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.secret.as_ref()) {
            mac.update(self.service.deployment.as_bytes());
            mac.update(b"\0");
            mac.update(agent.as_bytes());
            token.copy_from_slice(&mac.finalize().into_bytes());
        }
        token
    }

    /// Makes a call, again where it is likely to help and harmless.
    pub(super) async fn call(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        twice: Twice,
    ) -> Result<Answer, ProviderError> {
        let uri: Uri = format!("{}/v1{path}", self.service.endpoints.api)
            .parse()
            .map_err(|_| failed(operation, None, false, "a path that is none"))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("theazo"));
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            bytes = body.to_string().into();
        }
        let call = Call { method, uri, headers, body: bytes };
        let until = Instant::now() + PATIENCE;
        for attempt in 0.. {
            let outcome = self.service.http.send(call.clone(), CALL_LIMIT).await;
            let again = match &outcome {
                Ok(answer) => repeats(answer.status, twice),
                Err(NetworkFault::Unreachable) => true,
                Err(NetworkFault::Broken) => twice == Twice::Harmless,
                Err(_) => false,
            };
            let pause = outcome.as_ref().ok().and_then(asked_pause).unwrap_or_else(|| pause(attempt));
            // Who was too quick is told so as often as that is, and waits for as long as there is patience.
            let is_rate = outcome.as_ref().is_ok_and(|answer| answer.status == 429);
            if !again || (attempt >= REPEATS && !is_rate) || Instant::now() + pause >= until {
                return outcome.map_err(|fault| fault.to_error(KIND, operation));
            }
            tokio::time::sleep(pause).await;
        }
        Err(ProviderError::TimedOut)
    }

    /// Reads; nothing where there is no such thing.
    pub(super) async fn get<T: for<'a> Deserialize<'a>>(
        &self,
        operation: &'static str,
        path: &str,
    ) -> Result<Option<T>, ProviderError> {
        let answer = self.call(operation, Method::GET, path, None, Twice::Harmless).await?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body).map(Some).map_err(|_| not_understood(operation)),
            404 => Ok(None),
            status => Err(from_answer(operation, status, &answer.body)),
        }
    }
}

/// Whether an answer asks for a repetition of its call.
fn repeats(status: u16, twice: Twice) -> bool {
    match twice {
        Twice::Harmless => matches!(status, 429 | 502 | 503 | 504),
        // A gateway's error says nothing of what is behind it.
        Twice::Makes => status == 429,
    }
}

fn asked_pause(answer: &Answer) -> Option<Duration> {
    let asked = answer.headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    // Any more than we have patience for is as good as that.
    asked.parse().ok().map(|seconds| Duration::from_secs(seconds).min(PATIENCE))
}

/// Doubling with each attempt, of which half is chance.
fn pause(attempt: u32) -> Duration {
    let mut chance = [0; 2];
    let _ = getrandom::fill(&mut chance);
    let part = 0.5 + f64::from(u16::from_be_bytes(chance)) / f64::from(u16::MAX) / 2.0;
    (FIRST_PAUSE * (1 << attempt.min(4))).mul_f64(part)
}

/// A token as it is without the scheme that Fly's own tool prints before it, once or more.
fn without_scheme(text: &str) -> &str {
    let mut bare = text.trim();
    while let Some((scheme, rest)) = bare.split_once(char::is_whitespace) {
        if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("flyv1") {
            break;
        }
        bare = rest.trim();
    }
    bare
}

/// The scheme that Fly's own clients send a token with.
fn scheme(bare: &str) -> &'static str {
    let is_macaroon = |part: &str| ["fm1r_", "fm1a_", "fm2_"].iter().any(|prefix| part.trim().starts_with(prefix));
    if bare.split(',').any(is_macaroon) { "FlyV1" } else { "Bearer" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_as_fly_prints_it_and_sent_as_fly_sends_it() {
        for (text, bare, how) in [
            ("FlyV1 fm2_abc,fm2_def\n", "fm2_abc,fm2_def", "FlyV1"),
            ("Bearer FlyV1 fm1r_abc", "fm1r_abc", "FlyV1"),
            ("bearer abc", "abc", "Bearer"),
            ("abc", "abc", "Bearer"),
            ("  ", "", "Bearer"),
        ] {
            assert_eq!((without_scheme(text), scheme(without_scheme(text))), (bare, how), "{text:?}");
        }
    }

    #[test]
    fn however_long_an_answer_asks_to_wait_a_moment_after_that_can_be_told() {
        for (asked, pause) in [("0", Some(0)), ("7", Some(7)), ("18446744073709551615", Some(20)), ("soon", None)] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(asked));
            let pause = pause.map(Duration::from_secs);
            assert_eq!(asked_pause(&Answer { status: 429, headers, body: Bytes::new() }), pause, "{asked}");
        }
    }

    #[test]
    fn what_makes_something_is_repeated_only_when_it_surely_was_not_done() {
        for status in [429, 502, 503, 504] {
            assert!(repeats(status, Twice::Harmless), "{status}");
            assert_eq!(repeats(status, Twice::Makes), status == 429, "{status}");
        }
        for status in [200, 400, 401, 404, 408, 409, 412, 422, 500] {
            assert!(!repeats(status, Twice::Harmless), "{status}");
        }
    }
}
