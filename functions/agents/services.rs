//! The clients of compute services that a process has one of, whichever platform's account is used with them.

use std::sync::{Arc, OnceLock};
use theazo_http::ApiError;
use theazo_providers::e2b::{E2bEndpoints, E2bService};
use theazo_providers::fly::{FlyEndpoints, FlyService};

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

    pub(super) fn service(&self) -> Result<Arc<E2bService>, ApiError> {
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

    pub(super) fn service(&self) -> Result<Arc<FlyService>, ApiError> {
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
