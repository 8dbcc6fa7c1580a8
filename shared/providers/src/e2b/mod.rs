//! The E2B adapter: a sandbox per agent in an account at E2B, found again by the labels it was created with.
//!
//! A guest runs inside as in the agent image, a program in Python that is uploaded at each boot ([`ask`]). The environment
//! is nowhere that E2B keeps or logs: not in `envVars`, a process's environment or arguments, or input that is sent to one.
//! It travels in the body of an upload, to a memory file system that a pause drops, since sandboxes are only ever paused
//! without their memory. What a pause has kept is booted, and delivered to, anew.
//!
//! Labels are set with the API key, which no sandbox has: what runs inside cannot change them.

mod account;
mod ask;
mod checkpoints;
mod envd;
mod failure;
mod ports;

use crate::frame::Frame;
use crate::guest_calls::{self, Call, exec_output, listing, piece, written};
use crate::http::Http;
use crate::intake::Answered;
use crate::known::Known;
use crate::{
    AgentRef, Environment, ExecOutput, ExecRequest, FilePiece, Health, Kept, OpenPort, OwnedSandbox, Presence,
    Provider, ProviderError, ProviderKind, Sandbox, SandboxSpec,
};
use ::http::HeaderValue;
use account::{Account, Created, Handle, Listed, Which};
use async_trait::async_trait;
use bytes::Bytes;
use envd::User;
use failure::failed;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use theazo_guest_protocol::{FileEntry, WriteAt};
use theazo_vault::SecretValue;

/// The template that agents run in unless a platform names its own. It must have `python3` and `bash`.
pub const DEFAULT_TEMPLATE: &str = "base";

const KIND: ProviderKind = ProviderKind::E2b;
/// Not like a browser's: proxies answer those with pages.
const USER_AGENT: HeaderValue = HeaderValue::from_static("theazo");
const DEPLOYMENT_LABEL: &str = "theazo.deployment";
const AGENT_LABEL: &str = "theazo.agent";
const SESSION_LABEL: &str = "theazo.session";
const PLATFORM_LABEL: &str = "theazo.platform";
const DELIVER_LIMIT: Duration = Duration::from_secs(30);
/// How long writing out and measuring before a pause may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(8);
const HEALTH_LIMIT: Duration = Duration::from_secs(3);
/// How long a removal is looked after, and how often.
const REMOVE_WITHIN: Duration = Duration::from_secs(20);
const REMOVE_PAUSE: Duration = Duration::from_millis(200);
/// How often a create is tried whose key turns out to be used up.
const CREATE_ATTEMPTS: u32 = 4;
const CREATE_PAUSE: Duration = Duration::from_millis(500);
/// How often one that goes on running is paused.
const PAUSES: u32 = 3;
/// After how long a list is asked for once more that may not have been up to date.
const LIST_PAUSE: Duration = Duration::from_millis(300);

/// Where E2B is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct E2bEndpoints {
    /// The management API: scheme and host.
    pub api: String,
    /// The daemons of all sandboxes, told apart by a header: scheme and host.
    pub sandbox: String,
}

impl Default for E2bEndpoints {
    /// The public service.
    fn default() -> Self {
        Self { api: "https://api.e2b.app".into(), sandbox: "https://sandbox.e2b.app".into() }
    }
}

impl E2bEndpoints {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// The service: a pooled client, and what it knows of sandboxes. One per process; any number of accounts share it.
pub struct E2bService {
    endpoints: E2bEndpoints,
    deployment: String,
    http: Http,
    known: Known<Handle>,
}

impl E2bService {
    /// The service for one deployment, whose name all it makes is labelled with. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] when the machine's certificate authorities cannot be read.
    pub fn new(endpoints: E2bEndpoints, deployment: impl Into<String>) -> Result<Self, ProviderError> {
        let tls = [&endpoints.api, &endpoints.sandbox].iter().any(|url| url.starts_with("https:"));
        let http = Http::new(tls).map_err(|error| failed("connect", None, false, error.to_string()))?;
        Ok(Self { endpoints, deployment: deployment.into(), http, known: Known::default() })
    }
}

/// Agents in one account.
pub struct E2bProvider {
    account: Account,
    /// What the account is known by, without saying its key.
    fingerprint: [u8; 32],
    template: String,
}

impl E2bProvider {
    /// An adapter for the account of that API key. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] for what can be no API key.
    pub fn new(service: Arc<E2bService>, key: &SecretValue, template: Option<&str>) -> Result<Self, ProviderError> {
        Ok(Self {
            account: Account::new(service, key)?,
            fingerprint: Sha256::digest(key.expose()).into(),
            template: template.unwrap_or(DEFAULT_TEMPLATE).to_owned(),
        })
    }

