//! Root keys: rows that KMS wraps, unwrapped into memory for a bounded time, and the platforms' keys derived from them.
//!
//! A version's row is written once and never changed. The active row is its own ciphertext (by `ReEncrypt`), not a
//! pointer, so that nobody who can merely write to the table can choose which version is used. All columns of a row
//! but the ciphertext are its KMS encryption context, together with the deployment's name: a row that was edited,
//! moved, or copied from another deployment does not unwrap. The layout follows the branch-key store of the AWS
//! Encryption SDK's specification.
//!
//! - `rows` is what lies in the table, and what KMS is asked about it.
//! - `cache` keeps keys in memory.

mod cache;
mod rows;

pub(crate) use rows::{RootRow, Slot};

use crate::aws::{Client, Kms};
use crate::platforms::PlatformRow;
use crate::transaction::{Committed, Expression, Transaction};
use crate::{Aws, StoreError, Table, now_ms};
use cache::{Cache, Kept};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use theazo_tenancy::{Operator, Partition, PlatformId};
use theazo_vault::{PlatformKey, RecordHeader, RootKey, VaultError};

/// The version of a deployment's first root key.
pub(crate) const FIRST_VERSION: u32 = 1;

/// Root keys in memory at most: the active one and, of rotations, the versions that records still name.
const MAX_ROOTS: usize = 16;
/// Platforms' keys in memory at most. One instance never holds every platform's.
const MAX_PLATFORMS: usize = 256;
/// How much earlier than other keys the active one is asked for again, at most: what is sealed with a key from memory
/// is written within a cache life of when the active row was read, the time of the request that writes it included.
const WRITING_MS: i64 = 30_000;

/// Whether a text is the ARN of a KMS key, as in `arn:aws:kms:eu-central-1:111122223333:key/<id>`
/// (<https://docs.aws.amazon.com/service-authorization/latest/reference/list_awskeymanagementservice.html>). An alias is
/// none: whoever may move it chooses the key that root keys are unwrapped with.
pub fn is_kms_key_arn(text: &str) -> bool {
    let plain = |text: &str| {
        !text.is_empty() && text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let parts: Vec<&str> = text.split(':').collect();
    let &["arn", partition, "kms", region, account, resource] = &parts[..] else { return false };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    plain(partition) && plain(region) && is_account && resource.strip_prefix("key/").is_some_and(plain)
}

/// Where root keys are and who wraps them.
#[derive(Clone, Debug)]
pub struct KeyRingConfig {
    /// The deployment's name, bound into every context and every record.
    pub deployment: String,
    /// The KMS key's ARN; never an alias, which could be pointed elsewhere.
    pub kms_key_arn: String,
    /// How long an unwrapped key may be used before KMS is asked again: a cache life.
    pub cache_ttl: Duration,
}

/// The keys of one deployment. Only functions that seal or open values hold one.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

pub(crate) struct Inner {
    table: Table,
    kms: Client<Kms>,
    config: KeyRingConfig,
    partition: Partition,
    cache: Mutex<Keys>,
    /// Held while KMS is asked, so that a burst of requests asks once; with what came of the last flight if it failed.
    flight: tokio::sync::Mutex<Option<Failure>>,
}

/// A flight that failed, for those who waited for it: each asking in its turn would keep the last of them waiting for as
/// long as all their timeouts together.
struct Failure {
    slot: Slot,
    ended: Instant,
    error: StoreError,
}

/// What is in memory. A ring is of one deployment, so its name is in no entry's.
struct Keys {
    roots: Cache<Slot, RootKey>,
    platforms: Cache<PlatformSlot, PlatformKey>,
}

/// Everything that a platform's key is derived from: an edited salt leads to another entry.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PlatformSlot {
    platform: PlatformId,
    root_version: u32,
    key_version: u32,
    salt: [u8; 32],
}

