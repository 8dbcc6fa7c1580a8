//! The compute providers that callers can reach: live ones those of the deployment and those that their platform has
//! configured, test ones the simulated provider. What a caller asks for does not change which of the two worlds it is in;
//! the mode of its credential does.

use super::docker_hosts::{Docker, not_among_the_hosts};
use super::simulated::TenantDisk;
use std::sync::{Arc, OnceLock};
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::e2b::{E2bEndpoints, E2bProvider, E2bService};
use theazo_providers::fly::{FlyEndpoints, FlyProvider, FlyService, FlySettings};
use theazo_providers::simulated::SimulatedProvider;
use theazo_providers::{Health, Provider, ProviderKind};
use theazo_store::{Agent, LogWriter, NewLog, ProviderAccess, SimulatedDisks};
use theazo_tenancy::{Mode, TenantScope};

/// Calling compute providers, and telling what they refuse.
#[derive(Clone)]
pub struct Sandboxes {
    docker: Docker,
    e2b: E2b,
    fly: Fly,
    access: ProviderAccess,
    simulated: SimulatedDisks,
    log: LogWriter,
}

/// E2B for one deployment. The client is made when the first agent needs it: most functions never do.
#[derive(Clone)]
pub struct E2b {
    endpoints: E2bEndpoints,
    deployment: String,
    service: Arc<OnceLock<Arc<E2bService>>>,
}

impl E2b {
    /// E2B at that place, for a deployment of that name.
    pub fn new(endpoints: E2bEndpoints, deployment: &str) -> Self {
        Self { endpoints, deployment: deployment.to_owned(), service: Arc::default() }
    }

    fn service(&self) -> Result<Arc<E2bService>, ApiError> {
        if let Some(service) = self.service.get() {
            return Ok(service.clone());
        }
        let service = E2bService::new(self.endpoints.clone(), &self.deployment).map_err(|error| {
            tracing::error!(%error, "no client for E2B can be made");
            ApiError::internal()
        })?;
        Ok(self.service.get_or_init(|| Arc::new(service)).clone())
    }
}

/// Fly for one deployment. The client is made when the first agent needs it.
#[derive(Clone)]
pub struct Fly {
    endpoints: FlyEndpoints,
    deployment: String,
    service: Arc<OnceLock<Arc<FlyService>>>,
}

impl Fly {
    /// Fly at that place, for a deployment of that name.
    pub fn new(endpoints: FlyEndpoints, deployment: &str) -> Self {
        Self { endpoints, deployment: deployment.to_owned(), service: Arc::default() }
    }

    fn service(&self) -> Result<Arc<FlyService>, ApiError> {
        if let Some(service) = self.service.get() {
            return Ok(service.clone());
        }
        let service = FlyService::new(self.endpoints.clone(), &self.deployment).map_err(|error| {
            tracing::error!(%error, "no client for Fly can be made");
            ApiError::internal()
        })?;
        Ok(self.service.get_or_init(|| Arc::new(service)).clone())
    }
}

/// No such provider is configured.
pub(super) fn not_configured(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NoProvidersAvailable, format!("no {name} provider is configured")).detail("provider", name)
}

impl Sandboxes {
    /// Those providers, and a simulated one on these disks for every tenant.
    pub fn new(
        (docker, e2b, fly): (Docker, E2b, Fly),
        access: ProviderAccess,
        simulated: SimulatedDisks,
        log: LogWriter,
    ) -> Self {
        Self { docker, e2b, fly, access, simulated, log }
    }

    /// Has the log say what a provider did to an agent where no change says it. Nobody waits for that.
    pub(super) fn note(&self, scope: &TenantScope, entry: NewLog) {
        self.log.later_as_change(scope, entry);
    }

    /// The provider of that name, for a tenant. In test mode every name is the simulated one's; of Docker it is the
    /// deployment's own engine.
    ///
    /// # Errors
    /// `no_providers_available` when neither the deployment nor the platform has one of that name; as
    /// [`ProviderAccess::open`].
    pub async fn provider(&self, scope: &TenantScope, name: &str) -> Result<Arc<dyn Provider>, ApiError> {
        match (scope.mode(), ProviderKind::parse(name)) {
            (Mode::Test, _) => Ok(self.simulated(scope)),
            (Mode::Live, Some(ProviderKind::Docker)) => self.docker.own.clone().ok_or_else(|| not_configured(name)),
            (Mode::Live, Some(ProviderKind::E2b)) => {
                let configured = self.access.open(scope, name).await?;
                let (config, credential) = configured.ok_or_else(|| not_configured(name))?;
                let provider = E2bProvider::new(self.e2b.service()?, &credential, config.template.as_deref());
                let provider = provider.map_err(|error| super::failure::to_api(name, &error))?;
                Ok(Arc::new(provider))
            }
            (Mode::Live, Some(ProviderKind::Fly)) => {
                let configured = self.access.open(scope, name).await?;
                let (config, credential) = configured.ok_or_else(|| not_configured(name))?;
                // Configurations of earlier versions only shield the credential.
                let (Some(organization), Some(image)) = (config.organization, config.image) else {
                    return Err(not_configured(name));
                };
                let settings = FlySettings { organization, image, region: config.region };
                let provider = FlyProvider::new(self.fly.service()?, &credential, settings);
                Ok(Arc::new(provider.map_err(|error| super::failure::to_api(name, &error))?))
            }
            (Mode::Live, _) => Err(not_configured(name)),
        }
    }