    fn service(&self) -> &E2bService {
        &self.account.service
    }

    fn body(&self, spec: &SandboxSpec, template: &str, seconds: u64) -> Value {
        json!({
            "templateID": template,
            "timeout": seconds,
            "metadata": {
                DEPLOYMENT_LABEL: self.service().deployment,
                AGENT_LABEL: spec.agent,
                SESSION_LABEL: spec.session,
                PLATFORM_LABEL: spec.platform,
            },
            "allow_internet_access": spec.internet,
            // No port is open without a token.
            "network": { "allowPublicTraffic": false },
        })
    }

    /// The agent's sandboxes: one, unless an interrupted create has left more. That there is none is believed to the second
    /// list: who is told so takes the files for lost, or leaves a sandbox behind.
    async fn sandboxes(&self, agent: &str) -> Result<Vec<Listed>, ProviderError> {
        let found = self.listed(agent).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        tokio::time::sleep(LIST_PAUSE).await;
        self.listed(agent).await
    }

    /// What one list says of them.
    async fn listed(&self, agent: &str) -> Result<Vec<Listed>, ProviderError> {
        self.account.list(&[(DEPLOYMENT_LABEL, &self.service().deployment), (AGENT_LABEL, agent)]).await
    }

    /// Makes the agent's sandbox, or finds the one that is there, and puts the guest into it.
    async fn ensure(&self, spec: &SandboxSpec) -> Result<Handle, ProviderError> {
        let key = idempotency_key(&self.service().deployment, &spec.agent);
        self.ensure_from(spec, &self.template, key).await
    }

