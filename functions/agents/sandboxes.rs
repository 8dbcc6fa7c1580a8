//! The compute providers that a deployment can reach.

use std::sync::Arc;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::{Provider, ProviderKind};

/// Calling compute providers.
#[derive(Clone)]
pub struct Sandboxes {
    docker: Option<Arc<dyn Provider>>,
}

impl Sandboxes {
    /// Those providers.
    pub fn new(docker: Option<Arc<dyn Provider>>) -> Self {
        Self { docker }
    }

    /// The provider of that name.
    ///
    /// # Errors
    /// `no_providers_available` when the deployment has none of that name.
    pub fn provider(&self, name: &str) -> Result<&dyn Provider, ApiError> {
        match ProviderKind::parse(name) {
            Some(ProviderKind::Docker) => self.docker.as_deref(),
            _ => None,
        }
        .ok_or_else(|| {
            ApiError::new(ErrorCode::NoProvidersAvailable, format!("no {name} provider is configured"))
                .detail("provider", name)
        })
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &dyn Provider> {
        self.docker.iter().map(|provider| provider.as_ref())
    }
}
