//! The simulated provider, behind test keys: sandboxes that keep files and answer code without running it.
//!
//! It owns what such a sandbox is: its [`index`], how files lie in pieces, and what code is answered ([`script`]). Where
//! that is kept is the business of a [`SimulatedDisk`], which knows neither paths nor files. Nothing is in memory: any
//! number of processes may act for one sandbox at once.
//!
//! Values of the environment are never kept. A sandbox knows the names that it was given, and no more.

mod checkpoints;
mod index;
mod script;
mod store;

#[cfg(test)]
mod tests;

use crate::{
    AgentRef, Environment, ExecOutput, ExecRequest, FilePiece, Health, Kept, OpenPort, OutputStream, OwnedSandbox,
    Provider, ProviderError, ProviderKind, Sandbox, SandboxSpec,
};
use async_trait::async_trait;
use bytes::Bytes;
use index::{Index, SimulatedPath};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use theazo_guest_protocol::forwarder::PORT_TOKEN_HEADER;
use theazo_guest_protocol::{FileEntry, WriteAt};
use zeroize::Zeroizing;

/// Most bytes in one piece.
pub const MAX_PIECE_BYTES: usize = 256 * 1024;
/// Most bytes in one index, which bounds how many files there are: some two thousand of ordinary names.
pub const MAX_INDEX_BYTES: usize = 300 * 1024;
/// Most bytes in all files of one sandbox.
pub const MAX_DISK_BYTES: u64 = 16 * 1024 * 1024;

/// How long after a sandbox would have ended its disk may drop what is left of it, should nobody have destroyed it. A
/// stopped one keeps its files for so long.
const KEPT_AFTER_END_MS: i64 = 366 * 24 * 60 * 60 * 1000;

/// An index as it was read.
#[derive(Clone, Debug)]
pub struct StoredIndex {
    /// Changes with every replacement.
    pub revision: u64,
    /// What was written.
    pub bytes: Vec<u8>,
}

/// Where simulated sandboxes are kept: for each agent an index, and pieces by id. Both are opaque to it.
#[async_trait]
pub trait SimulatedDisk: Send + Sync {
    /// Writes an agent's first index, unless it has one. Whether it had none. It may be dropped after `gone_by_ms`, Unix
    /// milliseconds.
    async fn make(&self, agent: &str, index: Vec<u8>, gone_by_ms: i64) -> Result<bool, ProviderError>;

    /// An agent's index.
    async fn index(&self, agent: &str) -> Result<Option<StoredIndex>, ProviderError>;

    /// Replaces an index that is still at the revision that was read. Whether it was.
    async fn replace(&self, agent: &str, read: u64, index: Vec<u8>, gone_by_ms: i64) -> Result<bool, ProviderError>;

    /// Writes pieces, each of at most [`MAX_PIECE_BYTES`], under ids of ASCII letters and digits that were never used
    /// before.
    async fn put(&self, agent: &str, pieces: Vec<(String, Bytes)>, gone_by_ms: i64) -> Result<(), ProviderError>;

    /// Those of these pieces that are there.
    async fn get(&self, agent: &str, ids: &[&str]) -> Result<HashMap<String, Bytes>, ProviderError>;

    /// One of them, if it is there. Reading several at once may take a permission that whoever only removes has not.
    async fn piece(&self, agent: &str, id: &str) -> Result<Option<Bytes>, ProviderError> {
        Ok(self.get(agent, &[id]).await?.remove(id))
    }

    /// Removes pieces. Those that are not there do not matter.
    async fn delete(&self, agent: &str, ids: &[&str]) -> Result<(), ProviderError>;

    /// Removes an agent's index first, and then every piece. Idempotent.
    async fn remove(&self, agent: &str) -> Result<(), ProviderError>;
}

/// Sandboxes of one tenant on its disk.
pub struct SimulatedProvider<D> {
    disk: D,
}

impl<D: SimulatedDisk> SimulatedProvider<D> {
    /// Over that disk.
    pub fn new(disk: D) -> Self {
        Self { disk }
    }

    /// The index of a sandbox that still runs.
    async fn load(&self, agent: &str) -> Result<(u64, Index), ProviderError> {
        let stored = self.disk.index(agent).await?.ok_or(ProviderError::SandboxGone)?;
        let index = Index::parse(&stored.bytes)?;
        match !index.stopped && now_ms() < index.ends_at_ms {
            true => Ok((stored.revision, index)),
            false => Err(ProviderError::SandboxGone),
        }
    }
}

