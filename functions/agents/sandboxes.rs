//! The compute providers that callers can reach: live ones those of the deployment and those that their platform has
//! configured, test ones the simulated provider. What a caller asks for does not change which of the two worlds it is in;
//! the mode of its credential does.

use super::docker_hosts::{Docker, Mover, does_not_answer, not_among_the_hosts, not_enrolled, standing};
use super::services::{E2b, Fly};
use super::simulated::TenantDisk;
use futures_util::future::BoxFuture;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::docker::DockerHosts;
use theazo_providers::e2b::E2bProvider;
use theazo_providers::fly::{FlyProvider, FlySettings};
use theazo_providers::simulated::SimulatedProvider;
use theazo_providers::{Health, Provider, ProviderKind};
use theazo_store::{Agent, Intent, LogWriter, NewLog, ProviderAccess, ProviderConfig, SimulatedDisks};
use theazo_tenancy::{Mode, PlatformId, ReadScope, TenantScope};

/// Calling compute providers, and telling what they refuse.
#[derive(Clone)]
pub struct Sandboxes {
    docker: Docker,
    e2b: E2b,
    fly: Fly,
    access: ProviderAccess,
    simulated: SimulatedDisks,
    log: LogWriter,
    silent: Arc<SilentHosts>,
}

/// Hosts of platforms that are known not to answer.
pub(crate) type SilentHosts = HashSet<(PlatformId, String)>;

/// How long it may take to find out whether a stopped agent goes to another host. What is left of a request's time is for the
/// boot.
const PLACE_WITHIN: Duration = Duration::from_secs(8);
/// How long two hosts may take to say whether they are one. A host that is silent must not take the time of clearing another.
const TELL_APART_WITHIN: Duration = Duration::from_millis(1500);

/// A provider, and what its platform has said of it.
pub(super) struct Reached {
    provider: Arc<dyn Provider>,
    /// How many agents the platform lets run there at a time.
    max_concurrent: Option<u32>,
    /// Whether it takes no new agents, since it may be about to be removed.
    is_closed: bool,
}

impl Reached {
    /// One that the platform has configured.
    fn configured(provider: impl Provider + 'static, config: &ProviderConfig) -> Self {
        Self { provider: Arc::new(provider), max_concurrent: config.max_concurrent, is_closed: config.is_closed() }
    }
}

impl From<Arc<dyn Provider>> for Reached {
    fn from(provider: Arc<dyn Provider>) -> Self {
        Self { provider, max_concurrent: None, is_closed: false }
    }
}

/// Where a new agent goes at a provider.
pub(super) struct Place {
    /// Which of the platform's hosts, where it has several.
    pub(super) host: Option<String>,
    /// How many agents the platform lets run there at a time.
    pub(super) max_concurrent: Option<u32>,
}

/// Where an agent boots that has run before.
pub(super) struct PlaceAgain {
    /// Which other of the platform's hosts it moves to for that.
    pub(super) moving_to: Option<String>,
    /// How many agents the platform lets run there at a time.
    pub(super) max_concurrent: Option<u32>,
}

/// No such provider is configured.
pub(super) fn not_configured(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NoProvidersAvailable, format!("no {name} provider is configured")).detail("provider", name)
}

/// The provider of a host that agents may boot on.
fn may_boot(hosts: &DockerHosts, host: &str, config: &ProviderConfig) -> Result<Arc<dyn Provider>, ApiError> {
    let provider = hosts.on(host).ok_or_else(not_among_the_hosts)?;
    if hosts.may_boot_on(host, standing(config)) { Ok(provider) } else { Err(not_enrolled()) }
}

