//! The management API under one API key, with the retries that E2B's own clients do.

use super::E2bService;
use super::KIND;
use super::failure::{Told, failed, from_answer, not_understood};
use crate::ProviderError;
use crate::http::{Answer, Call, NetworkFault};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use theazo_vault::SecretValue;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// E2B itself gives up after 70 s, so a shorter wait would leave calls whose outcome is not known.
const CALL_LIMIT: Duration = Duration::from_secs(75);
/// Repetitions of a call, and what they may take together.
const REPEATS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Most rows in one page, and pages in one list.
const PAGE: usize = 100;
const PAGES: usize = 200;
/// What stays as it is in a part of a path or query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An account at E2B.
pub(super) struct Account {
    pub(super) service: Arc<E2bService>,
    key: HeaderValue,
}

/// A sandbox that can be spoken to.
pub(super) struct Handle {
    pub(super) id: String,
    /// Opens the daemon inside; the same for as long as the sandbox exists.
    pub(super) token: Zeroizing<String>,
    /// Opens its ports, if it was told and they are not open to everybody; likewise the same.
    pub(super) traffic: Option<Zeroizing<String>>,
    /// Where it is found, if not where most are.
    pub(super) domain: Option<String>,
}

/// A listed sandbox.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    #[serde(rename = "sandboxID")]
    pub(super) id: String,
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) state: String,
}

/// A sandbox as it is asked for by its id.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    pub(super) state: String,
    pub(super) pause_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Opened {
    #[serde(rename = "sandboxID")]
    id: String,
    envd_access_token: Option<String>,
    traffic_access_token: Option<String>,
    domain: Option<String>,
}

