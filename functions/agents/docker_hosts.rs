//! Docker for one deployment: its own engine, if it has one, and the hosts of platforms.

use super::sandboxes::not_configured;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::docker::{
    Carried, DockerConfig, DockerHosts, DockerProvider, HostRanges, HostSettings, Standing,
};
use theazo_providers::{Provider, ProviderError, ProviderKind, SandboxSpec};
use theazo_store::{Agent, ProviderAccess, ProviderConfig};
use theazo_tenancy::{PlatformId, TenantScope};

/// Platforms whose hosts are kept connected; then all are let go, which costs a connection each.
const MOST: usize = 64;

/// A platform's hosts, and the hash of the credential and image that they are of: when either changes, so do they, and the
/// keys of before are not kept.
type Known = HashMap<PlatformId, ([u8; 32], Arc<DockerHosts>)>;

/// A platform's hosts as it has configured them.
type Configured = (ProviderConfig, Arc<DockerHosts>);

/// The deployment's own engine. Its client is made when the first agent needs it: a function that is handed no
/// [`super::Sandboxes`] then has none of its code either.
struct OwnEngine {
    settings: DockerConfig,
    provider: OnceLock<Arc<dyn Provider>>,
}

/// Docker for one deployment.
#[derive(Clone)]
pub struct Docker {
    own: Option<Arc<OwnEngine>>,
    ranges: HostRanges,
    deployment: String,
    known: Arc<Mutex<Known>>,
}

impl Docker {
    /// That engine, and hosts where those ranges allow them beside the internet.
    pub fn new(own: Option<DockerConfig>, ranges: HostRanges, deployment: &str) -> Self {
        let own = own.map(|settings| Arc::new(OwnEngine { settings, provider: OnceLock::new() }));
        Self { own, ranges, deployment: deployment.to_owned(), known: Arc::default() }
    }

    /// Whether the deployment has an engine of its own.
    pub(super) fn has_own(&self) -> bool {
        self.own.is_some()
    }

    /// The deployment's own engine, if it has one.
    ///
    /// # Errors
    /// `internal_error` when no client for it can be made.
    pub(super) fn own(&self) -> Result<Option<Arc<dyn Provider>>, ApiError> {
        let Some(own) = &self.own else { return Ok(None) };
        if let Some(provider) = own.provider.get() {
            return Ok(Some(provider.clone()));
        }
        let provider = DockerProvider::new(own.settings.clone()).map_err(|error| {
            tracing::error!(%error, "no client for the deployment's Docker engine can be made");
            ApiError::internal()
        })?;
        Ok(Some(own.provider.get_or_init(|| Arc::new(provider)).clone()))
    }

    /// The hosts that a platform has configured, if it has.
    pub(super) fn hosts<'a>(
        &'a self,
        scope: &'a TenantScope,
        access: &'a ProviderAccess,
    ) -> BoxFuture<'a, Result<Option<Configured>, ApiError>> {
        Box::pin(async move {
            const NAME: &str = ProviderKind::Docker.as_str();
            let Some((config, credential)) = access.open(scope, NAME).await? else { return Ok(None) };
            let image = config.image.clone().ok_or_else(|| not_configured(NAME))?;
            let digest =
                Sha256::new().chain_update(image.as_bytes()).chain_update([0]).chain_update(credential.expose());
            let digest: [u8; 32] = digest.finalize().into();
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((of, hosts)) = known.get(scope.platform())
                && *of == digest
            {
                return Ok(Some((config, hosts.clone())));
            }
            let settings = HostSettings { deployment: self.deployment.clone(), image, ranges: self.ranges.clone() };
            let hosts = DockerHosts::new(&credential, &settings).map_err(|fault| {
                tracing::warn!(platform = %scope.platform(), %fault, "a platform's Docker hosts cannot be used");
                ApiError::new(ErrorCode::Provider, format!("the credential of the platform's Docker hosts {fault}"))
                    .detail("provider", NAME)
                    .detail("retryable", false)
            })?;
            if known.len() >= MOST {
                known.clear();
            }
            let hosts = Arc::new(hosts);
            known.insert(scope.platform().clone(), (digest, hosts.clone()));
            Ok(Some((config, hosts)))
        })
    }
}

/// Moves an agent that boots to another host of its platform.
pub(super) struct Mover {
    hosts: Arc<DockerHosts>,
    from: String,
    to: String,
}

impl Mover {
    pub(super) fn new(hosts: Arc<DockerHosts>, from: String, to: String) -> Self {
        Self { hosts, from, to }
    }

    /// Brings what the agent boots on, and all of its checkpoints. Its own files stay behind where those of a checkpoint take
    /// their place.
    pub(super) async fn carry(&self, spec: &SandboxSpec, agent: &Agent) -> Result<(), ProviderError> {
        let checkpoints = agent.kept_checkpoints().map(|checkpoint| checkpoint.id.to_string()).collect();
        let what = Carried { files: agent.restores.is_none(), checkpoints };
        self.hosts.carry(spec, &self.from, &self.to, &what).await
    }
}

/// Which of a platform's hosts take new agents.
pub(super) fn standing(config: &ProviderConfig) -> Standing<'_> {
    Standing { draining: &config.draining, enrolled: &config.enrolled }
}

/// The refusal of a call to an agent that is on a host which its platform's credential does not name any more.
pub(super) fn not_among_the_hosts() -> ApiError {
    let why = "the agent's host is not among the platform's Docker hosts any more";
    ApiError::new(ErrorCode::Provider, why).detail("provider", ProviderKind::Docker.as_str()).detail("retryable", false)
}

/// The refusal of a call to an agent whose host is known not to answer.
pub(super) fn does_not_answer() -> ApiError {
    ApiError::new(ErrorCode::Provider, "the agent's host does not answer")
        .detail("provider", ProviderKind::Docker.as_str())
        .detail("retryable", true)
}

/// The refusal of a boot on a host that is not known to keep agents from what they must not reach.
pub(super) fn not_enrolled() -> ApiError {
    let why = "the agent's Docker host is not enrolled";
    ApiError::new(ErrorCode::NoProvidersAvailable, why).detail("provider", ProviderKind::Docker.as_str())
}
