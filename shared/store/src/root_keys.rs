//! Root keys: rows that KMS wraps, unwrapped into memory for a bounded time.
//!
//! A version's row is written once and never changed. The active row is its own ciphertext (by `ReEncrypt`), not a
//! pointer, so that nobody who can merely write to the table can choose which version is used. All columns of a row
//! but the ciphertext are its KMS encryption context, together with the deployment's name: a row that was edited,
//! moved, or copied from another deployment does not unwrap. The layout follows the branch-key store of the AWS
//! Encryption SDK's specification.

use crate::error::code_of;
use crate::table::{Item, number};
use crate::transaction::{Committed, Expression, Transaction};
use crate::{Aws, StoreError, Table, now_ms};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kms::primitives::Blob;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use theazo_tenancy::{Operator, Partition, TableKey};
use theazo_vault::RootKey;
use zeroize::{Zeroize, Zeroizing};

const FIRST_VERSION: u32 = 1;

/// Where root keys are and who wraps them.
#[derive(Clone, Debug)]
pub struct KeyRingConfig {
    /// The deployment's name, bound into every context and every record.
    pub deployment: String,
    /// The KMS key's ARN; never an alias, which could be pointed elsewhere.
    pub kms_key_arn: String,
    /// How long an unwrapped key may be used before KMS is asked again.
    pub cache_ttl: Duration,
}

/// Unwrapped root keys. Only functions that seal or open values hold one.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

struct Inner {
    table: Table,
    kms: aws_sdk_kms::Client,
    config: KeyRingConfig,
    partition: Partition,
    cache: Mutex<HashMap<Slot, Cached>>,
    /// Held while KMS is asked, so that a burst of requests asks once.
    flight: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    Active,
    Version(u32),
}

struct Cached {
    key: Arc<RootKey>,
    /// By the wall clock: a frozen function wakes up with its timers asleep.
    until_ms: i64,
}

/// A row's columns besides the ciphertext.
struct RootRow {
    version: u32,
    created_at_ms: i64,
    kms_key_arn: String,
}

impl Slot {
    fn sort_key(self) -> String {
        match self {
            Self::Active => "active".into(),
            Self::Version(version) => format!("version#{version:010}"),
        }
    }
}

impl RootRow {
    fn context(&self, deployment: &str, slot: Slot) -> HashMap<String, String> {
        HashMap::from([
            ("theazo:purpose".to_owned(), "root-key".to_owned()),
            ("theazo:deployment".to_owned(), deployment.to_owned()),
            ("theazo:row".to_owned(), slot.sort_key()),
            ("theazo:version".to_owned(), self.version.to_string()),
            ("theazo:created-at-ms".to_owned(), self.created_at_ms.to_string()),
            ("theazo:kms-key-arn".to_owned(), self.kms_key_arn.clone()),
        ])
    }

    fn item(&self, key: &TableKey, ciphertext: Blob) -> Item {
        HashMap::from([
            ("pk".to_owned(), AttributeValue::S(key.pk().into())),
            ("sk".to_owned(), AttributeValue::S(key.sk().into())),
            ("version".to_owned(), number(self.version)),
            ("created_at_ms".to_owned(), number(self.created_at_ms)),
            ("kms_key_arn".to_owned(), AttributeValue::S(self.kms_key_arn.clone())),
            ("ciphertext".to_owned(), AttributeValue::B(ciphertext.into_inner().into())),
        ])
    }

    fn parse(item: &Item) -> Option<(Self, Vec<u8>)> {
        let row = Self {
            version: item.get("version")?.as_n().ok()?.parse().ok()?,
            created_at_ms: item.get("created_at_ms")?.as_n().ok()?.parse().ok()?,
            kms_key_arn: item.get("kms_key_arn")?.as_s().ok()?.clone(),
        };
        Some((row, item.get("ciphertext")?.as_b().ok()?.as_ref().to_vec()))
    }
}

impl KeyRing {
    /// The key ring of a deployment. Nothing is fetched until a key is needed.
    pub fn new(aws: &Aws, table: Table, config: KeyRingConfig, operator: &Operator) -> Self {
        Self(Arc::new(Inner {
            table,
            kms: aws.kms.clone(),
            config,
            partition: operator.root_keys(),
            cache: Mutex::default(),
            flight: tokio::sync::Mutex::default(),
        }))
    }

    /// The deployment's name.
    pub fn deployment(&self) -> &str {
        &self.0.config.deployment
    }

    /// The root key to seal with.
    ///
    /// # Errors
    /// [`StoreError::NoRootKey`]; [`StoreError::Kms`] when KMS refuses or does not answer: the vault stays closed.
    pub async fn active(&self) -> Result<Arc<RootKey>, StoreError> {
        self.get(Slot::Active).await
    }

    /// The root key that a record names.
    ///
    /// # Errors
    /// As [`KeyRing::active`].
    pub async fn version(&self, version: u32) -> Result<Arc<RootKey>, StoreError> {
        self.get(Slot::Version(version)).await
    }

