//! The Fly adapter: for each agent an app with a network of its own ([`parts`]), and in it a machine with a volume
//! ([`machine`]).
//!
//! Fly's own exec is too small for what agents do, so the image's main process, `theazo-machine`, takes requests over
//! TLS ([`channel`], [`reach`]). It makes its key in memory at each boot. Through the exec call, which only the
//! account's token opens, the adapter tells it the digest of the token that it shall admit, and learns the key's
//! fingerprint; only to that key is anything sent. So nothing secret is in a machine's configuration, Fly's own
//! secrets, an exec's command, or metadata. The environment lies in memory and goes when the machine stops. Machines
//! are never suspended, which would keep it.
//!
//! Requests to an agent's ports come another way ([`ports`]).
//!
//! The adapter keeps no state: an agent's token is derived from the account's, and everything else is asked for.

mod account;
mod channel;
mod checkpoints;
mod failure;
mod machine;
mod parts;
mod ports;
mod presence;
mod reach;

use crate::frame::Frame;
use crate::guest_calls::{self, Call, exec_output, listing, piece, written};
use crate::http::Http;
use crate::known::Known;
use crate::{
    AgentRef, Environment, ExecOutput, ExecRequest, FilePiece, Health, Kept, OpenPort, OwnedSandbox, Presence,
    Provider, ProviderError, ProviderKind, Sandbox, SandboxSpec,
};
use account::Account;
use async_trait::async_trait;
use bytes::Bytes;
use failure::{failed, not_understood};
use futures_util::{StreamExt, TryStreamExt};
use machine::Machine;
use parts::{agent_of, app_name};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reach::Handle;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use theazo_guest_protocol::{FileEntry, Request, WriteAt};
use theazo_vault::SecretValue;

const KIND: ProviderKind = ProviderKind::Fly;
/// What stays as it is in a part of a path or query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// How long writing out and measuring before a pause may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(8);
const HEALTH_LIMIT: Duration = Duration::from_secs(3);
/// How many machines are looked at together.
const AT_ONCE: usize = 8;

/// Where Fly is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlyEndpoints {
    /// The Machines API: scheme and host.
    pub api: String,
    /// Where an app's service for HTTP answers: scheme, host and perhaps port, with `{app}` in the place of the app's name or
    /// `{address}` in that of its address.
    pub app: String,
}

impl FlyEndpoints {
    /// The emulator whose API is there. It has no certificates, and no names: apps are found by their addresses.
    pub fn emulator(api: impl Into<String>) -> Self {
        Self { api: api.into(), app: "http://{address}:443".into() }
    }
}

impl Default for FlyEndpoints {
    /// The public service.
    fn default() -> Self {
        Self { api: "https://api.machines.dev".into(), app: "https://{app}.fly.dev".into() }
    }
}

/// How an account is used. None of it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlySettings {
    /// The organization's slug that apps are made in.
    pub organization: String,
    /// The agent image for machines, in a registry that the organization can pull from.
    pub image: String,
    /// Where agents run that ask for no region; otherwise in the one nearest to the control plane.
    pub region: Option<String>,
}

/// The service: a pooled client, and what it knows of machines. One per process; any number of accounts share it.
pub struct FlyService {
    endpoints: FlyEndpoints,
    deployment: String,
    http: Http,
    known: Known<Handle>,
    regions: Mutex<Option<Arc<Regions>>>,
}

#[derive(Deserialize)]
struct Regions {
    #[serde(default)]
    nearest: String,
    regions: Vec<RegionRow>,
}

#[derive(Deserialize)]
struct RegionRow {
    code: String,
    #[serde(default)]
    deprecated: bool,
}

impl FlyService {
    /// The service for one deployment, whose name all networks that it makes are named after. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] when the machine's certificate authorities cannot be read.
    pub fn new(endpoints: FlyEndpoints, deployment: impl Into<String>) -> Result<Self, ProviderError> {
        let http = Http::new(endpoints.api.starts_with("https:"));
        let http = http.map_err(|error| failed("connect", None, false, error.to_string()))?;
        let (known, regions) = (Known::default(), Mutex::default());
        Ok(Self { endpoints, deployment: deployment.into(), http, known, regions })
    }
}

