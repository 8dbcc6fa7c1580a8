//! What a deployment is configured as, read from [variables](super::variables) and written to them.

use super::variables::*;
use http::HeaderValue;
use std::sync::Arc;
use std::time::Duration;
use theazo_http::StreamLimits;
use theazo_metering::{PriceError, Prices};
use theazo_providers::ProviderError;
use theazo_providers::docker::{Endpoint, HostRanges};
use theazo_providers::e2b::E2bEndpoints;
use theazo_providers::fly::FlyEndpoints;
use theazo_store::{RateLimits, is_kms_key_arn};
use theazo_tenancy::CredentialKey;
use zeroize::Zeroizing;

/// What distinguishes one deployment from another.
#[derive(Clone)]
pub struct DeploymentConfig {
    /// Its name: bound into every sealed record and every sandbox's labels.
    pub name: String,
    /// The data table's name.
    pub table: String,
    /// The ledger's table, if it is not `<table>-ledger`: a table that was restored goes on with the ledger it had.
    pub ledger: Option<String>,
    /// The KMS key's ARN.
    pub kms_key_arn: String,
    /// How long audit entries are kept, days.
    pub audit_days: u32,
    /// The deployment's own Docker engine, if it has one.
    pub docker: Option<DockerEngine>,
    /// Where Docker hosts of platforms may be beside the internet.
    pub docker_ranges: HostRanges,
    /// Where E2B is, for platforms that have configured it.
    pub e2b: E2bEndpoints,
    /// Where Fly is, for platforms that have configured it.
    pub fly: FlyEndpoints,
    /// Where agents reach this API from inside their sandboxes, `http://host:port`. Without one they are given no token.
    pub agent_endpoint: Option<String>,
    /// The key that its credentials' rows are sealed with. The same wherever it is, and nowhere in the table. Functions
    /// that look no credential up have none.
    pub credential_key: Option<Arc<CredentialKey>>,
    /// How many requests a credential may make in a second.
    pub rate_limits: RateLimits,
    /// How long an unwrapped key may be used before KMS is asked again. Rotations wait that long twice; all functions
    /// and whoever rotates must have the same, or rotations the longest.
    pub key_cache: Duration,
    /// How long a log entry is kept, days.
    pub log_retention_days: u32,
    /// How long a host of a platform's may be silent before its agents have failed.
    pub dead_host_after: Duration,
    /// How long something at a provider is without an owner before it is removed.
    pub orphan_grace: Duration,
    /// How long streams last.
    pub streams: StreamLimits,
    /// What an hour of running costs.
    pub prices: Prices,
    /// The origin whose pages may read answers in a browser, or `*`. The gateway answers what browsers ask beforehand.
    pub cors_origin: Option<HeaderValue>,
}

/// How long something at a provider is without an owner before it is removed: after a table was put back to an older state,
/// everything newer has none, and somebody must have the time to stop that.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(10 * 60);

/// A Docker engine that belongs to the deployment.
#[derive(Clone, Debug)]
pub struct DockerEngine {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The agent image on it.
    pub image: String,
}

