//! Which table is meant, and how it is reached.

use clap::Args;
use std::fmt;
use theazo_store::{Aws, AwsEndpoints, Table};

/// Where the local stack's table listens unless it was told otherwise.
const LOCAL_STACK: &str = "http://127.0.0.1:9001";

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
    /// The table; nothing is asked of it yet.
    pub(crate) async fn table(&self) -> Table {
        let aws = if self.aws {
            Aws::from_env().await
        } else {
            Aws::local(&AwsEndpoints { dynamodb: self.endpoint_or_default().to_owned(), kms: None })
        };
        Table::new(&aws, &self.table)
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