/// The order in which providers are tried: by the platform's priorities, then the deployment's own, then by name.
fn in_order(own_docker: bool, configured: &[ProviderConfig]) -> Vec<ProviderKind> {
    let of_platform = configured.iter().filter_map(|config| {
        let kind = ProviderKind::parse(&config.provider)?;
        (kind != ProviderKind::Simulated).then_some((config.priority.unwrap_or(u32::MAX), kind))
    });
    // After every priority that can be given, and before those that have none. The platform's own hosts take its place.
    let is_own = own_docker && !configured.iter().any(|config| config.provider == ProviderKind::Docker.as_str());
    let of_deployment = is_own.then_some((u32::MAX - 1, ProviderKind::Docker));
    let mut usable: Vec<_> = of_platform.chain(of_deployment).collect();
    usable.sort_unstable();
    usable.into_iter().map(|(_, kind)| kind).collect()
}

impl Sandboxes {
    /// Those providers, and a simulated one on these disks for every tenant.
    pub fn new(
        (docker, e2b, fly): (Docker, E2b, Fly),
        access: ProviderAccess,
        simulated: SimulatedDisks,
        log: LogWriter,
    ) -> Self {
        Self { docker, e2b, fly, access, simulated, log, silent: Arc::default() }
    }

    /// The same, but those hosts are asked for nothing: whatever is to be done there fails at once.
    pub(crate) fn without(self, silent: SilentHosts) -> Self {
        Self { silent: Arc::new(silent), ..self }
    }

    fn is_silent(&self, scope: &TenantScope, host: &str) -> bool {
        !self.silent.is_empty() && self.silent.contains(&(scope.platform().clone(), host.to_owned()))
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
        Ok(self.reach_by_name(scope, name).await?.provider)
    }

