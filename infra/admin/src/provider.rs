//! What platforms have configured at compute providers.

use crate::error::AdminError;
use crate::key::{self, Environment};
use crate::output::{Output, Show, note};
use crate::target::Target;
use crate::vault::{VaultArgs, operator};
use clap::{Args, Subcommand};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use std::time::Duration;
use theazo_functions::agents::Sandboxes;
use theazo_functions::deployment::{Capability, Deployment};
use theazo_functions::providers::remove_unused;
use theazo_providers::{Health, ProviderKind};
use theazo_store::{Agents, ProviderConfigs, StoreError, Work};
use theazo_tenancy::{Mode, PlatformId, TenantScope};

/// Accounts asked side by side.
const AT_ONCE: usize = 16;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct Provider {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Lists the deployment's own providers and what platforms have configured, and asks each whether it answers.
    List {
        /// Only this platform's
        #[arg(value_parser = key::platform_id)]
        platform: Option<PlatformId>,
    },
    /// Removes a platform's configuration of a provider, as the platform itself can: when no agent has anything there.
    ///
    /// The credential stays in the platform's vault, out of agents' reach.
    Remove {
        /// The platform's id
        #[arg(value_parser = key::platform_id)]
        platform: PlatformId,
        /// The provider's name
        #[arg(value_parser = provider_kind)]
        provider: ProviderKind,
        /// Which of its two configurations
        #[arg(long, default_value = "live")]
        environment: Environment,
        /// That it is meant
        #[arg(long)]
        yes: bool,
    },
}

fn provider_kind(name: &str) -> Result<ProviderKind, String> {
    ProviderKind::parse(name).ok_or_else(|| "there is no provider of that name".to_owned())
}

/// What `list` answers.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Listed(pub(crate) Vec<Line>);

/// An account, and whether it answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    /// Whose it is; the deployment's own has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'static str>,
    provider: String,
    pub(crate) healthy: bool,
    pub(crate) message: String,
}

/// What `remove` answers.
#[derive(Serialize)]
struct Removed {
    platform: String,
    provider: &'static str,
    status: &'static str,
}

impl Provider {
    pub(crate) async fn run(&self, target: &Target, output: &Output) -> Result<(), AdminError> {
        let deployment = self.vault.deployment(target).await?;
        match &self.verb {
            Verb::List { platform } => output.show(&list(&deployment, platform.as_ref()).await?)?,
            Verb::Remove { platform, provider, yes: false, .. } => {
                return Err(AdminError::Unconfirmed(format!("removes {} from {platform}", provider.as_str())));
            }
            Verb::Remove { platform, provider, environment, yes: true } => {
                let scope = operator().tenant(platform, (*environment).into());
                output.show(&remove(&deployment, &scope, *provider).await?)?;
            }
        }
        Ok(())
    }
}

impl Line {
    /// Which account it is, in a few words.
    pub(crate) fn named(&self) -> String {
        match (&self.platform, self.environment) {
            (Some(platform), Some(environment)) => format!("provider {} of {platform}, {environment}", self.provider),
            _ => format!("provider {}", self.provider),
        }
    }
}

/// Asks the deployment's own providers, and the accounts that platforms have configured, or one has.
pub(crate) async fn list(deployment: &Deployment, only: Option<&PlatformId>) -> Result<Listed, AdminError> {
    let sandboxes = Sandboxes::of(deployment);
    let mut lines = Vec::new();
    if let Some(provider) = sandboxes.own().filter(|_| only.is_none()) {
        let name = provider.kind().as_str().to_owned();
        let Health { healthy, message } = in_time(provider.health()).await;
        lines.push(Line { platform: None, environment: None, provider: name, healthy, message });
    }
    let configured = Work::new(deployment.table().clone(), operator()).providers().await?.into_iter();
    let wanted: Vec<_> = configured.filter(|(platform, ..)| only.is_none_or(|only| only == platform)).collect();
    if wanted.len() > AT_ONCE {
        note(&format!("Asking {} accounts.", wanted.len()));
    }
    let asked = stream::iter(wanted).map(|(platform, mode, name)| ask(&sandboxes, platform, mode, name));
    lines.extend(asked.buffered(AT_ONCE).collect::<Vec<_>>().await);
    Ok(Listed(lines))
}

async fn in_time(health: impl Future<Output = Health>) -> Health {
    let late = || Health { healthy: false, message: "no answer".into() };
    tokio::time::timeout(PATIENCE, health).await.unwrap_or_else(|_| late())
}

/// Whether an account can be used. What is wrong with it is told in our own words.
async fn ask(sandboxes: &Sandboxes, platform: PlatformId, mode: Mode, name: String) -> Line {
    let scope = operator().tenant(&platform, mode);
    let health = async {
        match sandboxes.health(&scope, &name).await {
            Ok(health) => health,
            Err(error) => {
                let message = format!("it cannot be used: {}", error.code().as_str());
                Health { healthy: false, message }
            }
        }
    };
    let health = in_time(health).await;
    Line {
        platform: Some(platform.to_string()),
        environment: Some(mode.as_str()),
        provider: name,
        healthy: health.healthy,
        message: health.message,
    }
}

async fn remove(deployment: &Deployment, scope: &TenantScope, kind: ProviderKind) -> Result<Removed, AdminError> {
    let provider = kind.as_str();
    let (configs, agents) = (ProviderConfigs::of(deployment), Agents::of(deployment));
    let there = remove_unused(kind, scope, &configs, &agents).await.map_err(|error| match error {
        StoreError::NotFound => AdminError::NotConfigured { platform: scope.platform().clone(), provider },
        other => other.into(),
    })?;
    if there > 0 {
        return Err(AdminError::ProviderInUse(there));
    }
    Ok(Removed { platform: scope.platform().to_string(), provider, status: "removed" })
}

impl Show for Listed {
    const HEADER: &'static [&'static str] = &["PLATFORM", "ENVIRONMENT", "PROVIDER", "STATUS", "MESSAGE"];

    fn rows(&self) -> Vec<Vec<&str>> {
        self.0
            .iter()
            .map(|line| {
                vec![
                    line.platform.as_deref().unwrap_or("(deployment)"),
                    line.environment.unwrap_or("-"),
                    &line.provider,
                    if line.healthy { "healthy" } else { "unhealthy" },
                    &line.message,
                ]
            })
            .collect()
    }
}

impl Show for Removed {
    const HEADER: &'static [&'static str] = &["PLATFORM", "PROVIDER", "STATUS"];

    fn rows(&self) -> Vec<Vec<&str>> {
        vec![vec![&self.platform, self.provider, self.status]]
    }
}
