//! Providers as a platform configured them. Credentials are secrets of the vault, named here and kept there.

use crate::audit::Deed;
use crate::secrets::{CredentialAccess, ExpectCredential, ProviderShield, SecretName};
use crate::table::{from_item, number};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{AuditAction, KeyRing, StoreError, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use theazo_tenancy::{ReadScope, TenantScope};
use theazo_vault::SecretValue;

const ATTEMPTS: u32 = 30;

/// How long a provider takes no new agents while it is looked whether it has any, milliseconds: longer than a request may
/// take, so that it is over by itself when nobody has opened the provider again.
const CLOSED_MS: i64 = 60_000;
/// How much of that must be left for what was looked at to count.
const CLOSED_LEFT_MS: i64 = 20_000;

/// What a change is refused with that somebody else has made pointless.
const CHANGED: StoreError = StoreError::Conflict("the provider's configuration was changed at the same time");

/// Reading a platform's provider configuration, and removing it.
#[derive(Clone)]
pub struct ProviderConfigs(Table);

/// Configuring providers. The secret that becomes a credential is sealed anew under the label of credentials, from
/// which no agent can be given anything.
#[derive(Clone)]
pub struct ProviderCredentials {
    table: Table,
    keys: KeyRing,
}

/// Opening the credentials of configured providers, for the calls of those providers and nothing else.
#[derive(Clone)]
pub struct ProviderAccess {
    table: Table,
    keys: KeyRing,
}

/// A configured provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderConfig {
    /// The provider's name.
    pub provider: String,
    /// Canonical name of the platform secret that holds its credential.
    pub credential: String,
    /// The template that agents run in, where the platform has named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The image that agents run in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The organization at the provider that agents run in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Where agents run that ask for no region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Its turn among the platform's providers where an agent may run at any, the lowest first; those without one come last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// How many agents may run there at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Which of its hosts take no new agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<String>,
    /// What its hosts are known by that were found to keep agents from what they must not reach. Only the operator
    /// changes it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub enrolled: BTreeMap<String, String>,
    /// Unix milliseconds of the last change.
    pub updated_at_ms: i64,
    /// Until when it takes no new agents, since it may be about to be removed, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed_until_ms: Option<i64>,
}

impl ProviderConfig {
    /// Whether it will take no new agents for as long as it takes to act on that.
    fn is_closed_long_enough(&self) -> bool {
        self.closed_until_ms.is_some_and(|until| until >= crate::now_ms() + CLOSED_LEFT_MS)
    }

    /// Makes it another than it was read.
    fn touch(&mut self) {
        self.updated_at_ms = crate::now_ms().max(self.updated_at_ms + 1);
    }

    /// Whether it may be removed at this moment, and takes no new agents meanwhile.
    pub fn is_closed(&self) -> bool {
        self.closed_until_ms.is_some_and(|until| until > crate::now_ms())
    }
}

/// How a provider is to be used, each where it has such a thing and the platform has said so.
#[derive(Clone, Debug, Default)]
pub struct ProviderSettings {
    /// The template that agents run in.
    pub template: Option<String>,
    /// The image that agents run in.
    pub image: Option<String>,
    /// The organization at the provider that agents run in.
    pub organization: Option<String>,
    /// Where agents run that ask for no region.
    pub region: Option<String>,
    /// Its turn where an agent may run at any, the lowest first.
    pub priority: Option<u32>,
    /// How many agents may run there at a time.
    pub max_concurrent: Option<u32>,
    /// Which of its hosts take no new agents; without it, the same as before.
    pub draining: Option<Vec<String>>,
}