/// Which snapshots are meant.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    /// Those of the whole account.
    All,
    /// Those that were made of one sandbox.
    OfSandbox(&'a str),
    /// Those of that very name.
    Named(&'a str),
}

/// A snapshot.
#[derive(Deserialize)]
pub(super) struct Snapshot {
    #[serde(rename = "snapshotID")]
    pub(super) id: String,
    #[serde(default)]
    pub(super) names: Vec<String>,
}

/// What came of asking for a sandbox.
pub(super) enum Created {
    /// It is there.
    Here(Handle),
    /// Something else was, or may have been, made under the same key: look what there is.
    Look,
    /// The plan allows no more than so many seconds.
    TooLong(u64),
}

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

impl Account {
    /// # Errors
    /// [`ProviderError::Failed`] for a key that no header can carry.
    pub(super) fn new(service: Arc<E2bService>, key: &SecretValue) -> Result<Self, ProviderError> {
        let unusable = |_| failed("API key", None, false, "the credential is no API key");
        let text = key.expose().trim_ascii();
        let mut key = HeaderValue::from_bytes(text).map_err(unusable)?;
        key.set_sensitive(true);
        Ok(Self { service, key })
    }

    /// Makes a call, again where it is likely to help: every call here may be done twice. Statuses that ask for a
    /// repetition are those of E2B's clients, and what the service says of it itself comes first.
    async fn call(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        once: Option<&str>,
    ) -> Result<Answer, ProviderError> {
        let uri: Uri = format!("{}{path}", self.service.endpoints.api)
            .parse()
            .map_err(|_| failed(operation, None, false, "a path that is none"))?;
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-api-key"), self.key.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, super::USER_AGENT);
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            bytes = body.to_string().into();
        }
        if let Some(once) = once.and_then(|once| HeaderValue::from_str(once).ok()) {
            headers.insert(HeaderName::from_static("idempotency-key"), once);
        }
        let call = Call { method, uri, headers, body: bytes };
        let until = Instant::now() + PATIENCE;
        for attempt in 0.. {
            let outcome = self.service.http.send(call.clone(), CALL_LIMIT).await;
            let pause = match &outcome {
                Ok(answer) => repeat_after(answer, attempt),
                Err(NetworkFault::Unreachable | NetworkFault::Broken) => Some(pause(attempt)),
                Err(_) => None,
            };
            match pause {
                Some(pause) if attempt < REPEATS && Instant::now() + pause < until => tokio::time::sleep(pause).await,
                _ => return outcome.map_err(|fault| fault.to_error(KIND, operation)),
            }
        }
        Err(ProviderError::TimedOut)
    }

    fn parse<'a, T: Deserialize<'a>>(operation: &'static str, answer: &'a Answer) -> Result<T, ProviderError> {
        serde_json::from_slice(&answer.body).map_err(|_| not_understood(operation))
    }

    fn handle(operation: &'static str, answer: &Answer) -> Result<Handle, ProviderError> {
        let Opened { id, envd_access_token, traffic_access_token, domain } = Self::parse(operation, answer)?;
        let traffic = traffic_access_token.map(Zeroizing::new);
        // Without a token anybody could run programs in it.
        let token = envd_access_token.ok_or_else(|| failed(operation, None, false, "the sandbox is not secured"))?;
        // Both become part of an address.
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_host = |domain: &String| domain.split('.').all(plain);
        // And this one a header.
        let is_token =
            |token: &Zeroizing<String>| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let is_odd = domain.as_ref().is_some_and(|domain| !is_host(domain));
        if !plain(&id) || is_odd || traffic.as_ref().is_some_and(|token| !is_token(token)) {
            return Err(not_understood(operation));
        }
        Ok(Handle { id, token: Zeroizing::new(token), traffic, domain })
    }

    /// Creates a sandbox, once for one key.
    pub(super) async fn create(&self, body: &Value, key: &str) -> Result<Created, ProviderError> {
        const CREATE: &str = "create sandbox";
        let answer = self.call(CREATE, Method::POST, "/v2/sandboxes", Some(body), Some(key)).await?;
        let told = || serde_json::from_slice::<Told>(&answer.body).unwrap_or_default();
        match answer.status {
            200 | 201 => Self::handle(CREATE, &answer).map(Created::Here),
            404 => Err(failed(CREATE, Some(404), false, "the template is not there")),
            400 => match longest_allowed(&told().message) {
                Some(seconds) => Ok(Created::TooLong(seconds)),
                None => Err(from_answer(CREATE, 400, &answer.body)),
            },
            // Of the account's running sandboxes, not of its calls: those were repeated.
            429 => Err(ProviderError::NoCapacity),
            status => match told().error_code.as_deref() {
                Some(code) if code.starts_with("idempotency_") => Ok(Created::Look),
                _ => Err(from_answer(CREATE, status, &answer.body)),
            },
        }
    }

    /// Opens a sandbox for that long from now: whether it had to be booted for it.
    pub(super) async fn connect(&self, id: &str, seconds: u64) -> Result<(Handle, bool), ProviderError> {
        const CONNECT: &str = "resume sandbox";
        let path = format!("/v2/sandboxes/{}/connect", encode(id));
        let mut seconds = seconds;
        for _ in 0..2 {
            let body = json!({ "timeout": seconds });
            let answer = self.call(CONNECT, Method::POST, &path, Some(&body), None).await?;
            match answer.status {
                200 | 201 => return Ok((Self::handle(CONNECT, &answer)?, answer.status == 201)),
                404 => return Err(ProviderError::SandboxGone),
                429 => return Err(ProviderError::NoCapacity),
                400 => match longest_allowed(&serde_json::from_slice::<Told>(&answer.body).unwrap_or_default().message)
                {
                    Some(allowed) if allowed < seconds => seconds = allowed,
                    _ => return Err(from_answer(CONNECT, 400, &answer.body)),
                },
                status => return Err(from_answer(CONNECT, status, &answer.body)),
            }
        }
        Err(failed(CONNECT, Some(400), false, "E2B does not allow the sandbox its time"))
    }

    /// A sandbox that exists, with what opens it.
    pub(super) async fn open(&self, id: &str) -> Result<(Handle, Detail), ProviderError> {
        const GET: &str = "get sandbox";
        let answer = self.call(GET, Method::GET, &format!("/sandboxes/{}", encode(id)), None, None).await?;
        match answer.status {
            200 => Ok((Self::handle(GET, &answer)?, Self::parse(GET, &answer)?)),
            404 => Err(ProviderError::SandboxGone),
            status => Err(from_answer(GET, status, &answer.body)),
        }
    }

    /// Pauses a sandbox without its memory. One that is paused already stays so.
    pub(super) async fn pause(&self, id: &str) -> Result<(), ProviderError> {
        const PAUSE: &str = "pause sandbox";
        let path = format!("/sandboxes/{}/pause", encode(id));
        let answer = self.call(PAUSE, Method::POST, &path, Some(&json!({ "memory": false })), None).await?;
        match (answer.status, keeps_files_alone(&answer)) {
            (200..=299, _) => Ok(()),
            (404, _) => Err(ProviderError::SandboxGone),
            (_, false) => Err(ProviderError::CannotPause),
            (409, _) if self.open(id).await?.1.state == "paused" => Ok(()),
            (status, _) => Err(from_answer(PAUSE, status, &answer.body)),
        }
    }

    /// Keeps a running sandbox's file system, without its memory, under that name.
    pub(super) async fn snapshot(&self, id: &str, name: &str) -> Result<(), ProviderError> {
        const SNAPSHOT: &str = "make snapshot";
        let path = format!("/sandboxes/{}/snapshots", encode(id));
        let body = json!({ "name": name, "memory": false });
        let answer = self.call(SNAPSHOT, Method::POST, &path, Some(&body), None).await?;
        match (answer.status, keeps_files_alone(&answer)) {
            (200..=299, _) => Ok(()),
            (404, _) => Err(ProviderError::SandboxGone),
            (_, false) => Err(ProviderError::CannotCheckpoint),
            (status, _) => Err(from_answer(SNAPSHOT, status, &answer.body)),
        }
    }

    /// Ends a sandbox, running or paused. One that is not there is ended.
    pub(super) async fn kill(&self, id: &str) -> Result<(), ProviderError> {
        self.delete("end sandbox", &format!("/sandboxes/{}", encode(id))).await
    }

    /// Removes a snapshot, which is a template to E2B.
    pub(super) async fn delete_snapshot(&self, id: &str) -> Result<(), ProviderError> {
        self.delete("remove snapshot", &format!("/templates/{}", encode(id))).await
    }

    async fn delete(&self, operation: &'static str, path: &str) -> Result<(), ProviderError> {
        let answer = self.call(operation, Method::DELETE, path, None, None).await?;
        match answer.status {
            200..=299 | 404 => Ok(()),
            status => Err(from_answer(operation, status, &answer.body)),
        }
    }

    /// Sandboxes, running and paused, with these labels.
    pub(super) async fn list(&self, labels: &[(&str, &str)]) -> Result<Vec<Listed>, ProviderError> {
        // Each name and value is encoded by itself, then the pairs, then the whole as one value of the query.
        let pairs: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{}={}", encode(&encode(name)), encode(&encode(value))))
            .collect();
        let query = format!("state=running,paused&metadata={}", encode(&pairs.join("&")));
        let found: Vec<Listed> = self.pages("list sandboxes", "/v2/sandboxes", &query).await?;
        // The filter is the service's promise; what may be removed is looked at once more. A page can also repeat what
        // moved there meanwhile.
        let fits = |listed: &Listed| {
            labels.iter().all(|(name, value)| listed.metadata.get(*name).is_some_and(|is| is == value))
        };
        let mut by_id: BTreeMap<String, Listed> = BTreeMap::new();
        for listed in found.into_iter().filter(fits) {
            let is_known = by_id.get(&listed.id).is_some_and(|known| known.state == "running");
            if !is_known {
                by_id.insert(listed.id.clone(), listed);
            }
        }
        Ok(by_id.into_values().collect())
    }

    /// Snapshots. There may be thousands: whoever knows which are meant says so.
    pub(super) async fn snapshots(&self, which: Which<'_>) -> Result<Vec<Snapshot>, ProviderError> {
        let query = match which {
            Which::All => String::new(),
            Which::OfSandbox(id) => format!("sandboxID={}", encode(id)),
            Which::Named(name) => format!("name={}", encode(name)),
        };
        self.pages("list snapshots", "/snapshots", &query).await
    }

    async fn pages<T: for<'de> Deserialize<'de>>(
        &self,
        operation: &'static str,
        path: &str,
        query: &str,
    ) -> Result<Vec<T>, ProviderError> {
        let (mut found, mut next) = (Vec::new(), None);
        for _ in 0..PAGES {
            let after = next.map(|token: String| format!("&nextToken={}", encode(&token))).unwrap_or_default();
            let page = format!("{path}?{query}{}limit={PAGE}{after}", if query.is_empty() { "" } else { "&" });
            let answer = self.call(operation, Method::GET, &page, None, None).await?;
            if answer.status != 200 {
                return Err(from_answer(operation, answer.status, &answer.body));
            }
            found.extend(Self::parse::<Vec<T>>(operation, &answer)?);
            next = answer.headers.get("x-next-token").and_then(|token| token.to_str().ok()).map(str::to_owned);
            if next.as_ref().is_none_or(String::is_empty) {
                return Ok(found);
            }
        }
        Err(failed(operation, None, false, "a list without an end"))
    }

    /// Whether the key is good, by a call that changes nothing.
    pub(super) async fn check(&self) -> Result<(), ProviderError> {
        const CHECK: &str = "check";
        let answer = self.call(CHECK, Method::GET, "/v2/sandboxes?limit=1", None, None).await?;
        if answer.status == 200 { Ok(()) } else { Err(from_answer(CHECK, answer.status, &answer.body)) }
    }
}

