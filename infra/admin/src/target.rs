//! Which table is meant, and how it is reached.

use crate::error::AdminError;
use clap::Args;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use theazo_store::{Aws, AwsEndpoints, DEFAULT_AUDIT_DAYS, LOG_RETENTION_DAYS, Table};
use theazo_tenancy::CredentialKey;
use zeroize::Zeroizing;

/// Where the local stack's table listens unless it was told otherwise.
const LOCAL_STACK: &str = "http://127.0.0.1:9001";
/// The file of a local stack's data folder with the variables of a function that runs against it. It is believed only when
/// it is about the very table that the command is about.
const ENVIRONMENT_FILE: &str = "lambda.env";
/// The variable with the key that credentials are sealed with.
const CREDENTIAL_KEY: &str = "THEAZO_CREDENTIAL_KEY";

/// The variable with the ledger's name.
pub(crate) const LEDGER: &str = "THEAZO_LEDGER";

/// Options that name the deployment's table.
#[derive(Args)]
pub(crate) struct Target {
    /// Another DynamoDB-compatible endpoint than the local stack's, for example http://127.0.0.1:9001
    #[arg(long, global = true, value_name = "URL", value_parser = endpoint, conflicts_with = "aws")]
    endpoint: Option<String>,
    /// AWS itself; region and credentials as the usual AWS variables and files say
    #[arg(long, global = true)]
    aws: bool,
    /// The table's name
    #[arg(long, global = true, value_name = "NAME", default_value = "theazo")]
    table: String,
    /// The ledger's table, as the functions have it, when it is not the table's name and `-ledger`
    #[arg(long, global = true, value_name = "NAME", env = LEDGER)]
    ledger: Option<String>,
    /// The local stack's data folder, where its keys are looked up
    #[arg(long, global = true, value_name = "FOLDER", default_value = ".theazo", conflicts_with = "aws")]
    data_dir: PathBuf,
    /// How many days the audit entry of what this command does is kept, as the functions have it
    #[arg(long, global = true, value_name = "N", env = "THEAZO_AUDIT_RETENTION_DAYS", default_value_t = DEFAULT_AUDIT_DAYS,
          value_parser = clap::value_parser!(u32).range(1..=3653))]
    audit_days: u32,
    /// How many days a log entry of what this command does is kept, as the functions have it
    #[arg(long, global = true, value_name = "N", env = "THEAZO_LOG_RETENTION_DAYS", default_value_t = LOG_RETENTION_DAYS,
          value_parser = clap::value_parser!(u32).range(1..=3653))]
    log_days: u32,
}

/// Only plain HTTP: what is not AWS itself is a stack on this machine or beside it.
pub(crate) fn endpoint(text: &str) -> Result<String, &'static str> {
    let host = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    match host {
        Some(host) if !host.is_empty() && !host.contains(|letter: char| "/?#@".contains(letter) || letter <= ' ') => {
            Ok(text.to_owned())
        }
        _ => Err("must look like http://host:port"),
    }
}

impl Target {
    /// The table; nothing is asked of it yet. Credentials can be made in it if their key is at hand.
    pub(crate) async fn table(&self) -> Result<Table, AdminError> {
        let aws = if self.aws {
            Aws::from_env().await
        } else {
            Aws::local(&AwsEndpoints { dynamodb: self.endpoint_or_default().to_owned(), kms: None })
        };
        let table = self.table_of(&aws);
        Ok(match self.credential_key()? {
            Some(key) => table.with_credential_key(Arc::new(key)),
            None => table,
        })
    }

    /// The key that the deployment's credentials are sealed with. It is no option: arguments of a process are for everyone
    /// on the machine to see.
    fn credential_key(&self) -> Result<Option<CredentialKey>, AdminError> {
        let given = std::env::var(CREDENTIAL_KEY).ok().or_else(|| self.of_stack().remove(CREDENTIAL_KEY));
        let Some(text) = given.map(Zeroizing::new) else { return Ok(None) };
        CredentialKey::parse(&text).map(Some).ok_or(AdminError::NotACredentialKey)
    }

    /// The local stack's variables, if they are about the table that is meant.
    pub(crate) fn of_stack(&self) -> HashMap<String, String> {
        if self.aws {
            return HashMap::new();
        }
        let text = std::fs::read_to_string(self.data_dir.join(ENVIRONMENT_FILE)).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let found: HashMap<_, _> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let is = |name: &str, wanted: &str| {
            found.get(name).is_some_and(|value| value.trim_end_matches('/') == wanted.trim_end_matches('/'))
        };
        let is_meant = is("AWS_ENDPOINT_URL_DYNAMODB", self.endpoint_or_default()) && is("THEAZO_TABLE", &self.table);
        if is_meant { found } else { HashMap::new() }
    }

    /// Where a local stack's data are.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The table as those clients reach it, without the key of its credentials.
    pub(crate) fn table_of(&self, aws: &Aws) -> Table {
        let table = Table::new(aws, &self.table).with_audit_days(self.audit_days).with_log_retention(self.log_days);
        match self.ledger() {
            Some(ledger) => table.with_ledger(ledger),
            None => table,
        }
    }

    /// The ledger's name, where it is said or the local stack says it.
    pub(crate) fn ledger(&self) -> Option<String> {
        self.ledger.clone().or_else(|| self.of_stack().remove(LEDGER))
    }

    /// Whether AWS itself is meant.
    pub(crate) fn is_aws(&self) -> bool {
        self.aws
    }

    /// The table's name.
    pub(crate) fn table_name(&self) -> &str {
        &self.table
    }

    /// The table's endpoint, when it is not AWS's.
    pub(crate) fn endpoint_or_default(&self) -> &str {
        self.endpoint.as_deref().unwrap_or(LOCAL_STACK)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.aws { "AWS" } else { self.endpoint_or_default() })
    }
}