/// Agents in one account.
pub struct FlyProvider {
    account: Account,
    settings: FlySettings,
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// A short name of a deployment in letters that every name at Fly may have.
fn short(deployment: &str) -> String {
    hex::encode(Sha256::digest(deployment)).chars().take(12).collect()
}

impl FlyProvider {
    /// An adapter for the account of that access token. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] for what can be no token, or an organization that can be none.
    pub fn new(service: Arc<FlyService>, token: &SecretValue, settings: FlySettings) -> Result<Self, ProviderError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if settings.organization.is_empty() || !settings.organization.bytes().all(plain) {
            return Err(failed("organization", None, false, "the organization is no slug"));
        }
        Ok(Self { account: Account::new(service, token)?, settings })
    }

    fn service(&self) -> &FlyService {
        &self.account.service
    }

    /// Where an agent is to run.
    async fn region(&self, spec: &SandboxSpec) -> Result<String, ProviderError> {
        const REGIONS: &str = "list regions";
        let cached = self.service().regions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let regions = match cached {
            Some(regions) => regions,
            None => {
                let found = self.account.get(REGIONS, "/platform/regions").await?;
                let found: Arc<Regions> = Arc::new(found.ok_or_else(|| not_understood(REGIONS))?);
                *self.service().regions.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
                found
            }
        };
        let has = |code: &str| regions.regions.iter().any(|row| row.code == code && !row.deprecated);
        match (&spec.region, &self.settings.region) {
            (Some(asked), _) if has(asked) => Ok(asked.clone()),
            (Some(_), _) => Err(ProviderError::UnknownRegion),
            (None, Some(usual)) if has(usual) => Ok(usual.clone()),
            (None, Some(_)) => Err(failed(REGIONS, None, false, "the configured region is none that Fly has")),
            (None, None) => Ok(regions.nearest.clone()),
        }
    }

    /// Makes all that the agent has at Fly, or finds what is there, and gives the machine running.
    async fn ensure(&self, app: &str, spec: &SandboxSpec) -> Result<Machine, ProviderError> {
        let region = self.region(spec).await?;
        self.ensure_app(app).await?;
        let (volume, (), ()) = tokio::try_join!(
            self.ensure_volume(app, &region),
            self.ensure_address(app),
            self.ensure_policy(app, spec.internet)
        )?;
        let machine = self.ensure_machine(app, volume, spec).await?;
        self.run_alone(app, machine).await
    }

    /// Waits until a machine runs, and removes meanwhile what was made beside what it uses.
    async fn run_alone(&self, app: &str, machine: Machine) -> Result<Machine, ProviderError> {
        let (running, tidied) = tokio::join!(self.run(app, machine.clone()), self.tidy(app, &machine));
        if let Err(error) = tidied {
            // It goes with the app.
            tracing::warn!(app, %error, "more may be left at Fly than the agent uses");
        }
        running
    }

    /// Delivers to a machine that runs.
    async fn boot(
        &self,
        spec: &SandboxSpec,
        app: &str,
        machine: Machine,
        frame: Frame,
    ) -> Result<Sandbox, ProviderError> {
        let handle = self.admit(&spec.agent, app, &machine, Some(spec.lifetime)).await?;
        self.send_to_new("deliver environment", &spec.agent, &handle, &frame).await?;
        self.service().known.keep(self.account.fingerprint, &spec.agent, handle);
        let details = [("isolation", "microvm"), ("app", app), ("machine", &machine.id)];
        let details = details.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Sandbox { region: Some(machine.region.clone()), details: details.collect::<BTreeMap<_, _>>() })
    }

    /// Writes out and measures; a pause does not fail for it.
    async fn farewell(&self, agent: &AgentRef) -> Option<u64> {
        guest_calls::farewell(self, agent, FAREWELL_LIMIT).await
    }
}

/// A lifetime in whole seconds, never shorter than asked.
fn whole_seconds(lifetime: Duration) -> u64 {
    (lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0)).max(1)
}

