//! The environment variables of a process, and what each of them says by itself.

use super::config::ConfigError;
use http::HeaderValue;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use theazo_http::StreamLimits;
use theazo_metering::Prices;
use theazo_providers::e2b::E2bEndpoints;
use theazo_providers::fly::FlyEndpoints;
use theazo_store::{DEAD_HOST_AFTER, DEFAULT_AUDIT_DAYS, LOG_RETENTION_DAYS, RateLimits};

/// How long an unwrapped root key may be used before KMS is asked again, unless configured otherwise.
const KEY_CACHE: Duration = Duration::from_secs(600);

/// Environment variables of a function.
pub(super) const NAME: &str = "THEAZO_DEPLOYMENT";
pub(super) const TABLE: &str = "THEAZO_TABLE";
pub(super) const LEDGER: &str = "THEAZO_LEDGER";
pub(super) const KMS_KEY: &str = "THEAZO_KMS_KEY_ARN";
pub(super) const DOCKER_ENDPOINT: &str = "THEAZO_DOCKER_ENDPOINT";
pub(super) const DOCKER_IMAGE: &str = "THEAZO_DOCKER_IMAGE";
pub(super) const DOCKER_RANGES: &str = "THEAZO_DOCKER_PRIVATE_RANGES";
pub(super) const E2B_API: &str = "THEAZO_E2B_API_URL";
pub(super) const E2B_SANDBOX: &str = "THEAZO_E2B_SANDBOX_URL";
pub(super) const FLY_API: &str = "THEAZO_FLY_API_URL";
pub(super) const FLY_APP: &str = "THEAZO_FLY_APP_URL";
pub(super) const AGENT_ENDPOINT: &str = "THEAZO_AGENT_ENDPOINT";
/// Where a process finds the key that credentials are sealed with.
pub const CREDENTIAL_KEY: &str = "THEAZO_CREDENTIAL_KEY";
pub(super) const KEY_RATE: &str = "THEAZO_KEY_REQUESTS_PER_SECOND";
pub(super) const TOKEN_RATE: &str = "THEAZO_TOKEN_REQUESTS_PER_SECOND";
pub(super) const PRICES: &str = "THEAZO_PRICES";
pub(super) const CORS_ORIGIN: &str = "THEAZO_CORS_ORIGIN";
pub(super) const KEY_CACHE_SECONDS: &str = "THEAZO_KEY_CACHE_SECONDS";
pub(super) const LOG_RETENTION: &str = "THEAZO_LOG_RETENTION_DAYS";
pub(super) const AUDIT_DAYS: &str = "THEAZO_AUDIT_RETENTION_DAYS";
pub(super) const DEAD_HOST: &str = "THEAZO_DEAD_HOST_AFTER_SECONDS";
pub(super) const STREAM_CHECK: &str = "THEAZO_STREAM_CHECK_SECONDS";

/// All variables that a function reads, those of an engine of the machine's own apart: deployments have none.
pub const VARIABLES: [&str; 18] = [
    NAME,
    TABLE,
    LEDGER,
    KMS_KEY,
    DOCKER_RANGES,
    E2B_API,
    E2B_SANDBOX,
    AGENT_ENDPOINT,
    CREDENTIAL_KEY,
    KEY_RATE,
    TOKEN_RATE,
    PRICES,
    CORS_ORIGIN,
    KEY_CACHE_SECONDS,
    LOG_RETENTION,
    AUDIT_DAYS,
    DEAD_HOST,
    STREAM_CHECK,
];

/// Those of them by which a deployment's providers are found, and what they cost: who acts for it from elsewhere would
/// otherwise send its credentials to where providers usually are.
pub const OF_PROVIDERS: [&str; 4] = [DOCKER_RANGES, E2B_API, E2B_SANDBOX, PRICES];

/// Ten years; of log entries as well.
const MAX_DAYS: u32 = 3653;
/// Seconds: hosts are looked at once a minute.
const MIN_DEAD_HOST_AFTER: u32 = 60;
/// A day, which is as long as any agent runs.
const MAX_DEAD_HOST_AFTER: u32 = 24 * 60 * 60;
/// Seconds. What is revoked is to end soon.
const MAX_STREAM_CHECK: u32 = 60;

/// How long keys are kept in memory, as the environment says.
///
/// # Errors
/// [`ConfigError::NotANumber`].
pub fn key_cache_from_env() -> Result<Duration, ConfigError> {
    key_cache(&of_process)
}

/// How long audit entries are kept, days, as the environment says.
///
/// # Errors
/// [`ConfigError::NotANumber`]; [`ConfigError::OutOfRange`].
pub fn audit_days_from_env() -> Result<u32, ConfigError> {
    audit_days(&of_process)
}

/// How long log entries are kept, days, as the environment says.
///
/// # Errors
/// [`ConfigError::NotANumber`]; [`ConfigError::OutOfRange`].
pub fn log_retention_from_env() -> Result<u32, ConfigError> {
    log_retention(&of_process)
}

/// How long a host of a platform's may be silent before its agents have failed, as the environment says.
///
/// # Errors
/// [`ConfigError::NotANumber`]; [`ConfigError::OutOfRange`].
pub fn dead_host_after_from_env() -> Result<Duration, ConfigError> {
    dead_host_after(&of_process)
}