impl PlatformSlot {
    fn derive(&self, root: &RootKey) -> PlatformKey {
        root.derive_platform_key(self.platform.as_str(), &self.salt, self.key_version)
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
            cache: Mutex::new(Keys { roots: Cache::new(MAX_ROOTS), platforms: Cache::new(MAX_PLATFORMS) }),
            flight: tokio::sync::Mutex::default(),
        }))
    }

    /// The deployment's name.
    pub fn deployment(&self) -> &str {
        &self.0.config.deployment
    }

    /// How long a key may be used before KMS is asked again.
    pub fn cache_ttl(&self) -> Duration {
        self.0.config.cache_ttl
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// The root key to seal with.
    ///
    /// # Errors
    /// [`StoreError::NoRootKey`]; [`StoreError::Kms`] when KMS refuses or does not answer: the vault stays closed.
    pub async fn active(&self) -> Result<Arc<RootKey>, StoreError> {
        Ok(self.root(Slot::Active).await?.key)
    }

    /// The root key that a record names.
    ///
    /// # Errors
    /// As [`KeyRing::active`].
    pub async fn version(&self, version: u32) -> Result<Arc<RootKey>, StoreError> {
        Ok(self.root(Slot::Version(version)).await?.key)
    }

    /// The key that a platform's values are sealed with now.
    pub(crate) async fn sealing_key(&self, platform: &PlatformRow) -> Result<Arc<PlatformKey>, StoreError> {
        let root = self.root(Slot::Active).await?;
        Ok(self.derived(current_slot(platform, root.key.version()), &root))
    }

    /// The same under a root key that the caller has chosen, for sealing anew.
    pub(crate) async fn sealing_key_of(
        &self,
        platform: &PlatformRow,
        root_version: u32,
    ) -> Result<Arc<PlatformKey>, StoreError> {
        self.platform_key(current_slot(platform, root_version)).await
    }

    /// The key that a platform's record names.
    ///
    /// # Errors
    /// As [`KeyRing::active`]; [`VaultError::WrongKeyVersion`] when the platform's row knows no such version. Whoever
    /// read record and row a moment ago reads them again (see [`is_out_of_date`]).
    pub(crate) async fn opening_key(
        &self,
        platform: &PlatformRow,
        header: RecordHeader,
    ) -> Result<Arc<PlatformKey>, StoreError> {
        let key_version = header.platform_key_version;
        let salt = platform.salt_of(key_version).ok_or(VaultError::WrongKeyVersion)?;
        let platform = platform.id.clone();
        self.platform_key(PlatformSlot { platform, root_version: header.root_version, key_version, salt }).await
    }

    /// Makes the deployment's first root key, unless there is one. Whether it did. The plaintext never leaves KMS here.
    ///
    /// # Errors
    /// [`StoreError::Kms`] or [`StoreError::Table`] when a service refuses.
    pub async fn ensure_root_key(&self) -> Result<bool, StoreError> {
        let inner = &*self.0;
        if inner.row(Slot::Active).await?.is_some() {
            return Ok(false);
        }
        let now = now_ms();
        let version = inner.generate(FIRST_VERSION, now).await?;
        let active = inner.rewrap(&version, Slot::Active, now).await?;
        let absent = || Expression::new("attribute_not_exists(pk)");
        let transaction = Transaction::default()
            .put_item(&inner.table, version.item(&inner.partition), absent())
            .put_item(&inner.table, active.item(&inner.partition), absent());
        match transaction.commit(&inner.table).await? {
            Committed::Yes => Ok(true),
            // Someone else made it meanwhile, which is just as good; or a version is there and the active row is not,
            // which is not to be hidden by a new key.
            Committed::Refused { .. } => match inner.row(Slot::Active).await? {
                Some(_) => Ok(false),
                None => {
                    Err(StoreError::Corrupt("the root key's active row is missing, and its first version is there"))
                }
            },
        }
    }

    async fn root(&self, slot: Slot) -> Result<Kept<RootKey>, StoreError> {
        if let Some(kept) = self.0.cached_root(slot) {
            return Ok(kept);
        }
        let waiting_since = Instant::now();
        let mut last = self.0.flight.lock().await;
        if let Some(kept) = self.0.cached_root(slot) {
            return Ok(kept);
        }
        if let Some(failure) = last.as_ref().filter(|last| last.slot == slot && waiting_since < last.ended) {
            return Err(failure.error.clone());
        }
        let outcome = self.0.fetch(slot).await;
        *last = outcome.as_ref().err().map(|error| Failure { slot, ended: Instant::now(), error: error.clone() });
        outcome
    }

    async fn platform_key(&self, slot: PlatformSlot) -> Result<Arc<PlatformKey>, StoreError> {
        if let Some(key) = self.0.cached_platform(&slot) {
            return Ok(key);
        }
        let root = self.root(Slot::Version(slot.root_version)).await?;
        Ok(self.derived(slot, &root))
    }

    fn derived(&self, slot: PlatformSlot, root: &Kept<RootKey>) -> Arc<PlatformKey> {
        if let Some(key) = self.0.cached_platform(&slot) {
            return key;
        }
        let key = Arc::new(slot.derive(&root.key));
        if let Ok(mut cache) = self.0.cache.lock() {
            // No longer than the root key that it comes from.
            cache.platforms.put(slot, Kept { key: key.clone(), until_ms: root.until_ms });
        }
        key
    }
}

fn current_slot(platform: &PlatformRow, root_version: u32) -> PlatformSlot {
    PlatformSlot {
        platform: platform.id.clone(),
        root_version,
        key_version: platform.vault_key_version,
        salt: platform.vault_salt,
    }
}