#[async_trait]
impl Provider for FlyProvider {
    fn kind(&self) -> ProviderKind {
        KIND
    }

    async fn create(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError> {
        // First, so that an environment that cannot be delivered leaves nothing behind.
        let frame = Frame::deliver(KIND, environment)?;
        let app = app_name(&spec.agent)?;
        let machine = self.ensure(&app, spec).await?;
        self.boot(spec, &app, machine, frame).await
    }

    async fn stop(&self, agent: &AgentRef) -> Result<Kept, ProviderError> {
        let app = app_name(&agent.agent)?;
        let machine = self.present(&app).await?;
        let bytes = if machine.runs() { self.farewell(agent).await } else { None };
        self.service().known.forget(self.account.fingerprint, &agent.agent);
        self.halt(&app, machine).await?;
        Ok(Kept { bytes })
    }

    async fn resume(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError> {
        let frame = Frame::deliver(KIND, environment)?;
        let app = app_name(&spec.agent)?;
        self.service().known.forget(self.account.fingerprint, &spec.agent);
        let machine = self.present(&app).await?;
        // What an interrupted resume left runs with another environment.
        let ran = machine.runs();
        let machine = self.run(&app, machine).await?;
        if ran {
            let handle = self.admit(&spec.agent, &app, &machine, Some(spec.lifetime)).await?;
            let kill = Frame::new(KIND, &Request::KillAll, &[])?;
            self.send_to_new("end processes", &spec.agent, &handle, &kill).await?;
        }
        self.boot(spec, &app, machine, frame).await
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
        self.open_way(agent, port).await
    }

    async fn destroy(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        self.service().known.forget(self.account.fingerprint, &agent.agent);
        self.remove(&app_name(&agent.agent)?).await
    }

    /// Stops its machine: looking for one that is not there takes long, and what it keeps on its volume is the agent's own.
    async fn discard(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        match self.stop(agent).await {
            Ok(_) | Err(ProviderError::SandboxGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<Kept, ProviderError> {
        self.make_checkpoint(agent, checkpoint).await
    }

    async fn remove_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<(), ProviderError> {
        self.drop_checkpoint(&app_name(&agent.agent)?, checkpoint).await
    }

    async fn restore(
        &self,
        spec: &SandboxSpec,
        environment: &Environment,
        checkpoint: &str,
    ) -> Result<Sandbox, ProviderError> {
        self.restore_machine(spec, environment, checkpoint).await
    }

    async fn list_mine(&self) -> Result<Vec<OwnedSandbox>, ProviderError> {
        let (apps, machines) = tokio::try_join!(self.apps(), self.all_machines())?;
        let started: BTreeSet<String> =
            machines.into_iter().filter(|listed| listed.state == "started").map(|listed| listed.app_name).collect();
        let looks = apps.into_iter().filter_map(|app| {
            let agent = agent_of(&app, &self.service().deployment)?;
            let seen = started.contains(&app.name);
            Some(async move {
                // The list of all lags behind; that one does not run is believed to the app itself alone, and of one that
                // may be coming up it is not said: whoever asks takes it for lost.
                let running = seen
                    || match self.settled_machines(&app.name).await {
                        Ok(machines) => !machines.iter().all(Machine::has_ended),
                        Err(ProviderError::SandboxGone) => return Ok(None),
                        Err(error) => return Err(error),
                    };
                Ok(Some(OwnedSandbox { agent, presence: Presence::by_running(running) }))
            })
        });
        let found: Vec<Option<OwnedSandbox>> =
            futures_util::stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn health(&self) -> Health {
        let path = format!("/apps?org_slug={}&limit=1", self.settings.organization);
        let asked = self.account.get::<serde::de::IgnoredAny>("check", &path);
        match tokio::time::timeout(HEALTH_LIMIT, asked).await.unwrap_or(Err(ProviderError::TimedOut)) {
            Ok(Some(_)) => Health { healthy: true, message: "Fly accepts the token".into() },
            Ok(None) => Health { healthy: false, message: "there is no such organization at Fly".into() },
            Err(error) => Health { healthy: false, message: error.to_string() },
        }
    }
}
