//! Which key service and key are meant, for the few commands that need the vault's keys.
//!
//! A local stack says it all by itself: its data folder has a file with the variables of a function that runs against
//! it. The file is believed only when it is about the very table that the command is about.

use crate::error::AdminError;
use crate::target::{Target, endpoint};
use clap::Args;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use theazo_store::{Aws, AwsEndpoints, KeyRing, KeyRingConfig, Table};
use theazo_tenancy::Operator;

/// How long functions keep keys in memory unless they are configured otherwise, seconds.
const CACHE_SECONDS: u64 = 600;
/// The file of a local stack's data folder.
const ENVIRONMENT_FILE: &str = "lambda.env";

/// Options that name the key service and the key.
#[derive(Args)]
pub(crate) struct VaultArgs {
    /// The key service's endpoint, when it is neither AWS's nor that of a local stack with its data folder at hand
    #[arg(long, global = true, value_name = "URL", value_parser = endpoint, conflicts_with = "aws")]
    kms_endpoint: Option<String>,
    /// The KMS key's ARN, as the functions have it
    #[arg(long, global = true, value_name = "ARN", env = "THEAZO_KMS_KEY_ARN")]
    kms_key: Option<String>,
    /// The deployment's name, as the functions have it
    #[arg(long, global = true, value_name = "NAME", env = "THEAZO_DEPLOYMENT")]
    deployment: Option<String>,
    /// The local stack's data folder, where the above are looked up
    #[arg(long, global = true, value_name = "FOLDER", default_value = ".theazo", conflicts_with = "aws")]
    data_dir: PathBuf,
    /// How long any function keeps keys in memory, seconds: never less than the functions are configured with, or values
    /// may be written under an old key after everything was sealed anew [default: 600, or as the local stack has it]
    #[arg(long, global = true, value_name = "N", env = "THEAZO_KEY_CACHE_SECONDS")]
    cache_seconds: Option<u64>,
}

/// A deployment's table and keys.
pub(crate) struct Vault {
    pub(crate) table: Table,
    pub(crate) keys: KeyRing,
}

impl VaultArgs {
    /// The keys; nothing is asked of the key service yet.
    pub(crate) async fn open(&self, target: &Target) -> Result<Vault, AdminError> {
        let found = self.look_up(target);
        let of_stack = |name: &str| found.get(name).cloned();
        let missing = |what| AdminError::WhichKey { what, folder: self.data_dir.clone() };
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
        let table = Table::new(&aws, target.table_name());
        let keys = KeyRing::new(&aws, table.clone(), config, &operator());
        Ok(Vault { table, keys })
    }

    /// The local stack's variables, if they are about the table that is meant.
    fn look_up(&self, target: &Target) -> HashMap<String, String> {
        if target.is_aws() {
            return HashMap::new();
        }
        let text = std::fs::read_to_string(self.data_dir.join(ENVIRONMENT_FILE)).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let found: HashMap<_, _> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let is = |name: &str, wanted: &str| {
            found.get(name).is_some_and(|value| value.trim_end_matches('/') == wanted.trim_end_matches('/'))
        };
        let is_meant =
            is("AWS_ENDPOINT_URL_DYNAMODB", target.endpoint_or_default()) && is("THEAZO_TABLE", target.table_name());
        if is_meant { found } else { HashMap::new() }
    }
}

/// The operator's part.
#[expect(clippy::disallowed_methods, reason = "this is the operator's tool; whoever reaches the table is the operator")]
pub(crate) fn operator() -> Operator {
    Operator::assume()
}