impl ProviderConfigs {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// All configured providers.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(&self, scope: &ReadScope) -> Result<Vec<ProviderConfig>, StoreError> {
        list(&self.0, scope).await
    }

    /// Has a provider's host take no new agents, or take them again. Those that are there stay.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the provider is not configured; [`StoreError::Contended`].
    pub async fn drain(
        &self,
        scope: &TenantScope,
        provider: &str,
        host: &str,
        draining: bool,
    ) -> Result<ProviderConfig, StoreError> {
        self.change(scope, provider, |config| {
            config.draining.retain(|other| other != host);
            config.draining.extend(draining.then(|| host.to_owned()));
        })
        .await
    }

    /// Has a provider's host take agents, as the one that is known by `identity`; without it, none from now on.
    ///
    /// # Errors
    /// As [`ProviderConfigs::drain`].
    pub async fn enroll(
        &self,
        scope: &TenantScope,
        provider: &str,
        host: &str,
        identity: Option<&str>,
    ) -> Result<ProviderConfig, StoreError> {
        self.change(scope, provider, |config| {
            config.enrolled.remove(host);
            config.enrolled.extend(identity.map(|identity| (host.to_owned(), identity.to_owned())));
        })
        .await
    }

    async fn change(
        &self,
        scope: &TenantScope,
        provider: &str,
        change: impl Fn(&mut ProviderConfig),
    ) -> Result<ProviderConfig, StoreError> {
        let key = scope.providers()?.row(provider);
        for attempt in 0..ATTEMPTS {
            let mut config = self.0.get::<ProviderConfig>(&key).await?.ok_or(StoreError::NotFound)?;
            let unchanged = as_read(Some(&config));
            change(&mut config);
            config.touch();
            let transaction = Transaction::default().put(&self.0, &key, &config, unchanged)?.audit(
                &self.0,
                scope,
                Deed::done(AuditAction::ProviderSet).names([provider]),
            )?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(config),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Has a provider take no new agents for a while. Who makes one looks for that between recording it and asking the
    /// provider; so whoever looks for agents from now on finds every one that may come to have something there. One that
    /// somebody else has closed just now is as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not configured; [`StoreError::Contended`].
    pub async fn close(&self, scope: &TenantScope, provider: &str) -> Result<ProviderConfig, StoreError> {
        let key = scope.providers()?.row(provider);
        for attempt in 0..ATTEMPTS {
            let configured = self.list(scope).await?;
            let mut config =
                configured.into_iter().find(|config| config.provider == provider).ok_or(StoreError::NotFound)?;
            if config.is_closed_long_enough() {
                return Ok(config);
            }
            let unchanged = as_read(Some(&config));
            config.touch();
            config.closed_until_ms = Some(crate::now_ms() + CLOSED_MS);
            match Transaction::default().put(&self.0, &key, &config, unchanged)?.commit(&self.0).await? {
                Committed::Yes => return Ok(config),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Has a provider that was closed take new agents again, unless somebody has changed it since.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn reopen(&self, scope: &TenantScope, closed: ProviderConfig) -> Result<(), StoreError> {
        let unchanged = as_read(Some(&closed));
        let key = scope.providers()?.row(&closed.provider);
        let mut open = ProviderConfig { closed_until_ms: None, ..closed };
        open.touch();
        Transaction::default().put(&self.0, &key, &open, unchanged)?.commit(&self.0).await.map(|_| ())
    }

    /// Removes the configuration of a provider that was closed, and found without agents since. Its credential stays in the
    /// vault and stays a credential.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not there any more; [`StoreError::Conflict`] when it has changed, or was closed
    /// too long ago.
    pub async fn remove(&self, scope: &TenantScope, closed: &ProviderConfig) -> Result<(), StoreError> {
        if !closed.is_closed_long_enough() {
            return Err(CHANGED);
        }
        let key = scope.providers()?.row(&closed.provider);
        let transaction = Transaction::default()
            .delete(&self.0, &key, as_read(Some(closed)))
            .delete(&self.0, &scope.provider_work_key(&closed.provider), Expression::default())
            .audit(&self.0, scope, Deed::done(AuditAction::ProviderDelete).names([closed.provider.as_str()]))?;
        match transaction.commit(&self.0).await? {
            Committed::Yes => Ok(()),
            Committed::Refused { row: Some(_), .. } => Err(CHANGED),
            Committed::Refused { row: None, .. } => Err(StoreError::NotFound),
        }
    }
}

/// That a configuration is still as it was read.
fn as_read(config: Option<&ProviderConfig>) -> Expression {
    match config {
        Some(config) => Expression::new("updated_at_ms = :read").value(":read", number(config.updated_at_ms)),
        None => Expression::new("attribute_not_exists(pk)"),
    }
}

/// What the work list says of a provider beside its key.
#[derive(Serialize)]
struct Noted {
    provider: String,
}

impl ProviderAccess {
    /// Over that table, with those keys.
    pub fn new(table: Table, keys: KeyRing) -> Self {
        Self { table, keys }
    }

    /// The providers that a tenant has configured, without their credentials.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(&self, scope: &ReadScope) -> Result<Vec<ProviderConfig>, StoreError> {
        list(&self.table, scope).await
    }

    /// Whether a tenant has configured a provider.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn is_configured(&self, scope: &TenantScope, provider: &str) -> Result<bool, StoreError> {
        Ok(self.table.get_raw(&scope.providers()?.row(provider)).await?.is_some())
    }

    /// A configured provider with its credential, if it is configured.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when what is named is no credential, or not there; [`StoreError::Kms`];
    /// [`StoreError::Vault`] when the record does not belong where it lies.
    pub async fn open(
        &self,
        scope: &TenantScope,
        provider: &str,
    ) -> Result<Option<(ProviderConfig, SecretValue)>, StoreError> {
        let config = self.table.get::<ProviderConfig>(&scope.providers()?.row(provider)).await?;
        let Some(config) = config else { return Ok(None) };
        let access = CredentialAccess { table: &self.table, keys: &self.keys };
        let credential = access.open(scope, &config.credential).await?;
        Ok(Some((config, credential)))
    }
}

pub(crate) async fn list(table: &Table, scope: &ReadScope) -> Result<Vec<ProviderConfig>, StoreError> {
    table.query_all(&scope.providers()?).await?.into_iter().map(from_item).collect()
}

impl ProviderCredentials {
    /// Over that table, with those keys.
    pub fn new(table: Table, keys: KeyRing) -> Self {
        Self { table, keys }
    }

    /// Configures a provider with the credential in a platform secret. From that moment on, no agent boots with it.
    ///
    /// # Errors
    /// [`StoreError::UnknownSecret`] when the platform has no such secret; [`StoreError::Contended`].
    pub async fn configure(
        &self,
        scope: &TenantScope,
        provider: &str,
        credential: &SecretName,
    ) -> Result<ProviderConfig, StoreError> {
        self.configure_with(scope, provider, credential, ProviderSettings::default(), None, None).await
    }

    /// The same, with how it is to be used, and what the secret must be for that. Another organization takes the place of one
    /// only that was closed, and found without agents since.
    ///
    /// # Errors
    /// As [`ProviderCredentials::configure`]; [`StoreError::UnusableCredential`] when it is not what it must be;
    /// [`StoreError::Conflict`] when the organization is another than that of a provider that was not closed, or has changed
    /// since.
    pub async fn configure_with(
        &self,
        scope: &TenantScope,
        provider: &str,
        credential: &SecretName,
        settings: ProviderSettings,
        expect: Option<&ExpectCredential>,
        closed: Option<&ProviderConfig>,
    ) -> Result<ProviderConfig, StoreError> {
        let ProviderSettings { template, image, organization, region, priority, max_concurrent, draining } = settings;
        let mut config = ProviderConfig {
            provider: provider.to_owned(),
            credential: credential.canonical().to_owned(),
            template,
            image,
            organization,
            region,
            priority,
            max_concurrent,
            draining: draining.clone().unwrap_or_default(),
            enrolled: BTreeMap::new(),
            updated_at_ms: crate::now_ms(),
            closed_until_ms: None,
        };
        let shield = ProviderShield { table: &self.table, keys: &self.keys, expect };
        for attempt in 0..ATTEMPTS {
            // What others say of the hosts stays, also when they say it at this moment.
            let (configured, shielding) = tokio::try_join!(list(&self.table, scope), shield.shield(scope, credential))?;
            let before = configured.into_iter().find(|config| config.provider == provider);
            let unchanged = as_read(before.as_ref());
            if let Some(before) = before {
                let is_closed = closed.is_some_and(|closed| {
                    closed.updated_at_ms == before.updated_at_ms && closed.is_closed_long_enough()
                });
                if before.organization.is_some() && before.organization != config.organization && !is_closed {
                    return Err(CHANGED);
                }
                config.updated_at_ms = crate::now_ms().max(before.updated_at_ms + 1);
                config.enrolled = before.enrolled;
                if draining.is_none() {
                    config.draining = before.draining;
                }
            }
            let transaction = shielding.put(&self.table, &scope.providers()?.row(provider), &config, unchanged)?;
            let note = Noted { provider: provider.to_owned() };
            let transaction =
                transaction.put(&self.table, &scope.provider_work_key(provider), &note, Expression::default())?;
            let names = [provider, credential.canonical()];
            let transaction =
                transaction.audit(&self.table, scope, Deed::done(AuditAction::ProviderSet).names(names))?;
            match transaction.commit(&self.table).await? {
                Committed::Yes => return Ok(config),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }
}