    /// Makes the deployment's first root key, unless there is one. The plaintext never leaves KMS here.
    ///
    /// # Errors
    /// [`StoreError::Kms`] or [`StoreError::Table`] when a service refuses.
    pub async fn ensure_root_key(&self) -> Result<(), StoreError> {
        let inner = &*self.0;
        if inner.row(Slot::Active).await?.is_some() {
            return Ok(());
        }
        let arn = &inner.config.kms_key_arn;
        let row = RootRow { version: FIRST_VERSION, created_at_ms: now_ms(), kms_key_arn: arn.clone() };
        let version_slot = Slot::Version(FIRST_VERSION);
        let version_context = row.context(&inner.config.deployment, version_slot);
        let generated = inner
            .kms
            .generate_data_key_without_plaintext()
            .key_id(arn)
            .number_of_bytes(32)
            .set_encryption_context(Some(version_context.clone()))
            .send()
            .await
            .map_err(|error| kms_error("GenerateDataKeyWithoutPlaintext", code_of(&error)))?;
        let wrapped =
            generated.ciphertext_blob.ok_or_else(|| kms_error("GenerateDataKeyWithoutPlaintext", "no key".into()))?;
        let again = inner
            .kms
            .re_encrypt()
            .ciphertext_blob(wrapped.clone())
            .source_key_id(arn)
            .set_source_encryption_context(Some(version_context))
            .destination_key_id(arn)
            .set_destination_encryption_context(Some(row.context(&inner.config.deployment, Slot::Active)))
            .send()
            .await
            .map_err(|error| kms_error("ReEncrypt", code_of(&error)))?;
        let active = again.ciphertext_blob.ok_or_else(|| kms_error("ReEncrypt", "no key".into()))?;
        let absent = || Expression::new("attribute_not_exists(pk)");
        let transaction = Transaction::default()
            .put_item(&inner.table, row.item(&inner.key(version_slot), wrapped), absent())
            .put_item(&inner.table, row.item(&inner.key(Slot::Active), active), absent());
        match transaction.commit(&inner.table).await? {
            // Refused: someone else made it meanwhile, which is just as good.
            Committed::Yes | Committed::Refused { .. } => Ok(()),
        }
    }

    async fn get(&self, slot: Slot) -> Result<Arc<RootKey>, StoreError> {
        if let Some(key) = self.0.cached(slot) {
            return Ok(key);
        }
        let _flight = self.0.flight.lock().await;
        if let Some(key) = self.0.cached(slot) {
            return Ok(key);
        }
        let key = self.0.fetch(slot).await?;
        self.0.remember(slot, &key);
        Ok(key)
    }
}

impl Inner {
    fn key(&self, slot: Slot) -> TableKey {
        self.partition.row(&slot.sort_key())
    }

    async fn row(&self, slot: Slot) -> Result<Option<Item>, StoreError> {
        self.table.get_raw(&self.key(slot)).await
    }

    fn cached(&self, slot: Slot) -> Option<Arc<RootKey>> {
        let mut cache = self.cache.lock().ok()?;
        let now = now_ms();
        // A clock that was set back must not keep keys for longer than their life from now.
        let longest = now.saturating_add(ttl_ms(&self.config));
        cache.retain(|_, cached| now < cached.until_ms && cached.until_ms <= longest);
        cache.get(&slot).map(|cached| cached.key.clone())
    }

    fn remember(&self, slot: Slot, key: &Arc<RootKey>) {
        if let Ok(mut cache) = self.cache.lock() {
            let until_ms = now_ms().saturating_add(ttl_ms(&self.config));
            cache.insert(slot, Cached { key: key.clone(), until_ms });
            cache.insert(Slot::Version(key.version()), Cached { key: key.clone(), until_ms });
        }
    }

    async fn fetch(&self, slot: Slot) -> Result<Arc<RootKey>, StoreError> {
        let item = self.row(slot).await?.ok_or(StoreError::NoRootKey)?;
        let (row, ciphertext) = RootRow::parse(&item).ok_or(StoreError::Corrupt("a root key's row"))?;
        if row.kms_key_arn != self.config.kms_key_arn {
            return Err(StoreError::Corrupt("a root key's row names another KMS key"));
        }
        if let Slot::Version(version) = slot
            && version != row.version
        {
            return Err(StoreError::Corrupt("a root key's row is of another version"));
        }
        let mut answer = self
            .kms
            .decrypt()
            .key_id(&self.config.kms_key_arn)
            .ciphertext_blob(Blob::new(ciphertext))
            .set_encryption_context(Some(row.context(&self.config.deployment, slot)))
            .send()
            .await
            .map_err(|error| kms_error("Decrypt", code_of(&error)))?;
        let mut plaintext = answer.plaintext.take().ok_or_else(|| kms_error("Decrypt", "no key".into()))?.into_inner();
        let key = <[u8; 32]>::try_from(plaintext.as_slice()).map(Zeroizing::new);
        plaintext.zeroize();
        let key = key.map_err(|_| StoreError::Corrupt("a root key of the wrong length"))?;
        Ok(Arc::new(RootKey::from_bytes(row.version, key)))
    }
}

fn ttl_ms(config: &KeyRingConfig) -> i64 {
    i64::try_from(config.cache_ttl.as_millis()).unwrap_or(i64::MAX)
}

fn kms_error(operation: &'static str, code: String) -> StoreError {
    tracing::error!(operation, code, "the key service refused");
    StoreError::Kms { operation, code }
}
