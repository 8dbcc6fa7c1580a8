//! The compute providers that callers can reach: live ones those of the deployment, test ones the simulated provider. What
//! a caller asks for does not change which of the two worlds it is in; the mode of its credential does.

use super::simulated::TenantDisk;
use std::sync::Arc;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::simulated::SimulatedProvider;
use theazo_providers::{Provider, ProviderKind};
use theazo_store::SimulatedDisks;
use theazo_tenancy::{Mode, TenantScope};

/// Calling compute providers.
#[derive(Clone)]
pub struct Sandboxes {
    docker: Option<Arc<dyn Provider>>,
    simulated: SimulatedDisks,
}

impl Sandboxes {
    /// Those providers, and a simulated one on these disks for every tenant.
    pub fn new(docker: Option<Arc<dyn Provider>>, simulated: SimulatedDisks) -> Self {
        Self { docker, simulated }
    }

    /// The provider of that name, for a tenant. In test mode every name is the simulated one's.
    ///
    /// # Errors
    /// `no_providers_available` when the deployment has none of that name.
    pub fn provider(&self, scope: &TenantScope, name: &str) -> Result<Arc<dyn Provider>, ApiError> {
        match (scope.mode(), ProviderKind::parse(name)) {
            (Mode::Test, _) => Some(self.simulated(scope)),
            (Mode::Live, Some(ProviderKind::Docker)) => self.docker.clone(),
            (Mode::Live, _) => None,
        }
        .ok_or_else(|| {
            ApiError::new(ErrorCode::NoProvidersAvailable, format!("no {name} provider is configured"))
                .detail("provider", name)
        })
    }

    /// All of the deployment's own that a tenant can run agents on.
    pub fn all_of(&self, scope: &TenantScope) -> Vec<Arc<dyn Provider>> {
        match scope.mode() {
            Mode::Live => self.docker.iter().cloned().collect(),
            Mode::Test => vec![self.simulated(scope)],
        }
    }

    /// All that really run something, whoever it belongs to.
    pub fn all(&self) -> impl Iterator<Item = &dyn Provider> {
        self.docker.iter().map(|provider| provider.as_ref())
    }

    fn simulated(&self, scope: &TenantScope) -> Arc<dyn Provider> {
        Arc::new(SimulatedProvider::new(TenantDisk::new(self.simulated.clone(), scope.clone())))
    }
}