    /// The provider that an agent is at: of several hosts of its platform, the one that it is on.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`]; `provider_error` when its host is none of the platform's any more.
    pub async fn of_agent(&self, scope: &TenantScope, agent: &Agent) -> Result<Arc<dyn Provider>, ApiError> {
        match (scope.mode(), agent.host.as_deref()) {
            (Mode::Live, Some(host)) => {
                self.on_host(scope, &agent.provider, host).await?.ok_or_else(not_among_the_hosts)
            }
            _ => self.provider(scope, &agent.provider).await,
        }
    }

    /// The same for an agent that is to be removed. Nothing of one whose host the platform has taken out of its credential:
    /// what is still there is removed as an orphan, should the host ever come back.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    pub(super) async fn removing(
        &self,
        scope: &TenantScope,
        agent: &Agent,
    ) -> Result<Option<Arc<dyn Provider>>, ApiError> {
        match (scope.mode(), agent.host.as_deref()) {
            (Mode::Live, Some(host)) => self.on_host(scope, &agent.provider, host).await,
            _ => self.provider(scope, &agent.provider).await.map(Some),
        }
    }

    async fn on_host(
        &self,
        scope: &TenantScope,
        name: &str,
        host: &str,
    ) -> Result<Option<Arc<dyn Provider>>, ApiError> {
        let hosts = self.docker.hosts(scope, &self.access).await?;
        let (_, hosts) = hosts.ok_or_else(|| not_configured(name))?;
        Ok(hosts.on(host))
    }

    /// Which host a new agent goes to, where the platform has hosts of its own at that provider. They come before an engine
    /// of the deployment's.
    ///
    /// # Errors
    /// `no_providers_available` when there is no provider of that name, or no host with room; as [`Sandboxes::provider`].
    pub async fn place(&self, scope: &TenantScope, kind: ProviderKind) -> Result<Option<String>, ApiError> {
        if (scope.mode(), kind) == (Mode::Live, ProviderKind::Docker)
            && let Some((config, hosts)) = self.docker.hosts(scope, &self.access).await?
        {
            let host = hosts.place(&config.draining).await;
            return host.map(Some).map_err(|error| super::failure::to_api(kind.as_str(), &error));
        }
        self.provider(scope, kind.as_str()).await.map(|_| None)
    }

    /// Whether what a tenant has configured answers.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    pub async fn health(&self, scope: &TenantScope, name: &str) -> Result<Health, ApiError> {
        if ProviderKind::parse(name) == Some(ProviderKind::Docker) {
            let hosts = self.docker.hosts(scope, &self.access).await?;
            let (config, hosts) = hosts.ok_or_else(|| not_configured(name))?;
            return Ok(hosts.health(&config.draining).await);
        }
        Ok(self.provider(scope, name).await?.health().await)
    }

    /// What a tenant has configured, host by host where there are several.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    pub async fn accounts(
        &self,
        scope: &TenantScope,
        name: &str,
    ) -> Result<Vec<(Option<String>, Arc<dyn Provider>)>, ApiError> {
        if ProviderKind::parse(name) == Some(ProviderKind::Docker) {
            let hosts = self.docker.hosts(scope, &self.access).await?;
            let (_, hosts) = hosts.ok_or_else(|| not_configured(name))?;
            return Ok(hosts.each().map(|(host, provider)| (Some(host.to_owned()), provider)).collect());
        }
        Ok(vec![(None, self.provider(scope, name).await?)])
    }

    /// Where an agent may run whose creator named no provider: the deployment's own first, then what the platform has
    /// configured.
    ///
    /// # Errors
    /// `no_providers_available` when there is none.
    pub async fn usual(&self, scope: &TenantScope) -> Result<ProviderKind, ApiError> {
        match scope.mode() {
            Mode::Test => return Ok(ProviderKind::Simulated),
            Mode::Live if self.docker.own.is_some() => return Ok(ProviderKind::Docker),
            Mode::Live => {}
        }
        let configured = self.access.list(scope).await?;
        let usable = configured.iter().filter_map(|config| ProviderKind::parse(&config.provider));
        let mut usable = usable.filter(|kind| *kind != ProviderKind::Simulated);
        usable.next().ok_or_else(|| ApiError::new(ErrorCode::NoProvidersAvailable, "no compute provider is configured"))
    }

    /// All of the deployment's own that a tenant can run agents on.
    pub fn all_of(&self, scope: &TenantScope) -> Vec<Arc<dyn Provider>> {
        match scope.mode() {
            Mode::Live => self.docker.own.iter().cloned().collect(),
            Mode::Test => vec![self.simulated(scope)],
        }
    }

    /// All of the deployment's own that really run something, whoever it belongs to.
    pub fn own(&self) -> impl Iterator<Item = Arc<dyn Provider>> {
        self.docker.own.iter().cloned()
    }

    fn simulated(&self, scope: &TenantScope) -> Arc<dyn Provider> {
        Arc::new(SimulatedProvider::new(TenantDisk::new(self.simulated.clone(), scope.clone())))
    }
}
