//! A deployment, and the capabilities that endpoints are handed from it.

use crate::agents::Sandboxes;
use std::sync::Arc;
use std::time::Duration;
use theazo_providers::docker::{DockerConfig, DockerProvider, Endpoint};
use theazo_providers::{Provider, ProviderError};
use theazo_store::{
    AgentCopies, Agents, ApiKeys, AuditLog, Aws, Credentials, KeyRing, KeyRingConfig, ProviderConfigs,
    ProviderCredentials, RateLimits, Replays, SecretNames, SecretOpener, SecretSealer, SessionTokens, Sessions,
    SimulatedDisks, Table,
};
use theazo_tenancy::Operator;

/// How long an unwrapped root key may be used before KMS is asked again, unless configured otherwise.
const KEY_CACHE: Duration = Duration::from_secs(600);

/// What distinguishes one deployment from another.
#[derive(Clone, Debug)]
pub struct DeploymentConfig {
    /// Its name: bound into every sealed record and every sandbox's labels.
    pub name: String,
    /// The data table's name.
    pub table: String,
    /// The ledger's table, if it is not `<table>-ledger`: a table that was restored goes on with the ledger it had.
    pub ledger: Option<String>,
    /// The KMS key's ARN.
    pub kms_key_arn: String,
    /// The deployment's own Docker engine, if it has one.
    pub docker: Option<DockerEngine>,
    /// How many requests a credential may make in a second.
    pub rate_limits: RateLimits,
    /// How long an unwrapped key may be used before KMS is asked again. Rotations wait that long twice; all functions
    /// and whoever rotates must have the same, or rotations the longest.
    pub key_cache: Duration,
}

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
    /// The Docker engine's address cannot be used.
    #[error("the Docker engine cannot be used: {0}")]
    Docker(#[from] ProviderError),
}

/// A deployment with its clients.
#[derive(Clone)]
pub struct Deployment {
    config: DeploymentConfig,
    table: Table,
    keys: KeyRing,
    docker: Option<Arc<dyn Provider>>,
    credentials: Credentials,
}

/// Environment variables of a function.
const NAME: &str = "THEAZO_DEPLOYMENT";
const TABLE: &str = "THEAZO_TABLE";
const LEDGER: &str = "THEAZO_LEDGER";
const KMS_KEY: &str = "THEAZO_KMS_KEY_ARN";
const DOCKER_ENDPOINT: &str = "THEAZO_DOCKER_ENDPOINT";
const DOCKER_IMAGE: &str = "THEAZO_DOCKER_IMAGE";
const KEY_RATE: &str = "THEAZO_KEY_REQUESTS_PER_SECOND";
const TOKEN_RATE: &str = "THEAZO_TOKEN_REQUESTS_PER_SECOND";
const KEY_CACHE_SECONDS: &str = "THEAZO_KEY_CACHE_SECONDS";

/// How long keys are kept in memory, as the environment says.
///
/// # Errors
/// [`ConfigError::NotANumber`].
pub fn key_cache_from_env() -> Result<Duration, ConfigError> {
    match std::env::var(KEY_CACHE_SECONDS) {
        Ok(text) => Ok(Duration::from_secs(text.parse().map_err(|_| ConfigError::NotANumber(KEY_CACHE_SECONDS))?)),
        Err(_) => Ok(KEY_CACHE),
    }
}

impl DeploymentConfig {
    /// Reads the function's environment.
    ///
    /// # Errors
    /// [`ConfigError`] with the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, ConfigError> {
        let get = |name| std::env::var(name).map_err(|_| ConfigError::Missing(name));
        let docker = match std::env::var(DOCKER_ENDPOINT) {
            Ok(endpoint) => Some(DockerEngine { endpoint: Endpoint::parse(&endpoint)?, image: get(DOCKER_IMAGE)? }),
            Err(_) => None,
        };
        let rate = |name, usual| match std::env::var(name) {
            Ok(text) => text.parse().map_err(|_| ConfigError::NotANumber(name)),
            Err(_) => Ok(usual),
        };
        let usual = RateLimits::default();
        let rate_limits = RateLimits { key: rate(KEY_RATE, usual.key)?, token: rate(TOKEN_RATE, usual.token)? };
        let (name, table, kms_key_arn, key_cache) = (get(NAME)?, get(TABLE)?, get(KMS_KEY)?, key_cache_from_env()?);
        let ledger = std::env::var(LEDGER).ok();
        Ok(Self { name, table, ledger, kms_key_arn, docker, rate_limits, key_cache })
    }

    /// One without a Docker engine of its own, for whoever asks which variables there are.
    pub fn example() -> Self {
        Self {
            name: "example".into(),
            table: "example-data".into(),
            ledger: Some("example-ledger".into()),
            kms_key_arn: "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000".into(),
            docker: None,
            rate_limits: RateLimits::default(),
            key_cache: KEY_CACHE,
        }
    }

    /// The same as variables for another process.
    pub fn to_env(&self) -> Vec<(&'static str, String)> {
        let mut variables =
            vec![(NAME, self.name.clone()), (TABLE, self.table.clone()), (KMS_KEY, self.kms_key_arn.clone())];
        variables.push((KEY_RATE, self.rate_limits.key.to_string()));
        variables.push((TOKEN_RATE, self.rate_limits.token.to_string()));
        variables.push((KEY_CACHE_SECONDS, self.key_cache.as_secs().to_string()));
        if let Some(ledger) = &self.ledger {
            variables.push((LEDGER, ledger.clone()));
        }
        if let Some(docker) = &self.docker {
            let Endpoint::Unix(socket) = &docker.endpoint;
            variables.push((DOCKER_ENDPOINT, format!("unix://{}", socket.display())));
            variables.push((DOCKER_IMAGE, docker.image.clone()));
        }
        variables
    }
}

