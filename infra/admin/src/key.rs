//! API keys of platforms.

use crate::error::AdminError;
use crate::output::{Output, Show};
use crate::{platform, text};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use theazo_store::{StoreError, Table};
use theazo_tenancy::{Mode, PlatformId};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes another key of a platform, which is shown this once.
    Create {
        /// The platform's id
        #[arg(value_parser = platform_id)]
        platform: PlatformId,
        /// Live keys run real sandboxes, test keys simulated ones; neither sees the other's data
        #[arg(long)]
        environment: Environment,
        /// Its name, for people: 1 to 128 bytes
        #[arg(long, value_parser = text::name, default_value = "made by the operator")]
        name: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Environment {
    Live,
    Test,
}

impl From<Environment> for Mode {
    fn from(environment: Environment) -> Self {
        match environment {
            Environment::Live => Self::Live,
            Environment::Test => Self::Test,
        }
    }
}

/// What `create` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    id: &'a str,
    platform_id: &'a str,
    environment: &'a str,
    name: &'a str,
    key: &'a str,
}

pub(crate) fn platform_id(text: &str) -> Result<PlatformId, &'static str> {
    PlatformId::parse(text).map_err(|_| "must be a platform's id: plt_ and 26 characters")
}

pub(crate) async fn run(verb: &Verb, table: Table, output: &Output) -> Result<(), AdminError> {
    let platforms = platform::platforms(table);
    match verb {
        Verb::Create { platform, environment, name } => {
            let mode = Mode::from(*environment);
            let (id, key) = platforms.create_key(platform, mode, name).await.map_err(|error| match error {
                StoreError::NotFound => AdminError::UnknownPlatform(platform.clone()),
                other => other.into(),
            })?;
            output.show(&Created {
                id: id.as_str(),
                platform_id: platform.as_str(),
                environment: mode.as_str(),
                name,
                key: &key.text,
            })?;
        }
    }
    Ok(())
}

impl Show for Created<'_> {
    const HEADER: &'static [&'static str] = &["ID", "ENVIRONMENT", "NAME", "KEY"];

    fn rows(&self) -> Vec<Vec<&str>> {
        vec![vec![self.id, self.environment, self.name, self.key]]
    }

    fn note(&self) -> Option<&'static str> {
        Some("The key is shown this once and kept nowhere: store it now.")
    }
}