    /// The same, with what the platform has said of it.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    fn reach_by_name<'a>(&'a self, scope: &'a TenantScope, name: &'a str) -> BoxFuture<'a, Result<Reached, ApiError>> {
        Box::pin(async move {
            match (scope.mode(), ProviderKind::parse(name)) {
                (Mode::Test, _) => Ok(self.simulated(scope).into()),
                (Mode::Live, Some(ProviderKind::Docker)) => {
                    Ok(self.docker.own()?.ok_or_else(|| not_configured(name))?.into())
                }
                (Mode::Live, Some(ProviderKind::E2b)) => {
                    let configured = self.access.open(scope, name).await?;
                    let (config, credential) = configured.ok_or_else(|| not_configured(name))?;
                    let provider = E2bProvider::new(self.e2b.service()?, &credential, config.template.as_deref());
                    let provider = provider.map_err(|error| super::failure::to_api(name, &error))?;
                    Ok(Reached::configured(provider, &config))
                }
                (Mode::Live, Some(ProviderKind::Fly)) => {
                    let configured = self.access.open(scope, name).await?;
                    let (config, credential) = configured.ok_or_else(|| not_configured(name))?;
                    // Configurations of earlier versions only shield the credential.
                    let (Some(organization), Some(image)) = (config.organization.clone(), config.image.clone()) else {
                        return Err(not_configured(name));
                    };
                    let settings = FlySettings { organization, image, region: config.region.clone() };
                    let provider = FlyProvider::new(self.fly.service()?, &credential, settings);
                    let provider = provider.map_err(|error| super::failure::to_api(name, &error))?;
                    Ok(Reached::configured(provider, &config))
                }
                (Mode::Live, _) => Err(not_configured(name)),
            }
        })
    }

    /// The provider that an agent is at: of several hosts of its platform, the one that it is on.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`]; `provider_error` when its host is none of the platform's any more.
    pub async fn of_agent(&self, scope: &TenantScope, agent: &Agent) -> Result<Arc<dyn Provider>, ApiError> {
        Ok(self.reach(scope, agent).await?.provider)
    }

    /// Where an agent boots again, by what its row does not say yet.
    ///
    /// # Errors
    /// As [`Sandboxes::of_agent`]; `no_providers_available` when its host is not enrolled, or not any more;
    /// `provider_error` when that one does not answer.
    pub(super) async fn place_again(
        &self,
        scope: &TenantScope,
        agent: &Agent,
        intent: Intent,
    ) -> Result<PlaceAgain, ApiError> {
        let Some((config, hosts, host)) = self.hosts_of(scope, agent).await? else {
            let Reached { max_concurrent, .. } = self.reach(scope, agent).await?;
            return Ok(PlaceAgain { moving_to: None, max_concurrent });
        };
        may_boot(&hosts, host, &config)?;
        let moving_to = match intent {
            Intent::Resuming | Intent::Retrying => {
                let except: Vec<&str> = agent.elsewhere().collect();
                let placed = hosts.place_again(host, standing(&config), &except);
                // Where others are slow to say whether they have room, it stays.
                let placed = tokio::time::timeout(PLACE_WITHIN, placed).await.unwrap_or(Ok(None));
                placed.map_err(|error| super::failure::to_api(&agent.provider, &error))?
            }
            // One that runs takes no new place.
            Intent::Restarting | Intent::Pausing => None,
        };
        Ok(PlaceAgain { moving_to, max_concurrent: config.max_concurrent })
    }

    /// The provider that an agent boots at whose row says that it boots, and what moves it there, if it moves.
    ///
    /// # Errors
    /// As [`Sandboxes::of_agent`]; `no_providers_available` when its host is not enrolled, or not any more, or for a new
    /// agent when the platform is about to remove the provider.
    pub(super) async fn to_boot(
        &self,
        scope: &TenantScope,
        agent: &Agent,
    ) -> Result<(Arc<dyn Provider>, Option<Mover>), ApiError> {
        let Some((config, hosts, host)) = self.hosts_of(scope, agent).await? else {
            let Reached { provider, is_closed, .. } = self.reach(scope, agent).await?;
            return if is_closed && agent.is_new() {
                Err(not_configured(&agent.provider))
            } else {
                Ok((provider, None))
            };
        };
        if config.is_closed() && agent.is_new() {
            return Err(not_configured(&agent.provider));
        }
        let provider = may_boot(&hosts, agent.moving_to.as_deref().unwrap_or(host), &config)?;
        let mover = agent.moving_to.clone().map(|to| Mover::new(hosts, host.to_owned(), to));
        Ok((provider, mover))
    }

    /// The hosts of the platform of an agent that is on one of them, and which that is.
    async fn hosts_of<'a>(
        &self,
        scope: &TenantScope,
        agent: &'a Agent,
    ) -> Result<Option<(ProviderConfig, Arc<DockerHosts>, &'a str)>, ApiError> {
        let (Mode::Live, Some(host)) = (scope.mode(), agent.host.as_deref()) else { return Ok(None) };
        let hosts = self.docker.hosts(scope, &self.access).await?;
        Ok(hosts.map(|(config, hosts)| (config, hosts, host)))
    }

    async fn reach(&self, scope: &TenantScope, agent: &Agent) -> Result<Reached, ApiError> {
        match (scope.mode(), agent.host.as_deref()) {
            (Mode::Live, Some(host)) => {
                self.on_host(scope, &agent.provider, host).await?.ok_or_else(not_among_the_hosts)
            }
            _ => self.reach_by_name(scope, &agent.provider).await,
        }
    }

    /// The provider of an agent that is to be removed. Nothing of one whose host the platform has taken out of its
    /// credential: what is still there is removed as an orphan, should the host ever come back. Nor of one whose provider the
    /// platform has removed, which it may as long as no agent has anything there: it was never asked for this one.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    pub(super) fn removing<'a>(
        &'a self,
        scope: &'a TenantScope,
        agent: &'a Agent,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Provider>>, ApiError>> {
        Box::pin(async move {
            let found = match (scope.mode(), agent.host.as_deref()) {
                (Mode::Live, Some(host)) => self.on_host(scope, &agent.provider, host).await,
                _ => self.reach_by_name(scope, &agent.provider).await.map(Some),
            };
            match found {
                Err(error) if !self.has_provider_of(scope, agent).await? => {
                    tracing::info!(agent = %agent.id, ?error, "nothing is left of an agent at a provider that was removed");
                    Ok(None)
                }
                found => Ok(found?.map(|reached| reached.provider)),
            }
        })
    }

    /// Whether an agent's provider is the deployment's, or still one that its platform has configured.
    async fn has_provider_of(&self, scope: &TenantScope, agent: &Agent) -> Result<bool, ApiError> {
        let is_deployments = agent.host.is_none() && agent.provider == ProviderKind::Docker.as_str();
        Ok(scope.mode() == Mode::Test || is_deployments || self.access.is_configured(scope, &agent.provider).await?)
    }

    /// The provider of a host that an agent does not live on and may have something on. Nothing when the platform has taken
    /// the host out of its credential, or it turns out to be where the agent lives, by another name; with it, whether it is
    /// known not to be.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    pub(super) async fn elsewhere(
        &self,
        scope: &TenantScope,
        agent: &Agent,
        host: &str,
    ) -> Result<Option<(Arc<dyn Provider>, bool)>, ApiError> {
        let Some((_, hosts, own)) = self.hosts_of(scope, agent).await? else { return Ok(None) };
        let Some(provider) = hosts.on(host).filter(|_| host != own) else { return Ok(None) };
        if self.is_silent(scope, host) {
            return Err(does_not_answer());
        }
        let are_one = async {
            // Nor does that one say which it is.
            if self.is_silent(scope, own) { None } else { hosts.are_one(own, host).await }
        };
        match tokio::time::timeout(TELL_APART_WITHIN, are_one).await.ok().flatten() {
            Some(true) => {
                tracing::error!(agent = %agent.id, host, own, "two Docker hosts of a platform are one engine");
                Ok(None)
            }
            told => Ok(Some((provider, told.is_some()))),
        }
    }

    /// Whether a host is still one of the platform's that an agent belongs to.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    pub(super) async fn has_host(&self, scope: &TenantScope, agent: &Agent, host: &str) -> Result<bool, ApiError> {
        Ok(self.hosts_of(scope, agent).await?.is_some_and(|(_, hosts, _)| hosts.on(host).is_some()))
    }

    async fn on_host(&self, scope: &TenantScope, name: &str, host: &str) -> Result<Option<Reached>, ApiError> {
        if self.is_silent(scope, host) {
            return Err(does_not_answer());
        }
        let hosts = self.docker.hosts(scope, &self.access).await?;
        let (config, hosts) = hosts.ok_or_else(|| not_configured(name))?;
        let reached = |provider| Reached {
            max_concurrent: config.max_concurrent,
            is_closed: config.is_closed(),
            ..Reached::from(provider)
        };
        Ok(hosts.on(host).map(reached))
    }

    /// Where a new agent goes at a provider. Hosts of the platform's own come before an engine of the deployment's.
    ///
    /// # Errors
    /// `no_providers_available` when there is no provider of that name, or no host with room; as [`Sandboxes::provider`].
    pub(super) fn place<'a>(
        &'a self,
        scope: &'a TenantScope,
        kind: ProviderKind,
    ) -> BoxFuture<'a, Result<Place, ApiError>> {
        Box::pin(async move {
            if (scope.mode(), kind) == (Mode::Live, ProviderKind::Docker)
                && let Some((config, hosts)) = self.docker.hosts(scope, &self.access).await?
            {
                if config.is_closed() {
                    return Err(not_configured(kind.as_str()));
                }
                let standing = standing(&config);
                if !hosts.any_takes(standing) {
                    let why = "every Docker host of the platform drains, or has not been enrolled";
                    return Err(ApiError::new(ErrorCode::NoProvidersAvailable, why).detail("provider", kind.as_str()));
                }
                let host = hosts.place(standing).await;
                let host = host.map_err(|error| super::failure::to_api(kind.as_str(), &error))?;
                return Ok(Place { host: Some(host), max_concurrent: config.max_concurrent });
            }
            let Reached { max_concurrent, .. } = self.reach_by_name(scope, kind.as_str()).await?;
            Ok(Place { host: None, max_concurrent })
        })
    }

    /// Whether what a tenant has configured answers.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    pub async fn health(&self, scope: &TenantScope, name: &str) -> Result<Health, ApiError> {
        if (scope.mode(), ProviderKind::parse(name)) == (Mode::Live, Some(ProviderKind::Docker)) {
            let hosts = self.docker.hosts(scope, &self.access).await?;
            let (config, hosts) = hosts.ok_or_else(|| not_configured(name))?;
            return Ok(hosts.health(standing(&config)).await);
        }
        Ok(self.provider(scope, name).await?.health().await)
    }

    /// What a tenant has configured, host by host where there are several. Nothing of a test key's: whatever it names, its
    /// agents are simulated.
    ///
    /// # Errors
    /// As [`Sandboxes::provider`].
    pub async fn accounts(
        &self,
        scope: &TenantScope,
        name: &str,
    ) -> Result<Vec<(Option<String>, Arc<dyn Provider>)>, ApiError> {
        if scope.mode() == Mode::Test {
            return Ok(Vec::new());
        }
        if ProviderKind::parse(name) == Some(ProviderKind::Docker) {
            let hosts = self.docker.hosts(scope, &self.access).await?;
            let (_, hosts) = hosts.ok_or_else(|| not_configured(name))?;
            return Ok(hosts.each().map(|(host, provider)| (Some(host.to_owned()), provider)).collect());
        }
        Ok(vec![(None, self.provider(scope, name).await?)])
    }

    /// Where an agent may run whose creator named no provider, the first before the next: what the platform has given a
    /// priority, then the deployment's own, then what else the platform has configured.
    ///
    /// # Errors
    /// `internal_error` when the table does not answer.
    pub(super) async fn usual(&self, scope: &ReadScope) -> Result<Vec<ProviderKind>, ApiError> {
        match scope.mode() {
            Mode::Test => Ok(vec![ProviderKind::Simulated]),
            Mode::Live => Ok(in_order(self.docker.has_own(), &self.access.list(scope).await?)),
        }
    }

    /// All of the deployment's own that a tenant can run agents on.
    pub fn all_of(&self, scope: &TenantScope) -> Vec<Arc<dyn Provider>> {
        match scope.mode() {
            Mode::Live => self.own().into_iter().collect(),
            Mode::Test => vec![self.simulated(scope)],
        }
    }

    /// What the deployment itself has that really runs something, whoever it belongs to.
    pub fn own(&self) -> Option<Arc<dyn Provider>> {
        // Without a client, nothing was ever run there; that there is none is in the log.
        self.docker.own().ok().flatten()
    }

    fn simulated(&self, scope: &TenantScope) -> Arc<dyn Provider> {
        Arc::new(SimulatedProvider::new(TenantDisk::new(self.simulated.clone(), scope.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(provider: &str, priority: Option<u32>) -> ProviderConfig {
        serde_json::from_value(serde_json::json!({
            "provider": provider, "credential": "C", "priority": priority, "updated_at_ms": 0,
        }))
        .unwrap()
    }

    #[test]
    fn priorities_come_first_then_the_deployments_own_then_the_rest_by_name() {
        use ProviderKind::{Docker, E2b, Fly};
        let both = |e2b, fly| [config("fly", fly), config("e2b", e2b)];
        for (own, configured, expected) in [
            (true, both(None, None), vec![Docker, E2b, Fly]),
            (true, both(None, Some(9)), vec![Fly, Docker, E2b]),
            (true, both(Some(2), Some(1)), vec![Fly, E2b, Docker]),
            (true, both(Some(1), Some(1)), vec![E2b, Fly, Docker]),
            (false, both(Some(100), None), vec![E2b, Fly]),
        ] {
            assert_eq!(in_order(own, &configured), expected);
        }
        assert_eq!(in_order(true, &[]), [Docker]);
        assert_eq!(in_order(true, &[config("e2b", None), config("docker", Some(3))]), [Docker, E2b]);
        assert_eq!(in_order(false, &[config("e2b", Some(2)), config("docker", None)]), [E2b, Docker]);
        assert!(in_order(false, &[config("modal", Some(1))]).is_empty(), "one that this version does not know");
    }
}