impl Deployment {
    /// A deployment reached through those clients.
    ///
    /// # Errors
    /// [`ConfigError::Docker`] when the engine's address cannot be used.
    pub fn new(aws: &Aws, config: DeploymentConfig) -> Result<Self, ConfigError> {
        let table = Table::new(aws, &config.table);
        let table = match &config.ledger {
            Some(ledger) => table.with_ledger(ledger),
            None => table,
        };
        let ring = KeyRingConfig {
            deployment: config.name.clone(),
            kms_key_arn: config.kms_key_arn.clone(),
            cache_ttl: config.key_cache,
        };
        #[expect(clippy::disallowed_methods, reason = "the key ring reads the root keys' rows and nothing else")]
        let keys = KeyRing::new(aws, table.clone(), ring, &Operator::assume());
        let docker = match &config.docker {
            Some(engine) => {
                let settings = DockerConfig::new(engine.endpoint.clone(), &engine.image, &config.name);
                Some(Arc::new(DockerProvider::new(settings)?) as Arc<dyn Provider>)
            }
            None => None,
        };
        let credentials = Credentials::new(table.clone(), config.rate_limits);
        Ok(Self { config, table, keys, docker, credentials })
    }

    /// What distinguishes it.
    pub fn config(&self) -> &DeploymentConfig {
        &self.config
    }

    /// The data table, for set-up and operation. Endpoints are handed capabilities instead.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The key ring, for set-up.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    pub(crate) fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }
}

/// The capabilities an endpoint can ask for. Each stands for permissions in the deployment's template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CapabilityName {
    /// Read and change sessions.
    Sessions,
    /// Read and change agents' rows.
    Agents,
    /// Read secrets' names and versions.
    SecretNames,
    /// Seal and delete values.
    SecretSealer,
    /// Open values.
    SecretOpener,
    /// Keep sealed copies beside agents and open them to mask output.
    AgentCopies,
    /// Make, list, rotate and revoke API keys.
    ApiKeys,
    /// Mint and revoke sessions' tokens.
    SessionTokens,
    /// Read and remove provider configuration.
    ProviderConfigs,
    /// Make a platform secret a provider's credential.
    ProviderCredentials,
    /// Have answers given again.
    Replays,
    /// Read the audit trail.
    AuditLog,
    /// Call compute providers.
    Sandboxes,
}

/// Something an endpoint can be handed.
pub trait Capability {
    /// Its name in the route table.
    const NAME: CapabilityName;

    /// Hands it out.
    fn of(deployment: &Deployment) -> Self;
}

macro_rules! capabilities {
    ($($capability:ident: $deployment:ident => $make:expr;)*) => {
        $(impl Capability for $capability {
            const NAME: CapabilityName = CapabilityName::$capability;

            fn of($deployment: &Deployment) -> Self {
                $make
            }
        })*
    };
}

capabilities! {
    Sessions: deployment => Self::new(deployment.table.clone());
    Agents: deployment => Self::new(deployment.table.clone());
    SecretNames: deployment => Self::new(deployment.table.clone());
    SecretSealer: deployment => Self::new(deployment.table.clone(), deployment.keys.clone());
    SecretOpener: deployment => Self::new(deployment.table.clone(), deployment.keys.clone());
    AgentCopies: deployment => Self::new(deployment.table.clone(), deployment.keys.clone());
    ApiKeys: deployment => Self::new(deployment.table.clone());
    SessionTokens: deployment => Self::new(deployment.table.clone());
    ProviderConfigs: deployment => Self::new(deployment.table.clone());
    ProviderCredentials: deployment => Self::new(deployment.table.clone(), deployment.keys.clone());
    Replays: deployment => Self::new(deployment.table.clone());
    AuditLog: deployment => Self::new(deployment.table.clone());
    Sandboxes: deployment => Self::new(deployment.docker.clone(), SimulatedDisks::new(deployment.table.clone()));
}