/// Whether opening failed for want of a key that was there when the record was written. When a rotation has sealed the
/// record anew since it was read, reading it again helps.
pub(crate) fn is_out_of_date(error: &StoreError) -> bool {
    matches!(error, StoreError::NoRootKey | StoreError::Vault(VaultError::WrongKeyVersion))
}

impl Inner {
    fn ttl_ms(&self) -> i64 {
        i64::try_from(self.config.cache_ttl.as_millis()).unwrap_or(i64::MAX)
    }

    fn cached_root(&self, slot: Slot) -> Option<Kept<RootKey>> {
        let mut cache = self.cache.lock().ok()?;
        cache.roots.expire(now_ms(), self.ttl_ms());
        cache.roots.get(&slot)
    }

    fn cached_platform(&self, slot: &PlatformSlot) -> Option<Arc<PlatformKey>> {
        let mut cache = self.cache.lock().ok()?;
        cache.platforms.expire(now_ms(), self.ttl_ms());
        cache.platforms.get(slot).map(|kept| kept.key)
    }

    async fn fetch(&self, slot: Slot) -> Result<Kept<RootKey>, StoreError> {
        // From before the row is read: what the row says may be out of date from then on.
        let read_at_ms = now_ms();
        let row = self.row(slot).await?.ok_or(StoreError::NoRootKey)?;
        let key = self.unwrap(&row).await?;
        Ok(self.remember(slot, key, read_at_ms))
    }

    fn remember(&self, slot: Slot, key: Arc<RootKey>, read_at_ms: i64) -> Kept<RootKey> {
        let kept = Kept { until_ms: read_at_ms.saturating_add(self.ttl_ms()), key };
        if let Ok(mut cache) = self.cache.lock() {
            if slot == Slot::Active {
                let writing = WRITING_MS.min(self.ttl_ms() / 4);
                cache.roots.put(slot, Kept { until_ms: kept.until_ms - writing, ..kept.clone() });
            }
            cache.roots.put(Slot::Version(kept.key.version()), kept.clone());
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AwsEndpoints;
    use theazo_tenancy::make_random_bytes;
    use zeroize::Zeroizing;

    fn root_key(version: u32) -> Arc<RootKey> {
        Arc::new(RootKey::from_bytes(version, Zeroizing::new(make_random_bytes())))
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a ring is its deployment's")]
    fn a_ring_keeps_no_more_keys_than_a_few_hundred_platforms_and_some_versions_have() {
        let aws = Aws::local(&AwsEndpoints { dynamodb: "http://127.0.0.1:1".into(), kms: None });
        let kms_key_arn = "arn:aws:kms:us-east-1:111122223333:key/none".into();
        let config = KeyRingConfig { deployment: "d".into(), kms_key_arn, cache_ttl: Duration::from_secs(3600) };
        let ring = KeyRing::new(&aws, Table::new(&aws, "t"), config, &Operator::assume());
        let root = Kept { key: root_key(1), until_ms: now_ms() + 3_600_000 };
        for _ in 0..300 {
            let (platform, salt) = (PlatformId::make(), make_random_bytes());
            ring.derived(PlatformSlot { platform, root_version: 1, key_version: 1, salt }, &root);
        }
        for version in 1..=40 {
            ring.inner().remember(Slot::Version(version), root_key(version), now_ms());
        }
        let cache = ring.inner().cache.lock().unwrap();
        // Full, and no fuller.
        assert_eq!((cache.platforms.len(), cache.roots.len()), (256, 16));
    }

    #[test]
    fn only_the_arn_of_a_key_names_a_key() {
        let key = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let multi_region = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
        let china = "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        for good in [key, multi_region, china] {
            assert!(is_kms_key_arn(good), "{good}");
        }
        for bad in [
            "",
            "alias/theazo",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-central-1:111122223333:alias/theazo",
            "arn:aws:kms:eu-central-1:111122223333:alias/key/1234abcd",
            "arn:aws:kms:eu-central-1:111122223333:key/",
            "arn:aws:kms:eu-central-1:111122223333:key/a/b",
            "arn:aws:kms:eu-central-1:111122223333:key/a:b",
            "arn:aws:kms:eu-central-1:11112222333:key/1234abcd",
            "arn:aws:kms::111122223333:key/1234abcd",
            "arn::kms:eu-central-1:111122223333:key/1234abcd",
            "arn:aws:s3:eu-central-1:111122223333:key/1234abcd",
            "ARN:aws:kms:eu-central-1:111122223333:key/1234abcd",
            " arn:aws:kms:eu-central-1:111122223333:key/1234abcd",
            "arn:aws:kms:eu-central-1:111122223333:key/1234abcd\n",
            &key.replace("key/", "key/*"),
        ] {
            assert!(!is_kms_key_arn(bad), "{bad:?}");
        }
    }
}
