//! A stack of a test's own, in this process, for what the shared one must not go through.

use super::{Client, e2b_emulator, fly_emulator};
use std::path::{Path, PathBuf};
use std::time::Duration;
use theazo_functions::deployment::DockerEngine;
use theazo_functions::reconcile::{Boots, Outcome, reconcile};
use theazo_local::{Stack, StackConfig};

/// The stack and its folder.
pub struct OwnStack {
    pub stack: Stack,
    folder: PathBuf,
}

impl OwnStack {
    /// Starts it, with a client that has its live key.
    pub async fn start(docker: Option<DockerEngine>) -> (Self, Client) {
        Self::start_with(docker, |_| {}).await
    }

    /// The same, with other things set otherwise than by default.
    pub async fn start_with(docker: Option<DockerEngine>, change: impl FnOnce(&mut StackConfig)) -> (Self, Client) {
        let id = hex::encode(theazo_tenancy::make_random_bytes::<6>());
        // By its beginning the next test process knows it, should this one die.
        let folder = std::env::temp_dir().join(format!("theazo-e2e-own-{id}"));
        let mut config = StackConfig {
            docker,
            e2b: e2b_emulator().endpoints.clone(),
            fly: fly_emulator().endpoints.clone(),
            // Most tests look for what is removed, and not for when.
            orphan_grace: Duration::ZERO,
            ..StackConfig::on_loopback(folder.clone())
        };
        change(&mut config);
        super::enforce_roles();
        let own = Self { stack: Stack::start(config).await.unwrap(), folder };
        let client = own.client("api-key");
        (own, client)
    }

    /// One on which nothing is reconciled but when the test says so: each run counts.
    pub async fn start_still(docker: Option<DockerEngine>, change: impl FnOnce(&mut StackConfig)) -> (Self, Client) {
        Self::start_with(docker, |config| {
            config.reconcile_every = Duration::from_secs(24 * 3_600);
            change(config);
        })
        .await
    }

    /// Reconciles once, while others may be booting.
    pub async fn reconcile(&self) -> Outcome {
        Box::pin(reconcile(self.stack.deployment(), Boots::UnderWay)).await.unwrap()
    }

    /// A client with the key in that file of the folder.
    pub fn client(&self, file: &str) -> Client {
        let key = std::fs::read_to_string(self.folder.join(file)).unwrap();
        Client::new(self.stack.base_url(), Some(key.trim()))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub async fn stop(self) {
        self.stack.stop().await;
        super::assert_roles_suffice();
        std::fs::remove_dir_all(self.folder).unwrap();
    }
}
