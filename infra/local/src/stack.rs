//! Putting the stack together, and taking it down.

use crate::data_dir::{DataDir, DataDirError};
use crate::door::Door;
use crate::server::{self, Audience};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use theazo_functions::deployment::{
    ConfigError, Deployment, DeploymentConfig, DockerEngine, ORPHAN_GRACE, audit_days_from_env, cors_origin_from_env,
    dead_host_after_from_env, key_cache_from_env, log_retention_from_env, prices_from_env, stream_limits_from_env,
};
use theazo_functions::reconcile::{Boots, Outcome, reconcile};
use theazo_functions::routes::ROUTES;
use theazo_functions::upkeep::{Rotated, advance_rotations};
use theazo_http::ApiError;
use theazo_kms_emulator::{Emulator, EmulatorError};
use theazo_providers::docker::HostRanges;
use theazo_providers::e2b::E2bEndpoints;
use theazo_providers::fly::FlyEndpoints;
use theazo_store::{Aws, AwsEndpoints, PageRequest, Platforms, RateLimits, StoreError, Table};
use theazo_tenancy::{CredentialKey, Mode, Operator, PlatformId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// The table's name in every local stack; also the operator's command line's default.
const TABLE: &str = "theazo";
const PLATFORM: &str = "local";
const KMS_ALIAS: &str = "alias/theazo";
/// How long running requests may take to finish when the stack is stopped.
const DRAIN: Duration = Duration::from_secs(10);

/// How a stack is to run.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Where all state is.
    pub data_dir: PathBuf,
    /// Where the API listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the embedded table listens. Port 0 takes a free one.
    pub dynamodb_listen: SocketAddr,
    /// The Docker engine with the agent image; without one, agents cannot be made.
    pub docker: Option<DockerEngine>,
    /// Where E2B is, for platforms that have configured it.
    pub e2b: E2bEndpoints,
    /// Where Fly is, for platforms that have configured it.
    pub fly: FlyEndpoints,
    /// How long keys of the vault are kept in memory; otherwise as the environment says, like a function's.
    pub key_cache: Option<Duration>,
    /// How long a host of a platform's may be silent before its agents have failed; otherwise as the environment says.
    pub dead_host_after: Option<Duration>,
    /// How long something at a provider is without an owner before it is removed.
    pub orphan_grace: Duration,
    /// How many requests a credential may make in a second.
    pub rate_limits: RateLimits,
    /// How long it rests between one run of what AWS does on a schedule and the next.
    pub reconcile_every: Duration,
}

impl StackConfig {
    /// A stack on free ports of the loopback address, for whoever started it, without an engine.
    pub fn on_loopback(data_dir: PathBuf) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir,
            listen: loopback,
            dynamodb_listen: loopback,
            docker: None,
            e2b: E2bEndpoints::default(),
            fly: FlyEndpoints::default(),
            key_cache: None,
            dead_host_after: None,
            orphan_grace: ORPHAN_GRACE,
            rate_limits: RateLimits::default(),
            reconcile_every: Duration::from_secs(30),
        }
    }
}

/// A running stack.
pub struct Stack {
    address: SocketAddr,
    dynamodb: SocketAddr,
    kms: SocketAddr,
    deployment: Arc<Deployment>,
    data_dir: DataDir,
    front: Parts,
    back: Parts,
    settled: Outcome,
}

/// What stops together: the API and the clean-up in front, and behind them the services that both need to the end.
struct Parts {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Parts {
    fn new() -> Self {
        Self { stop: watch::channel(false).0, tasks: Vec::new() }
    }

    /// Resolves when these parts are told to stop.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.subscribe();
        async move {
            // An error means that the stack itself is gone, which is as good a reason.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    fn spawn(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(part));
    }

