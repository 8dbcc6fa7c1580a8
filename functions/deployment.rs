//! A deployment, and the capabilities that endpoints are handed from it.

mod config;
mod variables;

pub use config::{ConfigError, DeploymentConfig, DockerEngine, ORPHAN_GRACE};
pub use variables::{
    CREDENTIAL_KEY, OF_PROVIDERS, VARIABLES, audit_days_from_env, cors_origin_from_env, dead_host_after_from_env,
    e2b_from_env, fly_from_env, key_cache_from_env, log_retention_from_env, prices_from_env, rate_limits_from_env,
    stream_limits_from_env,
};

use crate::agents::{Docker, E2b, Fly, Sandboxes};
use theazo_providers::docker::{DockerConfig, HostRanges, PortKey};
use theazo_store::{
    AgentCopies, AgentReports, AgentTokens, Agents, ApiKeys, AuditLog, Aws, Credentials, KeyRing, KeyRingConfig,
    LogQueue, LogWriter, Logs, Measurements, Metrics, ProviderAccess, ProviderConfigs, ProviderCredentials, Replays,
    SecretNames, SecretOpener, SecretSealer, SessionTokens, Sessions, SimulatedDisks, Table, TokenCopies, Usage,
};
use theazo_tenancy::Operator;

/// A deployment with its clients.
#[derive(Clone)]
pub struct Deployment {
    config: DeploymentConfig,
    table: Table,
    keys: KeyRing,
    docker: Docker,
    e2b: E2b,
    fly: Fly,
    credentials: Credentials,
    log_queue: LogQueue,
}

impl Deployment {
    /// A deployment reached through those clients.
    pub fn new(aws: &Aws, config: DeploymentConfig) -> Self {
        let table = Table::new(aws, &config.table)
            .with_audit_days(config.audit_days)
            .with_log_retention(config.log_retention_days);
        let table = match &config.credential_key {
            Some(key) => table.with_credential_key(key.clone()),
            None => table,
        };
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
        let own = config.docker.as_ref().map(|engine| {
            let mut settings = DockerConfig::new(engine.endpoint.clone(), &engine.image, &config.name);
            // The deployment's one secret that is not in the table.
            let key = config.credential_key.as_ref().map(|key| key.to_text());
            settings.port_key = key.map(|key| PortKey::derive(key.as_bytes()).into());
            settings
        });
        let docker = Docker::new(own, config.docker_ranges.clone(), &config.name);
        let credentials = Credentials::new(table.clone(), config.rate_limits);
        let e2b = E2b::new(config.e2b.clone(), &config.name);
        let fly = Fly::new(config.fly.clone(), &config.name);
        Self { config, table, keys, docker, e2b, fly, credentials, log_queue: LogQueue::default() }
    }

    /// What distinguishes it.
    pub fn config(&self) -> &DeploymentConfig {
        &self.config
    }

    /// The data table, for set-up and operation. Endpoints are handed capabilities instead.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The same deployment for what acts on a schedule, and for nobody: without the credential key, as its functions are.
    pub(crate) fn on_schedule(&self) -> Self {
        Self { table: self.table.clone().without_credential_key(), ..self.clone() }
    }

    /// What this process has still to write of log entries, for whoever ends or freezes it.
    pub fn log_queue(&self) -> &LogQueue {
        &self.log_queue
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
    /// Make a token for an agent that boots, and seal copies for it.
    AgentTokens,
    /// Open the copies that an agent's token opens.
    TokenCopies,
    /// Record what agents report of themselves.
    AgentReports,
    /// Make, list, rotate and revoke API keys.
    ApiKeys,
    /// Mint and revoke sessions' tokens.
    SessionTokens,
    /// Read and remove provider configuration.
    ProviderConfigs,
    /// Make a platform secret a provider's credential.
    ProviderCredentials,
    /// Know where hosts of platforms may be.
    HostRanges,
    /// Have answers given again.
    Replays,
    /// Read the audit trail.
    AuditLog,
    /// Write log entries.
    LogWriter,
    /// Read log entries.
    Logs,
    /// Read what was used.
    Usage,
    /// Record how long something took.
    Measurements,
    /// Read what was measured.
    Metrics,
    /// Call compute providers.
    Sandboxes,
}

impl CapabilityName {
    /// Whether whoever has it may leave something to be written when it has answered: it is handed [`LogQueue`].
    pub(crate) fn writes_afterwards(self) -> bool {
        matches!(self, Self::LogWriter | Self::Measurements | Self::Sandboxes)
    }
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
    Agents: deployment => Self::new(deployment.table.clone()).with_prices(deployment.config.prices.clone());
    SecretNames: deployment => Self::new(deployment.table.clone());
    SecretSealer: deployment => Self::new(deployment.table.clone(), deployment.keys.clone());
    SecretOpener: deployment => Self::new(deployment.table.clone(), deployment.keys.clone());
    AgentCopies: deployment => Self::new(deployment.table.clone(), deployment.keys.clone());
    AgentTokens: deployment => Self::new(
        deployment.table.clone(), &deployment.config.name, deployment.config.agent_endpoint.as_deref());
    TokenCopies: deployment => Self::new(deployment.table.clone(), &deployment.config.name);
    AgentReports: deployment => Self::new(deployment.table.clone());
    ApiKeys: deployment => Self::new(deployment.table.clone());
    SessionTokens: deployment => Self::new(deployment.table.clone());
    ProviderConfigs: deployment => Self::new(deployment.table.clone());
    ProviderCredentials: deployment => Self::new(deployment.table.clone(), deployment.keys.clone());
    HostRanges: deployment => deployment.config.docker_ranges.clone();
    Replays: deployment => Self::new(deployment.table.clone());
    AuditLog: deployment => Self::new(deployment.table.clone());
    LogWriter: deployment => Self::new(deployment.table.clone(), deployment.log_queue.clone());
    Logs: deployment => {
        let settle = deployment.config.streams.settle.as_millis();
        Self::new(deployment.table.clone()).settling(i64::try_from(settle).unwrap_or(i64::MAX))
    };
    Usage: deployment => Self::new(deployment.table.clone());
    Measurements: deployment => Self::new(deployment.table.clone(), deployment.log_queue.clone());
    Metrics: deployment => Self::new(deployment.table.clone());
    Sandboxes: deployment => Self::new(
        (deployment.docker.clone(), deployment.e2b.clone(), deployment.fly.clone()),
        ProviderAccess::new(deployment.table.clone(), deployment.keys.clone()),
        SimulatedDisks::new(deployment.table.clone()),
        LogWriter::new(deployment.table.clone(), deployment.log_queue.clone()));
}
