//! A table and a key service of a test's own, tenants in it, and a way to a row behind the store's back.

use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use theazo_kms_emulator::Emulator;
use theazo_store::{
    Agents, Aws, AwsEndpoints, KeyRing, KeyRingConfig, NewSecret, NewSession, Platforms, ProviderConfigs, SecretName,
    SecretNames, SecretOpener, SecretSealer, SecretSelection, SecretTarget, Session, Sessions, StoreError, Table, Work,
    now_ms,
};
use theazo_tenancy::{CredentialKey, Mode, Operator, PlatformId, SessionId, TableKey, TenantScope};
use theazo_vault::SecretValue;
use tokio::net::TcpListener;

pub type Item = HashMap<String, AttributeValue>;

pub const DEPLOYMENT: &str = "test";
const TABLE: &str = "theazo";
/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);

pub struct World {
    pub dynamodb_url: String,
    pub kms_url: String,
    pub kms_key_arn: String,
    pub engine: dynoxide::Database,
    pub raw: aws_sdk_dynamodb::Client,
    pub kms: aws_sdk_kms::Client,
    pub table: Table,
    pub keys: KeyRing,
    _folder: Folder,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[expect(clippy::disallowed_methods, reason = "tests take every part")]
pub fn operator() -> Operator {
    Operator::assume()
}

impl World {
    /// A table with a root key.
    pub async fn start() -> Self {
        let world = Self::without_root_key().await;
        world.keys.ensure_root_key().await.unwrap();
        world
    }

    pub async fn without_root_key() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Folder(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        std::fs::create_dir_all(&folder.0).unwrap();

        let engine = dynoxide::Database::memory().unwrap();
        let (listener, dynamodb_url) = listen().await;
        tokio::spawn(dynoxide::server::serve_with_shutdown(listener, engine.clone(), std::future::pending()));
        let emulator = Emulator::open(&folder.0.join("kms.json")).unwrap();
        let kms_key_arn = emulator.ensure_key("alias/theazo").unwrap();
        let (listener, kms_url) = listen().await;
        tokio::spawn(emulator.serve(listener, std::future::pending()));

        let aws = aws(&dynamodb_url, &kms_url);
        let table = Table::new(&aws, TABLE).with_credential_key(credential_key());
        table.ensure_exists().await.unwrap();
        let (raw, kms) = raw_clients(&dynamodb_url, &kms_url);
        let keys = key_ring(&aws, &table, DEPLOYMENT, &kms_key_arn, HOUR);
        Self { dynamodb_url, kms_url, kms_key_arn, engine, raw, kms, table, keys, _folder: folder }
    }

    /// A key ring with nothing in memory.
    pub fn cold_keys(&self, ttl: Duration) -> KeyRing {
        let aws = aws(&self.dynamodb_url, &self.kms_url);
        key_ring(&aws, &self.table, DEPLOYMENT, &self.kms_key_arn, ttl)
    }

    pub async fn platform(&self) -> PlatformId {
        Platforms::new(self.table.clone(), operator()).create("a platform").await.unwrap().platform.id
    }

    /// The live scope of a new platform.
    pub async fn tenant(&self) -> TenantScope {
        operator().tenant(&self.platform().await, Mode::Live)
    }

    pub async fn session(&self, scope: &TenantScope) -> Session {
        self.sessions().create(scope, &NewSession::default()).await.unwrap()
    }

    pub fn sessions(&self) -> Sessions {
        Sessions::new(self.table.clone())
    }

    pub fn agents(&self) -> Agents {
        Agents::new(self.table.clone())
    }

    pub fn work(&self) -> Work {
        Work::new(self.table.clone(), operator())
    }

    pub fn names(&self) -> SecretNames {
        SecretNames::new(self.table.clone())
    }

    pub fn sealer(&self) -> SecretSealer {
        SecretSealer::new(self.table.clone(), self.keys.clone())
    }

    pub fn opener(&self) -> SecretOpener {
        SecretOpener::new(self.table.clone(), self.keys.clone())
    }

    pub async fn set(
        &self,
        scope: &TenantScope,
        target: &SecretTarget,
        secrets: &[NewSecret],
    ) -> Result<(), StoreError> {
        let sealer = self.sealer();
        let read = sealer.load(scope, target).await?;
        sealer.set(scope, target, read, secrets).await
    }

    /// Removes a provider's configuration, as it is done when no agent has anything there.
    pub async fn remove_provider(&self, scope: &TenantScope, provider: &str) {
        let configs = ProviderConfigs::new(self.table.clone());
        let closed = configs.close(scope, provider).await.unwrap();
        configs.remove(scope, &closed).await.unwrap();
    }

    pub async fn delete(&self, scope: &TenantScope, target: &SecretTarget, name: &str) -> Result<(), StoreError> {
        let sealer = self.sealer();
        let read = sealer.load(scope, target).await?;
        sealer.delete(scope, target, read, name).await
    }

    /// What an agent of that session would get now.
    pub async fn delivered(&self, scope: &TenantScope, session: &SessionId) -> Result<Delivered, StoreError> {
        self.delivered_of(scope, session, &SecretSelection::All).await
    }