    /// Tells them to stop, and waits for a while until they have.
    async fn stop(self) {
        let _ = self.stop.send(true);
        for task in self.tasks {
            if tokio::time::timeout(DRAIN, task).await.is_err() {
                tracing::warn!("a part of the stack did not stop in time");
            }
        }
    }
}

/// The stack cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Its folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// An address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The embedded table.
    #[error("the embedded table cannot be opened: {0}")]
    Table(String),
    /// The key service emulator.
    #[error("the key service emulator cannot be opened: {0}")]
    Kms(#[from] EmulatorError),
    /// Set-up of the table's content.
    #[error("the table cannot be set up: {0}")]
    Store(#[from] StoreError),
    /// The deployment's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What an earlier run left unfinished could not be looked at.
    #[error("unfinished work of an earlier run cannot be settled")]
    Reconcile(ApiError),
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StackError> {
    let fail = |source| StackError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// The table in that file. What was written outlives this process however it ends; the machine's own crash may take the last
/// moments along, and nothing before them. Waiting for the disk at every write instead costs seven of eight.
///
/// That is what the engine calls the end of bulk loading: <https://sqlite.org/pragma.html#pragma_synchronous> `NORMAL`, with
/// the write-ahead log that it keeps anyway.
fn open_table(file: &str) -> dynoxide::Result<dynoxide::Database> {
    let engine = dynoxide::Database::new(file)?;
    engine.disable_bulk_loading()?;
    Ok(engine)
}

impl Stack {
    /// Starts everything, settles what an earlier run left unfinished, and only then takes requests.
    ///
    /// # Errors
    /// [`StackError`] with the part that cannot start.
    pub async fn start(config: StackConfig) -> Result<Self, StackError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let (mut front, mut back) = (Parts::new(), Parts::new());

        let (dynamodb_listener, dynamodb) = listen(config.dynamodb_listen).await?;
        let file = data_dir.file("table.sqlite");
        let file = file.to_str().ok_or_else(|| StackError::Table("its path is not UTF-8".into()))?;
        let engine = open_table(file).map_err(|error| StackError::Table(error.to_string()))?;
        let serving = dynoxide::server::serve_with_shutdown(dynamodb_listener, engine.clone(), back.stopped());
        back.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(error, "the embedded table stopped");
            }
        });

        let (kms_listener, kms) = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let emulator = Emulator::open(&data_dir.file("kms.json"))?;
        let kms_key_arn = emulator.ensure_key(KMS_ALIAS)?;
        let serving = emulator.serve(kms_listener, back.stopped());
        back.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the key service emulator stopped");
            }
        });

        let aws =
            Aws::local(&AwsEndpoints { dynamodb: format!("http://{dynamodb}"), kms: Some(format!("http://{kms}")) });
        let (credential_key, is_new_key) = credential_key(&data_dir)?;
        // Only agents on an engine of this machine's can come here.
        let door = if config.docker.is_some() { Door::open(&data_dir).await? } else { None };
        let config_of = DeploymentConfig {
            agent_endpoint: door.as_ref().map(Door::endpoint),
            credential_key: Some(Arc::new(credential_key)),
            rate_limits: config.rate_limits,
            name: deployment_name(&data_dir)?,
            table: TABLE.into(),
            ledger: None,
            kms_key_arn,
            docker: config.docker,
            // Whoever runs a stack is who names hosts to it, and has them close by.
            docker_ranges: HostRanges::private(),
            e2b: config.e2b,
            fly: config.fly,
            audit_days: audit_days_from_env()?,
            key_cache: config.key_cache.map_or_else(key_cache_from_env, Ok)?,
            log_retention_days: log_retention_from_env()?,
            dead_host_after: config.dead_host_after.map_or_else(dead_host_after_from_env, Ok)?,
            orphan_grace: config.orphan_grace,
            streams: stream_limits_from_env()?,
            prices: prices_from_env()?,
            cors_origin: cors_origin_from_env()?,
        };
        let deployment = Arc::new(Deployment::new(&aws, config_of));
        deployment.table().ensure_exists().await?;
        deployment.keys().ensure_root_key().await?;
        ensure_platform(&data_dir, deployment.table(), is_new_key).await?;
        let settled = reconcile(&deployment, Boots::Impossible).await.map_err(StackError::Reconcile)?;

        let environment = lambda_environment(&deployment, dynamodb, kms);
        data_dir.write("lambda.env", &environment.join("\n"))?;

        let (listener, address) = listen(config.listen).await?;
        let everyone = Audience { routes: ROUTES.to_vec(), admits: |_| true };
        let serving = server::run(listener, deployment.clone(), everyone, front.stopped());
        front.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the API stopped");
            }
        });
        if let Some(door) = door {
            front.spawn(door.serve(deployment.clone(), front.stopped()));
        }
        front.spawn(reconcile_often(deployment.clone(), engine, config.reconcile_every, front.stopped()));
        Ok(Self { address, dynamodb, kms, deployment, data_dir, front, back, settled })
    }

    /// `http://address:port`, without `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where DynamoDB tools find the table.
    pub fn dynamodb_url(&self) -> String {
        format!("http://{}", self.dynamodb)
    }

    /// Where the key service emulator listens.
    pub fn kms_url(&self) -> String {
        format!("http://{}", self.kms)
    }

    /// The deployment behind the API.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// The folder with all state.
    pub fn data_dir(&self) -> &DataDir {
        &self.data_dir
    }

    /// What an earlier run had left unfinished.
    pub fn settled(&self) -> Outcome {
        self.settled
    }

    /// Stops taking requests, lets running ones finish for a while, and takes everything down.
    pub async fn stop(self) {
        self.front.stop().await;
        if tokio::time::timeout(DRAIN, self.deployment.log_queue().written()).await.is_err() {
            tracing::warn!("log entries were not written in time");
        }
        self.back.stop().await;
    }
}