/// When an answer asks for a repetition of its call.
fn repeat_after(answer: &Answer, attempt: u32) -> Option<Duration> {
    let said = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let repeats = match said("should-retry") {
        Some("true") => true,
        Some("false") => false,
        _ => matches!(answer.status, 429 | 502 | 503 | 504),
    };
    let asked = said("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    repeats.then(|| asked.unwrap_or_else(|| pause(attempt)))
}

/// Doubling with each attempt, of which half is chance.
fn pause(attempt: u32) -> Duration {
    let mut chance = [0; 2];
    let _ = getrandom::fill(&mut chance);
    let part = 0.5 + f64::from(u16::from_be_bytes(chance)) / f64::from(u16::MAX) / 2.0;
    (FIRST_PAUSE * (1 << attempt.min(6))).mul_f64(part)
}

/// The longest time that a plan allows, in seconds, as its refusal of a longer one words it.
fn longest_allowed(message: &str) -> Option<u64> {
    let rest = message.strip_prefix("Timeout cannot be greater than ")?;
    let hours: u64 = rest.split(' ').next()?.parse().ok()?;
    hours.checked_mul(3600).filter(|seconds| *seconds > 0)
}

/// Whether E2B can keep files without memory, going by its refusal: it cannot for some accounts and on some nodes, and where
/// it does not know the word takes it for a malformed request.
fn keeps_files_alone(answer: &Answer) -> bool {
    const CANNOT: [&str; 2] = ["snapshot_filesystem_only_disabled", "snapshot_filesystem_only_unsupported_node"];
    let code = serde_json::from_slice::<Told>(&answer.body).unwrap_or_default().error_code;
    !matches!(answer.status, 400 | 422) && !code.is_some_and(|code| CANNOT.contains(&code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Answer { status, headers: headers.collect(), body: Bytes::new() }
    }

    #[test]
    fn calls_are_repeated_where_e2bs_own_clients_do_it() {
        for status in [429, 502, 503, 504] {
            assert!(repeat_after(&answer(status, &[]), 0).is_some(), "{status}");
            assert!(repeat_after(&answer(status, &[("should-retry", "false")]), 0).is_none(), "{status}");
        }
        for status in [200, 400, 401, 404, 409, 500] {
            assert!(repeat_after(&answer(status, &[]), 0).is_none(), "{status}");
        }
        assert!(repeat_after(&answer(500, &[("should-retry", "true")]), 0).is_some());
        let asked = repeat_after(&answer(429, &[("retry-after", "7")]), 0);
        assert_eq!(asked, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_plans_longest_time_is_read_of_its_refusal_and_of_nothing_else() {
        assert_eq!(longest_allowed("Timeout cannot be greater than 1 hours"), Some(3600));
        for other in ["", "Timeout cannot be greater than x hours", "Timeout cannot be greater than 0 hours", "no"] {
            assert_eq!(longest_allowed(other), None, "{other}");
        }
    }
}