    pub async fn delivered_of(
        &self,
        scope: &TenantScope,
        session: &SessionId,
        selection: &SecretSelection,
    ) -> Result<Delivered, StoreError> {
        let opener = self.opener();
        let sealed = opener.load(scope, session).await?;
        let opened = opener.open(scope, &sealed, selection, now_ms()).await?;
        let text = |value: &SecretValue| String::from_utf8(value.expose().to_vec()).unwrap();
        Ok(opened.into_iter().map(|secret| (secret.booted.name, text(&secret.value))).collect())
    }

    /// Names and versions of a scope.
    pub async fn versions(&self, scope: &TenantScope, target: &SecretTarget) -> BTreeMap<String, u64> {
        let names = self.names().load(scope, target).await.unwrap();
        names.entries().map(|(name, entry)| (name.to_owned(), entry.version)).collect()
    }

    pub async fn row(&self, key: &TableKey) -> Option<Item> {
        let answer = self.raw.get_item().table_name(TABLE).set_key(Some(key_item(key))).send().await.unwrap();
        answer.item
    }

    /// Puts columns under a key, whatever key they had.
    pub async fn put(&self, key: &TableKey, mut columns: Item) {
        columns.extend(key_item(key));
        self.raw.put_item().table_name(TABLE).set_item(Some(columns)).send().await.unwrap();
    }

    pub async fn remove(&self, key: &TableKey) {
        self.raw.delete_item().table_name(TABLE).set_key(Some(key_item(key))).send().await.unwrap();
    }

    /// Every row, sorted by key.
    pub async fn scan(&self) -> Vec<Item> {
        let pages = self.raw.scan().table_name(TABLE).into_paginator().items().send();
        let mut rows = pages.collect::<Result<Vec<_>, _>>().await.unwrap();
        rows.sort_by_key(|row| (row["pk"].as_s().unwrap().clone(), row["sk"].as_s().unwrap().clone()));
        rows
    }

    /// Makes the table what it was when it was scanned.
    pub async fn put_back(&self, rows: &[Item]) {
        let key = |row: &Item| Item::from(["pk", "sk"].map(|name| (name.to_owned(), row[name].clone())));
        for row in self.scan().await.iter().map(key).filter(|now| !rows.iter().any(|row| key(row) == *now)) {
            self.raw.delete_item().table_name(TABLE).set_key(Some(row)).send().await.unwrap();
        }
        for row in rows {
            self.raw.put_item().table_name(TABLE).set_item(Some(row.clone())).send().await.unwrap();
        }
    }

    /// The same without the audit trail, which grows with every change.
    pub async fn scan_without_audit(&self) -> Vec<Item> {
        let mut rows = self.scan().await;
        rows.retain(|row| !row["pk"].as_s().unwrap().contains("#audit#"));
        rows
    }
}

pub type Delivered = BTreeMap<String, String>;

pub fn pairs(pairs: &[(&str, &str)]) -> Delivered {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn name(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

/// A secret as most are: masked, inherited, for ever.
pub fn secret(text: &str, value: &str) -> NewSecret {
    let value = SecretValue::from_text(value.to_owned());
    NewSecret { name: name(text), value, expires_at_ms: None, mask: true, inherit: true }
}

pub fn own(session: &Session) -> SecretTarget {
    SecretTarget::Session(session.id.clone())
}

/// The error of something that must not succeed, where success is not to be printed.
pub fn refused<T>(outcome: Result<T, StoreError>) -> StoreError {
    match outcome {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error,
    }
}

pub fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub fn aws(dynamodb: &str, kms: &str) -> Aws {
    Aws::local(&AwsEndpoints { dynamodb: dynamodb.to_owned(), kms: Some(kms.to_owned()) })
}

pub fn key_ring(aws: &Aws, table: &Table, deployment: &str, arn: &str, ttl: Duration) -> KeyRing {
    let config = KeyRingConfig { deployment: deployment.into(), kms_key_arn: arn.into(), cache_ttl: ttl };
    KeyRing::new(aws, table.clone(), config, &operator())
}

fn key_item(key: &TableKey) -> Item {
    HashMap::from([("pk".to_owned(), text(key.pk())), ("sk".to_owned(), text(key.sk()))])
}

/// The same for every table, so that one can take another's place.
pub fn credential_key() -> Arc<CredentialKey> {
    Arc::new(CredentialKey::parse(&"5a".repeat(32)).unwrap())
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// The SDK's own clients, configured here, not by the store.
fn raw_clients(dynamodb: &str, kms: &str) -> (aws_sdk_dynamodb::Client, aws_sdk_kms::Client) {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let credentials = aws_sdk_kms::config::Credentials::new("test", "test", None, None, "test");
    let region = aws_sdk_kms::config::Region::new("us-east-1");
    let dynamodb = aws_sdk_dynamodb::Config::builder()
        .behavior_version_latest()
        .region(region.clone())
        .credentials_provider(credentials.clone())
        .endpoint_url(dynamodb)
        .http_client(http.clone());
    let kms = aws_sdk_kms::Config::builder()
        .behavior_version_latest()
        .region(region)
        .credentials_provider(credentials)
        .endpoint_url(kms)
        .http_client(http);
    (aws_sdk_dynamodb::Client::from_conf(dynamodb.build()), aws_sdk_kms::Client::from_conf(kms.build()))
}
