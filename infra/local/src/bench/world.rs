//! A table and a key service for a benchmark: embedded, in memory, on loopback, with a count of the calls to the
//! key service.

use super::Failure;
use crate::scratch::Throwaway;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use theazo_functions::deployment::{Deployment, DeploymentConfig, ORPHAN_GRACE, prices_from_env};
use theazo_http::StreamLimits;
use theazo_kms_emulator::Emulator;
use theazo_providers::docker::HostRanges;
use theazo_providers::e2b::E2bEndpoints;
use theazo_providers::fly::FlyEndpoints;
use theazo_store::{
    Aws, AwsEndpoints, DEAD_HOST_AFTER, DEFAULT_AUDIT_DAYS, KeyRing, KeyRingConfig, LOG_RETENTION_DAYS, Platforms,
    RateLimits, Table,
};
use theazo_tenancy::{CredentialKey, Mode, Operator, TenantScope};
use tokio::net::TcpListener;

pub(super) const TABLE: &str = "theazo";

/// What the store needs, and one platform.
pub(super) struct World {
    aws: Aws,
    dynamodb_url: String,
    pub(super) table: Table,
    kms_key_arn: String,
    kms_calls: Arc<AtomicUsize>,
    pub(super) scope: TenantScope,
    live_key: String,
    test_key: String,
    credential_key: Arc<CredentialKey>,
    /// Holds the emulator's file.
    _folder: Throwaway,
}

impl World {
    pub(super) async fn start() -> Result<Self, Failure> {
        let folder = Throwaway::make();
        std::fs::create_dir(folder.path())?;
        let engine = dynoxide::Database::memory()?;
        let (listener, dynamodb_url) = listen().await?;
        tokio::spawn(dynoxide::server::serve_with_shutdown(listener, engine, std::future::pending()));
        let emulator = Emulator::open(&folder.path().join("kms.json"))?;
        let kms_key_arn = emulator.ensure_key("alias/theazo")?;
        let (listener, kms) = listen().await?;
        tokio::spawn(emulator.serve(listener, std::future::pending()));
        let (counted, kms_calls) = count_calls(kms).await?;

        let aws = Aws::local(&AwsEndpoints { dynamodb: dynamodb_url.clone(), kms: Some(counted) });
        let credential_key = Arc::new(CredentialKey::make());
        let table = Table::new(&aws, TABLE).with_credential_key(credential_key.clone());
        table.ensure_exists().await?;
        let made = Platforms::new(table.clone(), operator()).create("bench").await?;
        let scope = operator().tenant(&made.platform.id, Mode::Live);
        let (live_key, test_key) = (made.live.text.to_string(), made.test.text.to_string());
        let world = Self {
            aws,
            dynamodb_url,
            table,
            kms_key_arn,
            kms_calls,
            scope,
            live_key,
            test_key,
            credential_key,
            _folder: folder,
        };
        world.cold_keys().ensure_root_key().await?;
        Ok(world)
    }

    /// A key ring with nothing in memory.
    pub(super) fn cold_keys(&self) -> KeyRing {
        let config = KeyRingConfig {
            deployment: "bench".into(),
            kms_key_arn: self.kms_key_arn.clone(),
            cache_ttl: Duration::from_secs(3600),
        };
        KeyRing::new(&self.aws, self.table.clone(), config, &operator())
    }

    /// A deployment over it, which counts nobody's requests.
    pub(super) fn deployment(&self) -> Result<Deployment, Failure> {
        let config = DeploymentConfig {
            name: "bench".into(),
            table: TABLE.into(),
            ledger: None,
            kms_key_arn: self.kms_key_arn.clone(),
            audit_days: DEFAULT_AUDIT_DAYS,
            docker: None,
            docker_ranges: HostRanges::default(),
            e2b: E2bEndpoints::default(),
            fly: FlyEndpoints::default(),
            agent_endpoint: None,
            credential_key: Some(self.credential_key.clone()),
            rate_limits: RateLimits { key: u32::MAX, token: u32::MAX, agent: u32::MAX },
            key_cache: Duration::from_secs(3600),
            log_retention_days: LOG_RETENTION_DAYS,
            dead_host_after: DEAD_HOST_AFTER,
            orphan_grace: ORPHAN_GRACE,
            streams: StreamLimits::default(),
            prices: prices_from_env()?,
            cors_origin: None,
        };
        Ok(Deployment::new(&self.aws, config))
    }

    /// Where the table's engine listens.
    pub(super) fn dynamodb_url(&self) -> &str {
        &self.dynamodb_url
    }

    /// The platform's live key.
    pub(super) fn live_key(&self) -> String {
        self.live_key.clone()
    }

    /// The platform's test key.
    pub(super) fn test_key(&self) -> String {
        self.test_key.clone()
    }

    /// What that key reaches.
    pub(super) fn test_scope(&self) -> TenantScope {
        operator().tenant(self.scope.platform(), Mode::Test)
    }

    /// Calls to the key service so far.
    pub(super) fn kms_calls(&self) -> usize {
        self.kms_calls.load(Ordering::SeqCst)
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark sets up a table of its own, as set-up does")]
fn operator() -> Operator {
    Operator::assume()
}

async fn listen() -> Result<(TcpListener, String), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

#[derive(Clone)]
struct Counter {
    upstream: String,
    http: reqwest::Client,
    calls: Arc<AtomicUsize>,
}

/// Stands before a service and counts the requests to it.
async fn count_calls(upstream: String) -> Result<(String, Arc<AtomicUsize>), Failure> {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Counter { upstream, http: reqwest::Client::builder().no_proxy().build()?, calls: calls.clone() };
    let (listener, url) = listen().await?;
    let router = Router::new().fallback(forward).with_state(counter);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((url, calls))
}

async fn forward(State(counter): State<Counter>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    counter.calls.fetch_add(1, Ordering::SeqCst);
    let answer = async {
        let mut request = counter.http.post(&counter.upstream).body(body);
        for name in ["x-amz-target", "content-type", "authorization", "x-amz-date"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await?;
        let (status, content_type) = (answer.status(), answer.headers().get("content-type").cloned());
        let mut response = Response::new(Body::from(answer.bytes().await?));
        *response.status_mut() = status;
        response.headers_mut().extend(content_type.map(|value| (axum::http::header::CONTENT_TYPE, value)));
        Ok::<_, reqwest::Error>(response)
    };
    answer.await.unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}