/// What a Lambda binary needs to run against this stack, as `cargo lambda watch --env-file` reads it.
fn lambda_environment(deployment: &Deployment, dynamodb: SocketAddr, kms: SocketAddr) -> Vec<String> {
    let services = [
        ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{dynamodb}")),
        ("AWS_ENDPOINT_URL_KMS", format!("http://{kms}")),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "local".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ];
    let variables = services.into_iter().chain(deployment.config().to_env());
    variables.map(|(name, value)| format!("{name}={value}")).collect()
}

/// What AWS does on a schedule in production: reconciling, and dropping rows whose time is over.
async fn reconcile_often(
    deployment: Arc<Deployment>,
    engine: dynoxide::Database,
    every: Duration,
    stopped: impl Future<Output = ()>,
) {
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(every) => {}
        }
        if let Err(error) = engine.sweep_ttl() {
            tracing::error!(%error, "expired rows could not be dropped");
        }
        match reconcile(&deployment, Boots::UnderWay).await {
            Ok(outcome) if outcome == Outcome::default() => {}
            Ok(outcome) => tracing::info!(?outcome, "reconciled"),
            Err(error) => tracing::error!(?error, "reconciling failed"),
        }
        match advance_rotations(&deployment).await {
            Ok(rotated) if rotated == Rotated::default() => {}
            Ok(rotated) => tracing::info!(?rotated, "went on with a rotation"),
            Err(error) => tracing::error!(%error, "a rotation could not go on"),
        }
    }
}

/// A stack's own name, made once: sandboxes are labelled with it, so that stacks can share an engine.
fn deployment_name(data_dir: &DataDir) -> Result<String, StackError> {
    const FILE: &str = "deployment";
    if let Some(name) = data_dir.read(FILE)? {
        return Ok(name);
    }
    let name = format!("local-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
    data_dir.write(FILE, &name)?;
    Ok(name)
}

/// The key that credentials are sealed with, made once; and whether that was now.
fn credential_key(data_dir: &DataDir) -> Result<(CredentialKey, bool), StackError> {
    const FILE: &str = "credential-key";
    if let Some(text) = data_dir.read(FILE)?.map(Zeroizing::new) {
        return Ok((CredentialKey::parse(&text).ok_or(ConfigError::NotAKey(FILE))?, false));
    }
    let key = CredentialKey::make();
    data_dir.write(FILE, &key.to_text())?;
    Ok((key, true))
}

/// Makes the platform `local` once, and writes keys of it where there are none that are good.
async fn ensure_platform(data_dir: &DataDir, table: &Table, is_new_key: bool) -> Result<(), StackError> {
    const KEYS: [(&str, Mode); 2] = [("api-key", Mode::Live), ("test-api-key", Mode::Test)];
    let mut missing = Vec::new();
    for (file, mode) in KEYS {
        // Whatever was sealed with a key that is lost is refused.
        if is_new_key || data_dir.read(file)?.is_none() {
            missing.push((file, mode));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    #[expect(clippy::disallowed_methods, reason = "the stack makes its own first platform")]
    let platforms = Platforms::new(table.clone(), Operator::assume());
    match find_platform(&platforms).await? {
        None => {
            let made = platforms.create(PLATFORM).await?;
            data_dir.write("api-key", &made.live.text)?;
            data_dir.write("test-api-key", &made.test.text)?;
        }
        Some(platform) => {
            for (file, mode) in missing {
                let (_, key) = platforms.create_key(&platform, mode, "local stack").await?;
                data_dir.write(file, &key.text)?;
            }
        }
    }
    Ok(())
}

async fn find_platform(platforms: &Platforms) -> Result<Option<PlatformId>, StackError> {
    let mut page = PageRequest { limit: 100, after: None };
    loop {
        let found = platforms.list(&page).await?;
        if let Some(platform) = found.rows.iter().find(|platform| platform.name == PLATFORM) {
            return Ok(Some(platform.id.clone()));
        }
        match found.next {
            Some(next) => page.after = Some(next),
            None => return Ok(None),
        }
    }
}