    /// The same of that template, under that key.
    async fn ensure_from(&self, spec: &SandboxSpec, template: &str, mut key: String) -> Result<Handle, ProviderError> {
        let mut seconds = whole_seconds(spec.lifetime);
        for attempt in 0..CREATE_ATTEMPTS {
            let handle = match self.account.create(&self.body(spec, template, seconds), &key).await? {
                Created::Here(handle) => handle,
                Created::TooLong(allowed) if allowed < seconds => {
                    seconds = allowed;
                    key = format!("{key}-{seconds}");
                    continue;
                }
                Created::TooLong(_) => {
                    return Err(failed("create sandbox", Some(400), false, "E2B does not allow the sandbox its time"));
                }
                Created::Look => match self.connect_to(&self.sandboxes(&spec.agent).await?, seconds).await {
                    Ok((handle, _)) => handle,
                    Err(ProviderError::SandboxGone) => {
                        tokio::time::sleep(CREATE_PAUSE).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            match self.install(&handle).await {
                // An earlier create's answer given again, of a sandbox that has gone since.
                Err(ProviderError::SandboxGone) if self.sandboxes(&spec.agent).await?.is_empty() => {
                    key = format!("{key}-{attempt}");
                }
                outcome => return outcome.map(|()| handle),
            }
        }
        Err(failed("create sandbox", None, true, "the create stays under way"))
    }

    /// Delivers to a sandbox with the guest in it.
    async fn boot(&self, spec: &SandboxSpec, handle: Handle, frame: Frame) -> Result<Sandbox, ProviderError> {
        self.deliver(&handle, frame).await?;
        let details = [("isolation", "microvm"), ("sandbox", &handle.id), ("template", &self.template)];
        let details = details.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sandbox = Sandbox { region: None, details: details.collect::<BTreeMap<_, _>>() };
        self.service().known.keep(self.fingerprint, &spec.agent, handle);
        Ok(sandbox)
    }

    /// The running sandbox of an agent.
    async fn handle(&self, agent: &str) -> Result<Arc<Handle>, ProviderError> {
        if let Some(handle) = self.service().known.get(self.fingerprint, agent) {
            return Ok(handle);
        }
        let handle = self.running(agent).await?;
        Ok(self.service().known.keep(self.fingerprint, agent, handle))
    }

    /// The same as E2B has it now. What a list says of a sandbox, its state included, may not be so any more, or not yet.
    async fn running(&self, agent: &str) -> Result<Handle, ProviderError> {
        for listed in self.sandboxes(agent).await? {
            match self.account.open(&listed.id).await {
                Ok((handle, detail)) if detail.state == "running" => return Ok(handle),
                Ok(_) | Err(ProviderError::SandboxGone) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ProviderError::SandboxGone)
    }

    /// Opens the first of those that is there. A list may still name one that is not.
    async fn connect_to(&self, sandboxes: &[Listed], seconds: u64) -> Result<(Handle, bool), ProviderError> {
        for listed in sandboxes {
            match self.account.connect(&listed.id, seconds).await {
                Err(ProviderError::SandboxGone) => {}
                other => return other,
            }
        }
        Err(ProviderError::SandboxGone)
    }

    /// Has a sandbox be paused, whatever a list says that it is. Whether it is there.
    async fn put_down(&self, listed: &Listed) -> Result<bool, ProviderError> {
        let mut runs = listed.state == "running";
        for _ in 0..PAUSES {
            if runs {
                match self.account.pause(&listed.id).await {
                    Err(ProviderError::SandboxGone) => return Ok(false),
                    other => other?,
                }
            }
            let detail = match self.account.open(&listed.id).await {
                Err(ProviderError::SandboxGone) => return Ok(false),
                other => other?.1,
            };
            runs = detail.state == "running";
            if !runs && detail.pause_mode.as_deref() == Some("full") {
                // A snapshot of the memory has the environment in it, and would be kept until somebody removes it.
                self.account.kill(&listed.id).await?;
                return Ok(false);
            }
            if !runs {
                return Ok(true);
            }
        }
        Err(failed("pause sandbox", None, true, "the sandbox goes on running"))
    }

    /// Does something in an agent's sandbox, and forgets it when it turns out to be gone.
    async fn inside(&self, agent: &AgentRef, call: Call) -> Result<Answered, ProviderError> {
        let Call { operation, frame, limit, intake } = call;
        let (handle, path) = self.put_inside(&agent.agent, operation, frame.into_bytes()).await?;
        let outcome = self.answer(&handle, operation, User::Agent, &path, limit, intake).await;
        if is_over(&outcome) {
            self.service().known.forget(self.fingerprint, &agent.agent);
        }
        outcome
    }

    /// Puts a request into the sandbox that an agent has now. The one that this process knows may be gone, and another in its
    /// place since somebody booted the agent from a checkpoint: whoever is told that it is gone takes the agent for lost.
    async fn put_inside(
        &self,
        agent: &str,
        operation: &'static str,
        request: Bytes,
    ) -> Result<(Arc<Handle>, String), ProviderError> {
        let handle = self.handle(agent).await?;
        let put = self.put(&handle, operation, User::Agent, request.clone()).await;
        if !is_over(&put) {
            return Ok((handle, put?));
        }
        self.service().known.forget(self.fingerprint, agent);
        let now = self.handle(agent).await?;
        match self.put(&now, operation, User::Agent, request).await {
            Err(ProviderError::SandboxGone) if now.id == handle.id => {
                self.service().known.forget(self.fingerprint, agent);
                Err(failed(operation, None, true, "the sandbox runs, and is not reached"))
            }
            put => Ok((now, put?)),
        }
    }

    /// Writes out and measures; a pause does not fail for it.
    async fn farewell(&self, agent: &AgentRef) -> Option<u64> {
        guest_calls::farewell(self, agent, FAREWELL_LIMIT).await
    }
}

/// Whether a sandbox is not what it was: it is gone, or does not know the token.
fn is_over<T>(outcome: &Result<T, ProviderError>) -> bool {
    matches!(outcome, Err(ProviderError::SandboxGone | ProviderError::Failed { status: Some(401 | 403), .. }))
}

/// A lifetime in whole seconds, never shorter than asked.
fn whole_seconds(lifetime: Duration) -> u64 {
    (lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0)).max(1)
}

/// A short name of a deployment in letters that every name at E2B may have.
fn short(deployment: &str) -> String {
    hex::encode(Sha256::digest(deployment)).chars().take(12).collect()
}

/// The key under which E2B makes an agent's sandbox once.
fn idempotency_key(deployment: &str, agent: &str) -> String {
    format!("theazo-{}-{}", short(deployment), agent.replace('_', "-"))
}

#[async_trait]
impl Provider for E2bProvider {
    fn kind(&self) -> ProviderKind {
        KIND
    }

    async fn create(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError> {
        // First, so that an environment that cannot be delivered leaves nothing behind.
        let frame = Frame::deliver(KIND, environment)?;
        if spec.region.is_some() {
            return Err(ProviderError::UnknownRegion);
        }
        let handle = self.ensure(spec).await?;
        self.boot(spec, handle, frame).await
    }

    async fn stop(&self, agent: &AgentRef) -> Result<Kept, ProviderError> {
        let sandboxes = self.sandboxes(&agent.agent).await?;
        let mut bytes = None;
        if sandboxes.iter().any(|listed| listed.state == "running") {
            bytes = self.farewell(agent).await;
        }
        self.service().known.forget(self.fingerprint, &agent.agent);
        let mut is_kept = false;
        for listed in &sandboxes {
            is_kept |= self.put_down(listed).await?;
        }
        if is_kept { Ok(Kept { bytes }) } else { Err(ProviderError::SandboxGone) }
    }

    async fn resume(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError> {
        let frame = Frame::deliver(KIND, environment)?;
        let sandboxes = self.sandboxes(&spec.agent).await?;
        let (handle, booted) = self.connect_to(&sandboxes, whole_seconds(spec.lifetime)).await?;
        self.install(&handle).await?;
        if !booted {
            // What an interrupted resume left runs with another environment.
            self.kill_all(&handle).await?;
        }
        self.boot(spec, handle, frame).await
    }

    async fn exec(&self, agent: &AgentRef, request: ExecRequest) -> Result<ExecOutput, ProviderError> {
        exec_output(KIND, self.inside(agent, Call::exec(KIND, request)?).await?)
    }

    async fn write_file(
        &self,
        agent: &AgentRef,
        path: &str,
        at: Option<WriteAt>,
        data: Bytes,
    ) -> Result<(), ProviderError> {
        written(KIND, self.inside(agent, Call::write_file(KIND, path, at, &data)?).await?)
    }

    async fn read_file(
        &self,
        agent: &AgentRef,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<FilePiece, ProviderError> {
        piece(KIND, self.inside(agent, Call::read_file(KIND, path, offset, length)?).await?)
    }

    async fn list_files(&self, agent: &AgentRef, dir: &str) -> Result<Vec<FileEntry>, ProviderError> {
        listing(KIND, self.inside(agent, Call::list_files(KIND, dir)?).await?)
    }

    async fn open_port(&self, agent: &AgentRef, port: u16) -> Result<OpenPort, ProviderError> {
        self.tell_port(&agent.agent, port).await
    }

    async fn destroy(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        self.service().known.forget(self.fingerprint, &agent.agent);
        self.remove_snapshots(&agent.agent, None).await?;
        self.remove_sandboxes(&agent.agent).await
    }

    async fn discard(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        self.service().known.forget(self.fingerprint, &agent.agent);
        self.remove_sandboxes(&agent.agent).await
    }

    async fn checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<Kept, ProviderError> {
        self.make_checkpoint(agent, checkpoint).await
    }

    async fn remove_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<(), ProviderError> {
        self.remove_snapshots(&agent.agent, Some(checkpoint)).await
    }

    async fn restore(
        &self,
        spec: &SandboxSpec,
        environment: &Environment,
        checkpoint: &str,
    ) -> Result<Sandbox, ProviderError> {
        self.restore_sandbox(spec, environment, checkpoint).await
    }

    async fn list_mine(&self) -> Result<Vec<OwnedSandbox>, ProviderError> {
        let ours = [(DEPLOYMENT_LABEL, self.service().deployment.as_str())];
        // A running agent that is missing is taken for lost, so no single list is believed.
        let twice = async {
            let first = self.account.list(&ours).await?;
            tokio::time::sleep(LIST_PAUSE).await;
            Ok((first, self.account.list(&ours).await?))
        };
        let ((first, second), snapshots) = tokio::try_join!(twice, self.named_snapshots(Which::All))?;
        let mut agents: BTreeMap<String, bool> = BTreeMap::new();
        for mut sandbox in first.into_iter().chain(second) {
            if let Some(agent) = sandbox.metadata.remove(AGENT_LABEL) {
                *agents.entry(agent).or_default() |= sandbox.state == "running";
            }
        }
        for agent in snapshots.into_iter().map(|snapshot| snapshot.agent).collect::<BTreeSet<_>>() {
            agents.entry(agent).or_default();
        }
        Ok(agents
            .into_iter()
            .map(|(agent, running)| OwnedSandbox { agent, presence: Presence::by_running(running) })
            .collect())
    }

    async fn health(&self) -> Health {
        let asked = tokio::time::timeout(HEALTH_LIMIT, self.account.check()).await;
        match asked.unwrap_or(Err(ProviderError::TimedOut)) {
            Ok(()) => Health { healthy: true, message: "E2B accepts the API key".into() },
            Err(error) => Health { healthy: false, message: error.to_string() },
        }
    }
}