/// A variable is missing or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not set.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// It should be a whole number.
    #[error("{0} is not a whole number")]
    NotANumber(&'static str),
    /// It should be a key.
    #[error("{0} is not 64 hexadecimal digits")]
    NotAKey(&'static str),
    /// It is out of range.
    #[error("{name} must be from {least} to {most}")]
    OutOfRange {
        /// The variable.
        name: &'static str,
        /// The least that it may be.
        least: u32,
        /// The most.
        most: u32,
    },
    /// It should be the ARN of a KMS key.
    #[error("{0} is not the ARN of a KMS key (an alias or a bare id is none)")]
    NotAKeyArn(&'static str),
    /// It should be an origin.
    #[error("{0} is not an origin")]
    NotAnOrigin(&'static str),
    /// The price table cannot be used.
    #[error("{PRICES} {0}")]
    Prices(#[from] PriceError),
    /// The Docker engine's address cannot be used.
    #[error("the Docker engine cannot be used: {0}")]
    Docker(#[from] ProviderError),
}

impl DeploymentConfig {
    /// Reads the function's environment.
    ///
    /// # Errors
    /// [`ConfigError`] with the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&of_process)
    }

    /// Reads the same variables from wherever they are.
    ///
    /// # Errors
    /// As [`DeploymentConfig::from_env`].
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name| variable(name).ok_or(ConfigError::Missing(name));
        let docker = match variable(DOCKER_ENDPOINT) {
            Some(endpoint) => Some(DockerEngine { endpoint: Endpoint::parse(&endpoint)?, image: get(DOCKER_IMAGE)? }),
            None => None,
        };
        let docker_ranges = HostRanges::parse(&variable(DOCKER_RANGES).unwrap_or_default())?;
        let (e2b, rate_limits) = (e2b(variable), rate_limits(variable)?);
        let (name, table, kms_key_arn) = (get(NAME)?, get(TABLE)?, get(KMS_KEY)?);
        if !is_kms_key_arn(&kms_key_arn) {
            return Err(ConfigError::NotAKeyArn(KMS_KEY));
        }
        let credential_key = variable(CREDENTIAL_KEY).map(Zeroizing::new);
        let credential_key = credential_key
            .map(|text| CredentialKey::parse(&text).map(Arc::new).ok_or(ConfigError::NotAKey(CREDENTIAL_KEY)))
            .transpose()?;
        let (ledger, audit_days, key_cache) = (variable(LEDGER), audit_days(variable)?, key_cache(variable)?);
        let agent_endpoint = variable(AGENT_ENDPOINT);
        let (log_retention_days, streams) = (log_retention(variable)?, stream_limits(variable)?);
        Ok(Self {
            name,
            table,
            ledger,
            kms_key_arn,
            audit_days,
            docker,
            docker_ranges,
            e2b,
            fly: fly(variable),
            agent_endpoint,
            credential_key,
            rate_limits,
            key_cache,
            log_retention_days,
            dead_host_after: dead_host_after(variable)?,
            orphan_grace: ORPHAN_GRACE,
            streams,
            prices: prices(variable)?,
            cors_origin: cors_origin(variable)?,
        })
    }

    /// The same, if it has what it takes to look credentials up.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn authenticating(self) -> Result<Self, ConfigError> {
        if self.credential_key.is_some() { Ok(self) } else { Err(ConfigError::Missing(CREDENTIAL_KEY)) }
    }

    /// The same as variables for another process, the credential key among them.
    pub fn to_env(&self) -> Vec<(&'static str, String)> {
        let mut variables =
            vec![(NAME, self.name.clone()), (TABLE, self.table.clone()), (KMS_KEY, self.kms_key_arn.clone())];
        if let Some(key) = &self.credential_key {
            variables.push((CREDENTIAL_KEY, key.to_text().to_string()));
        }
        variables.push((KEY_RATE, self.rate_limits.key.to_string()));
        variables.push((TOKEN_RATE, self.rate_limits.token.to_string()));
        variables.push((KEY_CACHE_SECONDS, self.key_cache.as_secs().to_string()));
        variables.push((AUDIT_DAYS, self.audit_days.to_string()));
        variables.push((LOG_RETENTION, self.log_retention_days.to_string()));
        variables.push((DEAD_HOST, self.dead_host_after.as_secs().to_string()));
        variables.push((STREAM_CHECK, self.streams.recheck.as_secs().to_string()));
        if let Some(endpoint) = &self.agent_endpoint {
            variables.push((AGENT_ENDPOINT, endpoint.clone()));
        }
        if self.e2b != E2bEndpoints::default() {
            variables.push((E2B_API, self.e2b.api.clone()));
            variables.push((E2B_SANDBOX, self.e2b.sandbox.clone()));
        }
        if self.fly != FlyEndpoints::default() {
            variables.push((FLY_API, self.fly.api.clone()));
            variables.push((FLY_APP, self.fly.app.clone()));
        }
        if self.prices != Prices::default() {
            variables.push((PRICES, self.prices.to_json()));
        }
        if let Some(origin) = self.cors_origin.as_ref().and_then(|origin| origin.to_str().ok()) {
            variables.push((CORS_ORIGIN, origin.to_owned()));
        }
        if let Some(ledger) = &self.ledger {
            variables.push((LEDGER, ledger.clone()));
        }
        if !self.docker_ranges.is_empty() {
            variables.push((DOCKER_RANGES, self.docker_ranges.to_string()));
        }
        if let Some(docker) = &self.docker
            && let Endpoint::Unix(socket) = &docker.endpoint
        {
            variables.push((DOCKER_ENDPOINT, format!("unix://{}", socket.display())));
            variables.push((DOCKER_IMAGE, docker.image.clone()));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::Deployment;
    use std::collections::HashMap;
    use theazo_store::{Aws, AwsEndpoints};

    const SEALING: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    /// What a function with these variables, beside those that each must have, is configured as.
    fn configured(more: &[(&str, &str)]) -> Result<DeploymentConfig, ConfigError> {
        let must = [(NAME, "prod"), (TABLE, "data"), (KMS_KEY, ARN), (CREDENTIAL_KEY, SEALING)];
        let variables: HashMap<_, _> = must.into_iter().chain(more.iter().copied()).collect();
        DeploymentConfig::read(&|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn what_is_not_said_is_as_usual_and_what_is_said_is_handed_on_whole() {
        let usual = configured(&[]).unwrap();
        let prices = Prices::parse(r#"{"simulated": {"standard": 1}}"#).unwrap().to_json();
        assert_eq!((usual.ledger, usual.audit_days, usual.key_cache), (None, 400, Duration::from_secs(600)));
        let said = [
            (LEDGER, "the-ledger-there-was"),
            (AUDIT_DAYS, "90"),
            (KEY_CACHE_SECONDS, "30"),
            (KEY_RATE, "7"),
            (TOKEN_RATE, "8"),
            (DOCKER_ENDPOINT, "unix:///run/docker.sock"),
            (DOCKER_IMAGE, "agent:1"),
            (DOCKER_RANGES, "10.0.0.0/8,fd00::/8"),
            (LOG_RETENTION, "60"),
            (DEAD_HOST, "120"),
            (STREAM_CHECK, "3"),
            (AGENT_ENDPOINT, "https://api.example.com"),
            (E2B_API, "http://127.0.0.1:1"),
            (E2B_SANDBOX, "http://127.0.0.1:2"),
            (FLY_API, "http://127.0.0.1:3"),
            (FLY_APP, "http://{address}:4"),
            (PRICES, &prices),
            (CORS_ORIGIN, "https://app.example.com"),
        ];
        let config = configured(&said).unwrap();
        assert_eq!(config.ledger.as_deref(), Some("the-ledger-there-was"));
        let mut handed_on = config.to_env();
        handed_on.sort_unstable();
        let mut expected = said.to_vec();
        expected.extend([(NAME, "prod"), (TABLE, "data"), (KMS_KEY, ARN), (CREDENTIAL_KEY, SEALING)]);
        expected.sort_unstable();
        let mut names: Vec<_> = handed_on.iter().map(|(name, _)| *name).collect();
        // The template leaves these to local stacks, to tests, and to who runs a Fly of their own.
        let left = [DOCKER_ENDPOINT, DOCKER_IMAGE, "THEAZO_FLY_"];
        names.retain(|name| !left.iter().any(|prefix| name.starts_with(prefix)));
        let mut known = VARIABLES;
        known.sort_unstable();
        assert_eq!(names, known);
        assert_eq!(handed_on, expected.into_iter().map(|(name, value)| (name, value.to_owned())).collect::<Vec<_>>());
    }

    #[test]
    fn only_what_looks_credentials_up_must_have_their_key() {
        let must = [(NAME, "prod"), (TABLE, "data"), (KMS_KEY, ARN)];
        let read = |more: Option<&'static str>| {
            let more = more.map(|key| (CREDENTIAL_KEY, key));
            let variables: HashMap<_, _> = must.into_iter().chain(more).collect();
            DeploymentConfig::read(&|name| variables.get(name).map(|value| (*value).to_owned()))
        };
        let without = read(None).unwrap();
        assert!(without.to_env().iter().all(|(name, _)| *name != CREDENTIAL_KEY));
        assert!(matches!(without.authenticating(), Err(ConfigError::Missing(CREDENTIAL_KEY))));
        assert!(read(Some(SEALING)).unwrap().authenticating().is_ok());
        assert!(matches!(read(Some("")), Err(ConfigError::NotAKey(CREDENTIAL_KEY))));
    }

    #[test]
    fn an_alias_is_no_key_and_a_retention_has_bounds() {
        let alias = "arn:aws:kms:us-east-1:111122223333:alias/theazo";
        assert!(matches!(configured(&[(KMS_KEY, alias)]), Err(ConfigError::NotAKeyArn(KMS_KEY))));
        for bad in ["", "none", "example.com", "null", "https://a\n"] {
            let refused = configured(&[(CORS_ORIGIN, bad)]);
            assert!(matches!(refused, Err(ConfigError::NotAnOrigin(CORS_ORIGIN))), "{bad}");
        }
        let days = |config: DeploymentConfig| [config.log_retention_days, config.audit_days];
        assert_eq!(days(configured(&[]).unwrap()), [30, 400]);
        for (at, name) in [(0, LOG_RETENTION), (1, AUDIT_DAYS)] {
            for (text, number) in [("1", 1), ("3653", 3653)] {
                assert_eq!(days(configured(&[(name, text)]).unwrap())[at], number);
            }
            for bad in ["0", "3654", "4294967295"] {
                let refused = configured(&[(name, bad)]).err().unwrap();
                assert!(matches!(&refused, ConfigError::OutOfRange { name: refused, .. } if *refused == name), "{bad}");
                assert_eq!(refused.to_string(), format!("{name} must be from 1 to 3653"));
            }
            for bad in ["", "-1", "1.5", "a", "30 days", " 30", "4294967296", "99999999999999999999"] {
                let refused = configured(&[(name, bad)]).err().unwrap();
                assert!(matches!(&refused, ConfigError::NotANumber(refused) if *refused == name), "{bad}");
                assert_eq!(refused.to_string(), format!("{name} is not a whole number"));
            }
        }
    }

    #[test]
    fn a_key_may_make_a_thousand_requests_a_second_a_token_a_hundred_and_an_agent_twenty_unless_said_otherwise() {
        let rates = |variables: &[(&'static str, &str)]| {
            let RateLimits { key, token, agent } = configured(variables).unwrap().rate_limits;
            (key, token, agent)
        };
        assert_eq!(rates(&[]), (1000, 100, 20));
        assert_eq!(rates(&[(KEY_RATE, "7")]), (7, 100, 20));
        assert_eq!(rates(&[(TOKEN_RATE, "7")]), (1000, 7, 20));
    }

    #[test]
    fn a_host_is_waited_for_from_a_minute_to_a_day_and_a_quarter_of_an_hour_unless_said_otherwise() {
        assert_eq!(configured(&[]).unwrap().dead_host_after, Duration::from_secs(900));
        for good in ["60", "86400"] {
            let seconds = configured(&[(DEAD_HOST, good)]).unwrap().dead_host_after.as_secs();
            assert_eq!(seconds.to_string(), good);
        }
        for bad in ["0", "59", "86401"] {
            let refused = configured(&[(DEAD_HOST, bad)]).err().unwrap();
            assert_eq!(refused.to_string(), "THEAZO_DEAD_HOST_AFTER_SECONDS must be from 60 to 86400", "{bad}");
        }
        for bad in ["", "-1", "15m"] {
            assert!(matches!(configured(&[(DEAD_HOST, bad)]), Err(ConfigError::NotANumber(DEAD_HOST))), "{bad}");
        }
    }

    #[test]
    fn an_open_streams_credential_is_looked_up_every_ten_seconds_or_more_often_down_to_before_each_piece() {
        let recheck = |variables: &[(&'static str, &str)]| configured(variables).map(|config| config.streams.recheck);
        assert_eq!(recheck(&[]).unwrap(), Duration::from_secs(10));
        for seconds in [0, 1, 60] {
            let text = seconds.to_string();
            assert_eq!(recheck(&[(STREAM_CHECK, &text)]).unwrap(), Duration::from_secs(seconds));
        }
        let refused = recheck(&[(STREAM_CHECK, "61")]).unwrap_err();
        assert_eq!(refused.to_string(), "THEAZO_STREAM_CHECK_SECONDS must be from 0 to 60");
        for bad in ["", "-1", "10s"] {
            assert!(matches!(recheck(&[(STREAM_CHECK, bad)]), Err(ConfigError::NotANumber(STREAM_CHECK))), "{bad}");
        }
    }

    #[tokio::test]
    async fn deletions_are_noted_in_the_ledger_that_is_configured() {
        let aws = Aws::local(&AwsEndpoints { dynamodb: "http://127.0.0.1:9".into(), kms: None });
        for (more, ledger) in [(&[][..], "data-ledger"), (&[(LEDGER, "another")][..], "another")] {
            let deployment = Deployment::new(&aws, configured(more).unwrap());
            assert_eq!(deployment.table().ledger_name(), ledger);
        }
    }
}