/// How long streams of events last, and how long one goes on before its credential is looked up again, as the environment
/// says.
///
/// # Errors
/// [`ConfigError::NotANumber`]; [`ConfigError::OutOfRange`].
pub fn stream_limits_from_env() -> Result<StreamLimits, ConfigError> {
    stream_limits(&of_process)
}

pub(super) fn stream_limits(variable: &dyn Fn(&str) -> Option<String>) -> Result<StreamLimits, ConfigError> {
    let usual = StreamLimits::default();
    let recheck = within(variable, STREAM_CHECK, 0..=MAX_STREAM_CHECK)?;
    Ok(StreamLimits { recheck: recheck.map_or(usual.recheck, |seconds| Duration::from_secs(seconds.into())), ..usual })
}

/// The origin whose pages may read answers in a browser, as the environment says.
///
/// # Errors
/// [`ConfigError::NotAnOrigin`].
pub fn cors_origin_from_env() -> Result<Option<HeaderValue>, ConfigError> {
    cors_origin(&of_process)
}

pub(super) fn cors_origin(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<HeaderValue>, ConfigError> {
    let Some(text) = variable(CORS_ORIGIN) else { return Ok(None) };
    let is_origin = text.starts_with("http://") || text.starts_with("https://");
    let value = HeaderValue::from_str(&text).ok().filter(|_| is_origin || text == "*");
    value.map(Some).ok_or(ConfigError::NotAnOrigin(CORS_ORIGIN))
}

pub(super) fn log_retention(variable: &dyn Fn(&str) -> Option<String>) -> Result<u32, ConfigError> {
    Ok(within(variable, LOG_RETENTION, 1..=MAX_DAYS)?.unwrap_or(LOG_RETENTION_DAYS))
}

pub(super) fn audit_days(variable: &dyn Fn(&str) -> Option<String>) -> Result<u32, ConfigError> {
    Ok(within(variable, AUDIT_DAYS, 1..=MAX_DAYS)?.unwrap_or(DEFAULT_AUDIT_DAYS))
}

pub(super) fn dead_host_after(variable: &dyn Fn(&str) -> Option<String>) -> Result<Duration, ConfigError> {
    let seconds = within(variable, DEAD_HOST, MIN_DEAD_HOST_AFTER..=MAX_DEAD_HOST_AFTER)?;
    Ok(seconds.map_or(DEAD_HOST_AFTER, |seconds| Duration::from_secs(seconds.into())))
}

pub(super) fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(super) fn key_cache(variable: &dyn Fn(&str) -> Option<String>) -> Result<Duration, ConfigError> {
    Ok(number(variable, KEY_CACHE_SECONDS)?.map_or(KEY_CACHE, Duration::from_secs))
}

/// A number that must be in a range.
fn within(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
    range: RangeInclusive<u32>,
) -> Result<Option<u32>, ConfigError> {
    match number(variable, name)? {
        Some(number) if !range.contains(&number) => {
            Err(ConfigError::OutOfRange { name, least: *range.start(), most: *range.end() })
        }
        other => Ok(other),
    }
}

fn number<T: FromStr>(variable: &dyn Fn(&str) -> Option<String>, name: &'static str) -> Result<Option<T>, ConfigError> {
    variable(name).map(|text| text.parse().map_err(|_| ConfigError::NotANumber(name))).transpose()
}

/// How many requests a credential may make in a second, as the environment says.
///
/// # Errors
/// [`ConfigError::NotANumber`].
pub fn rate_limits_from_env() -> Result<RateLimits, ConfigError> {
    rate_limits(&of_process)
}

pub(super) fn rate_limits(variable: &dyn Fn(&str) -> Option<String>) -> Result<RateLimits, ConfigError> {
    let usual = RateLimits::default();
    let key = number(variable, KEY_RATE)?.unwrap_or(usual.key);
    Ok(RateLimits { key, token: number(variable, TOKEN_RATE)?.unwrap_or(usual.token), ..usual })
}

/// What running costs, as the environment says: the usual prices, with those of the variable in their place.
///
/// # Errors
/// [`ConfigError::Prices`].
pub fn prices_from_env() -> Result<Prices, ConfigError> {
    prices(&of_process)
}

pub(super) fn prices(variable: &dyn Fn(&str) -> Option<String>) -> Result<Prices, ConfigError> {
    Ok(variable(PRICES).map_or(Ok(Prices::default()), |text| Prices::parse(&text))?)
}

/// Where E2B is, as the environment says.
pub fn e2b_from_env() -> E2bEndpoints {
    e2b(&of_process)
}

pub(super) fn e2b(variable: &dyn Fn(&str) -> Option<String>) -> E2bEndpoints {
    let usual = E2bEndpoints::default();
    let (api, sandbox) = (variable(E2B_API), variable(E2B_SANDBOX));
    E2bEndpoints { api: api.unwrap_or(usual.api), sandbox: sandbox.unwrap_or(usual.sandbox) }
}

/// Where Fly is, as the environment says.
pub fn fly_from_env() -> FlyEndpoints {
    fly(&of_process)
}

pub(super) fn fly(variable: &dyn Fn(&str) -> Option<String>) -> FlyEndpoints {
    let usual = FlyEndpoints::default();
    FlyEndpoints { api: variable(FLY_API).unwrap_or(usual.api), app: variable(FLY_APP).unwrap_or(usual.app) }
}
