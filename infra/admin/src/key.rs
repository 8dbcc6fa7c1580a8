//! API keys of platforms.

use crate::error::AdminError;
use crate::output::{Output, Show};
use crate::vault::operator;
use crate::{pages, platform, text};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use theazo_http::format_time;
use theazo_store::{ApiKey, ApiKeys, StoreError, Table};
use theazo_tenancy::{KeyId, Mode, PlatformId};

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
    /// Lists a platform's keys that are good, live and test, newest first; never a key itself.
    List {
        /// The platform's id
        #[arg(value_parser = platform_id)]
        platform: PlatformId,
    },
    /// Revokes a key of a platform, at once and everywhere.
    Revoke {
        /// The platform's id
        #[arg(value_parser = platform_id)]
        platform: PlatformId,
        /// The key's id, as the list shows it
        #[arg(value_parser = key_id)]
        key: KeyId,
        /// Even the platform's last live key, by which it locks itself out
        #[arg(long)]
        force: bool,
        /// That it is meant
        #[arg(long)]
        yes: bool,
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

/// What `list` answers.
#[derive(Serialize)]
#[serde(transparent)]
struct Listed(Vec<Line>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    id: String,
    environment: String,
    name: String,
    /// The key's first characters, by which its owner knows it.
    prefix: String,
    created_at: String,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

/// What `revoke` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Revoked<'a> {
    id: &'a str,
    platform_id: &'a str,
    status: &'static str,
}

fn key_id(text: &str) -> Result<KeyId, &'static str> {
    KeyId::parse(text).map_err(|_| "must be a key's id: key_ and 26 characters")
}

pub(crate) fn platform_id(text: &str) -> Result<PlatformId, &'static str> {
    PlatformId::parse(text).map_err(|_| "must be a platform's id: plt_ and 26 characters")
}

pub(crate) async fn run(verb: &Verb, table: Table, output: &Output) -> Result<(), AdminError> {
    match verb {
        Verb::Create { platform, environment, name } => {
            let mode = Mode::from(*environment);
            let platforms = platform::platforms(table);
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
        Verb::List { platform } => output.show(&list(table, platform).await?)?,
        Verb::Revoke { platform, key, yes: false, .. } => {
            return Err(AdminError::Unconfirmed(format!("revokes {key} of {platform} for good")));
        }
        Verb::Revoke { platform, key, force, yes: true } => {
            // Whoever acts in live manages a platform's test keys as well.
            let scope = operator().tenant(platform, Mode::Live);
            ApiKeys::new(table).revoke(&scope, key, *force).await.map_err(|error| match error {
                StoreError::NotFound => AdminError::UnknownKey { platform: platform.clone(), key: key.clone() },
                StoreError::Conflict(_) => AdminError::LastKey(key.clone()),
                other => other.into(),
            })?;
            output.show(&Revoked { id: key.as_str(), platform_id: platform.as_str(), status: "revoked" })?;
        }
    }
    Ok(())
}

async fn list(table: Table, platform: &PlatformId) -> Result<Listed, AdminError> {
    let (keys, scope) = (ApiKeys::new(table), operator().tenant(platform, Mode::Live));
    let keys = pages::all(async |request| keys.list(&scope, request).await).await?;
    Ok(Listed(keys.into_iter().map(Line::from).collect()))
}

impl From<ApiKey> for Line {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            environment: key.mode,
            name: key.name,
            prefix: key.prefix,
            created_at: format_time(key.created_at_ms),
            expires_at: key.expires_at_ms.map(format_time),
        }
    }
}

impl Show for Listed {
    const HEADER: &'static [&'static str] = &["ID", "ENVIRONMENT", "BEGINS WITH", "CREATED", "EXPIRES", "NAME"];

    fn rows(&self) -> Vec<Vec<&str>> {
        self.0
            .iter()
            .map(|line| {
                let ends = line.expires_at.as_deref().unwrap_or("-");
                vec![&*line.id, &*line.environment, &*line.prefix, &*line.created_at, ends, &*line.name]
            })
            .collect()
    }

    fn note(&self) -> Option<&'static str> {
        let none =
            "No key of it is good, or there is no such platform: `cargo admin platform list` shows which there are.";
        self.0.is_empty().then_some(none)
    }
}

impl Show for Revoked<'_> {
    const HEADER: &'static [&'static str] = &["ID", "PLATFORM", "STATUS"];

    fn rows(&self) -> Vec<Vec<&str>> {
        vec![vec![self.id, self.platform_id, self.status]]
    }
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
