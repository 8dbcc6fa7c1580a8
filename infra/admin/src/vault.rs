//! Which key service and key are meant, for the few commands that need the vault's keys.
//!
//! A local stack says it all by itself, in its data folder.

use crate::error::AdminError;
use crate::target::{LEDGER, Target, endpoint};
use clap::Args;
use std::time::Duration;
use theazo_functions::deployment::{Deployment, DeploymentConfig, OF_PROVIDERS};
use theazo_store::{Aws, AwsEndpoints, KeyRing, KeyRingConfig, Table, is_kms_key_arn};
use theazo_tenancy::Operator;

/// How long functions keep keys in memory unless they are configured otherwise, seconds.
const CACHE_SECONDS: u64 = 600;

/// Options that name the key service and the key.
#[derive(Args)]
pub(crate) struct VaultArgs {
    /// The key service's endpoint, when it is neither AWS's nor that of a local stack with its data folder at hand
    #[arg(long, global = true, value_name = "URL", value_parser = endpoint, conflicts_with = "aws")]
    kms_endpoint: Option<String>,
    /// The KMS key's ARN, as the functions have it
    #[arg(long, global = true, value_name = "ARN", env = "THEAZO_KMS_KEY_ARN", value_parser = key_arn)]
    kms_key: Option<String>,
    /// The deployment's name, as the functions have it
    #[arg(long, global = true, value_name = "NAME", env = "THEAZO_DEPLOYMENT")]
    deployment: Option<String>,
    /// How long any function keeps keys in memory, seconds: never less than the functions are configured with, or values
    /// may be written under an old key after everything was sealed anew [default: 600, or as the local stack has it]
    #[arg(long, global = true, value_name = "N", env = "THEAZO_KEY_CACHE_SECONDS")]
    cache_seconds: Option<u64>,
}

/// Never an alias, which could be pointed elsewhere.
fn key_arn(text: &str) -> Result<String, &'static str> {
    if is_kms_key_arn(text) { Ok(text.to_owned()) } else { Err("must look like arn:aws:kms:REGION:ACCOUNT:key/ID") }
}

/// A deployment's table and keys.
pub(crate) struct Vault {
    pub(crate) table: Table,
    pub(crate) keys: KeyRing,
}

impl VaultArgs {
    /// The keys; nothing is asked of the key service yet.
    pub(crate) async fn open(&self, target: &Target) -> Result<Vault, AdminError> {
        let found = target.of_stack();
        let of_stack = |name: &str| found.get(name).cloned();
        let missing = |what| AdminError::WhichKey { what, folder: target.data_dir().to_owned() };
        let deployment = self.deployment.clone().or_else(|| of_stack("THEAZO_DEPLOYMENT"));
        let kms_key_arn = self.kms_key.clone().or_else(|| of_stack("THEAZO_KMS_KEY_ARN"));
        let cache = self.cache_seconds.or_else(|| of_stack("THEAZO_KEY_CACHE_SECONDS")?.parse().ok());
        let aws = if target.is_aws() {
            Aws::from_env().await
        } else {
            let kms = self.kms_endpoint.clone().or_else(|| of_stack("AWS_ENDPOINT_URL_KMS"));
            let kms = Some(kms.ok_or(missing("--kms-endpoint"))?);
            Aws::local(&AwsEndpoints { dynamodb: target.endpoint_or_default().to_owned(), kms })
        };
        let config = KeyRingConfig {
            deployment: deployment.ok_or(missing("--deployment"))?,
            kms_key_arn: kms_key_arn.ok_or(missing("--kms-key"))?,
            cache_ttl: Duration::from_secs(cache.unwrap_or(CACHE_SECONDS)),
        };
        let table = target.table_of(&aws);
        let keys = KeyRing::new(&aws, table.clone(), config, &operator());
        Ok(Vault { table, keys })
    }
}

impl VaultArgs {
    /// The whole deployment, as its functions have it: what is not said here or in the environment is as the local
    /// stack has it, or as it usually is. Where the providers of one on AWS are must be said, if only that it is where
    /// it usually is.
    pub(crate) async fn deployment(&self, target: &Target) -> Result<Deployment, AdminError> {
        let is_said = |name: &&str| std::env::var_os(name).is_some();
        if target.is_aws()
            && let Some(name) = OF_PROVIDERS.iter().find(|name| !is_said(name))
        {
            return Err(AdminError::Unsaid(name));
        }
        let found = target.of_stack();
        let given = |name: &str| match name {
            "THEAZO_TABLE" => Some(target.table_name().to_owned()),
            LEDGER => target.ledger(),
            "THEAZO_DEPLOYMENT" => self.deployment.clone(),
            "THEAZO_KMS_KEY_ARN" => self.kms_key.clone(),
            "THEAZO_KEY_CACHE_SECONDS" => self.cache_seconds.map(|seconds| seconds.to_string()),
            _ => std::env::var(name).ok().filter(|value| !value.is_empty()),
        };
        let config = DeploymentConfig::read(&|name| given(name).or_else(|| found.get(name).cloned()))?;
        let aws = if target.is_aws() {
            Aws::from_env().await
        } else {
            let kms = self.kms_endpoint.clone().or_else(|| found.get("AWS_ENDPOINT_URL_KMS").cloned());
            Aws::local(&AwsEndpoints { dynamodb: target.endpoint_or_default().to_owned(), kms })
        };
        Ok(Deployment::new(&aws, config))
    }
}

/// The operator's part.
#[expect(clippy::disallowed_methods, reason = "this is the operator's tool; whoever reaches the table is the operator")]
pub(crate) fn operator() -> Operator {
    Operator::assume()
}