/// A failure in our own words.
fn failed(operation: &'static str, retryable: bool, reason: impl Into<String>) -> ProviderError {
    let (provider, reason) = (ProviderKind::Simulated, reason.into());
    ProviderError::Failed { provider, operation, status: None, retryable, reason }
}

fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The index of a sandbox that has no file yet.
fn fresh(spec: &SandboxSpec, environment: &Environment) -> Index {
    Index {
        session: spec.session.clone(),
        ends_at_ms: now_ms().saturating_add(millis(spec.lifetime)),
        stopped: false,
        variables: environment.names().map(str::to_owned).collect(),
        checkpoints: BTreeMap::new(),
        discarded: false,
        files: BTreeMap::new(),
    }
}

fn sandbox(spec: &SandboxSpec) -> Sandbox {
    Sandbox { region: spec.region.clone(), details: BTreeMap::from([("isolation".to_owned(), "simulated".to_owned())]) }
}

#[async_trait]
impl<D: SimulatedDisk> Provider for SimulatedProvider<D> {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Simulated
    }

    async fn create(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError> {
        let index = fresh(spec, environment);
        let gone_by_ms = index.gone_by_ms();
        if !self.disk.make(&spec.agent, index.to_bytes()?, gone_by_ms).await? {
            self.deliver_again(&spec.agent, index).await?;
        }
        Ok(sandbox(spec))
    }

    async fn stop(&self, agent: &AgentRef) -> Result<Kept, ProviderError> {
        self.stop_index(&agent.agent).await
    }

    async fn resume(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError> {
        self.deliver_again(&spec.agent, fresh(spec, environment)).await?;
        Ok(sandbox(spec))
    }

    /// Answers as the comments in the code say. Nothing runs, and no time passes. See the README for what they can say.
    async fn exec(&self, agent: &AgentRef, request: ExecRequest) -> Result<ExecOutput, ProviderError> {
        let (_, index) = self.load(&agent.agent).await?;
        let output = script::answer(&request, &|name| index.variable(&agent.agent, name))?;
        if let Some(watch) = request.watch {
            watch.tell(OutputStream::Stdout, &output.stdout);
            watch.tell(OutputStream::Stderr, &output.stderr);
        }
        Ok(output)
    }

    async fn write_file(
        &self,
        agent: &AgentRef,
        path: &str,
        at: Option<WriteAt>,
        data: Bytes,
    ) -> Result<(), ProviderError> {
        self.write(&agent.agent, &SimulatedPath::parse(path)?, at, &data).await
    }

    async fn read_file(
        &self,
        agent: &AgentRef,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<FilePiece, ProviderError> {
        self.read(&agent.agent, &SimulatedPath::parse(path)?, offset, length).await
    }

    async fn list_files(&self, agent: &AgentRef, dir: &str) -> Result<Vec<FileEntry>, ProviderError> {
        let dir = SimulatedPath::parse(dir)?;
        self.load(&agent.agent).await?.1.list(&dir)
    }

    /// Says where the port would be. Nobody is there: names that end so lead nowhere.
    async fn open_port(&self, agent: &AgentRef, port: u16) -> Result<OpenPort, ProviderError> {
        self.load(&agent.agent).await?;
        let url = format!("https://{port}-{}.ports.simulated.invalid/", agent.agent.replace('_', "-"));
        let token = Sha256::new().chain_update("simulated port\0").chain_update(&url).finalize();
        Ok(OpenPort { url, headers: vec![(PORT_TOKEN_HEADER, Zeroizing::new(hex::encode(token)))] })
    }

    async fn destroy(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        self.disk.remove(&agent.agent).await
    }

    async fn discard(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        self.discard_all_but_checkpoints(&agent.agent).await
    }

    async fn checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<Kept, ProviderError> {
        self.keep(&agent.agent, checkpoint).await
    }

    async fn remove_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<(), ProviderError> {
        self.remove_kept(&agent.agent, checkpoint).await
    }

    async fn restore(
        &self,
        spec: &SandboxSpec,
        environment: &Environment,
        checkpoint: &str,
    ) -> Result<Sandbox, ProviderError> {
        self.put_back(&spec.agent, fresh(spec, environment), checkpoint).await?;
        Ok(sandbox(spec))
    }

    /// Always an error: disks are found by their agents, and no tenant's provider sees those of others.
    async fn list_mine(&self) -> Result<Vec<OwnedSandbox>, ProviderError> {
        Err(failed("list sandboxes", false, "simulated sandboxes are found by their agents alone"))
    }

    async fn health(&self) -> Health {
        Health { healthy: true, message: "nothing runs: code is answered, files are kept".into() }
    }
}
