//! Root keys as they lie in the table, and what KMS is asked about them.
//!
//! All columns of a row but the ciphertext are its KMS encryption context, together with the deployment's name and the
//! row's own sort key. So KMS says of every row it opens or encrypts anew that no column was edited.

use super::Inner;
use crate::error::{KmsFailure, code_of};
use crate::table::{Item, number};
use crate::transaction::Expression;
use crate::{StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kms::primitives::Blob;
use std::collections::HashMap;
use std::sync::Arc;
use theazo_tenancy::{Partition, TableKey};
use theazo_vault::RootKey;
use zeroize::{Zeroize, Zeroizing};

/// Which row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// The one to seal with.
    Active,
    /// A version's own, written once.
    Version(u32),
}

/// A row.
#[derive(Clone)]
pub(crate) struct RootRow {
    pub(crate) slot: Slot,
    pub(crate) version: u32,
    /// When this row was written: of a version's row, when it was published; of the active row, when that version
    /// became the active one.
    pub(crate) created_at_ms: i64,
    kms_key_arn: String,
    ciphertext: Vec<u8>,
}

impl Slot {
    pub(crate) fn sort_key(self) -> String {
        match self {
            Self::Active => "active".into(),
            Self::Version(version) => format!("version#{version:010}"),
        }
    }
}

impl RootRow {
    fn context(&self, deployment: &str) -> HashMap<String, String> {
        HashMap::from([
            ("theazo:purpose".to_owned(), "root-key".to_owned()),
            ("theazo:deployment".to_owned(), deployment.to_owned()),
            ("theazo:row".to_owned(), self.slot.sort_key()),
            ("theazo:version".to_owned(), self.version.to_string()),
            ("theazo:created-at-ms".to_owned(), self.created_at_ms.to_string()),
            ("theazo:kms-key-arn".to_owned(), self.kms_key_arn.clone()),
        ])
    }

    pub(crate) fn key(&self, partition: &Partition) -> TableKey {
        partition.row(&self.slot.sort_key())
    }

    pub(crate) fn item(&self, partition: &Partition) -> Item {
        let key = self.key(partition);
        HashMap::from([
            ("pk".to_owned(), AttributeValue::S(key.pk().into())),
            ("sk".to_owned(), AttributeValue::S(key.sk().into())),
            ("version".to_owned(), number(self.version)),
            ("created_at_ms".to_owned(), number(self.created_at_ms)),
            ("kms_key_arn".to_owned(), AttributeValue::S(self.kms_key_arn.clone())),
            ("ciphertext".to_owned(), AttributeValue::B(self.ciphertext.clone().into())),
        ])
    }

    /// Holds while the row is the one that was read. Every encryption by KMS gives another ciphertext.
    pub(crate) fn unchanged(&self) -> Expression {
        Expression::new("#c = :c")
            .name("#c", "ciphertext")
            .value(":c", AttributeValue::B(self.ciphertext.clone().into()))
    }

    /// The row in that place, if it can be one. What it says is proven by KMS alone.
    pub(crate) fn parse(item: &Item, slot: Slot, kms_key_arn: &str) -> Result<Self, StoreError> {
        let row = (|| {
            Some(Self {
                slot,
                version: item.get("version")?.as_n().ok()?.parse().ok()?,
                created_at_ms: item.get("created_at_ms")?.as_n().ok()?.parse().ok()?,
                kms_key_arn: item.get("kms_key_arn")?.as_s().ok()?.clone(),
                ciphertext: item.get("ciphertext")?.as_b().ok()?.as_ref().to_vec(),
            })
        })()
        .ok_or(StoreError::Corrupt("a root key's row"))?;
        if row.kms_key_arn != kms_key_arn {
            return Err(StoreError::Corrupt("a root key's row names another KMS key"));
        }
        match slot {
            Slot::Version(version) if version != row.version => {
                Err(StoreError::Corrupt("a root key's row is of another version"))
            }
            _ => Ok(row),
        }
    }
}

impl Inner {
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn partition(&self) -> &Partition {
        &self.partition
    }

    pub(crate) fn kms_key_arn(&self) -> &str {
        &self.config.kms_key_arn
    }

    pub(super) async fn row(&self, slot: Slot) -> Result<Option<RootRow>, StoreError> {
        let item = self.table.get_raw(&self.partition.row(&slot.sort_key())).await?;
        item.map(|item| RootRow::parse(&item, slot, self.kms_key_arn())).transpose()
    }

    /// A version's row with a new key, which KMS makes and nobody sees.
    pub(crate) async fn generate(&self, version: u32, now_ms: i64) -> Result<RootRow, StoreError> {
        const OPERATION: &str = "GenerateDataKeyWithoutPlaintext";
        let kms_key_arn = self.config.kms_key_arn.clone();
        let slot = Slot::Version(version);
        let mut row = RootRow { slot, version, created_at_ms: now_ms, kms_key_arn, ciphertext: Vec::new() };
        let answer = self
            .kms
            .generate_data_key_without_plaintext()
            .key_id(self.kms_key_arn())
            .number_of_bytes(32)
            .set_encryption_context(Some(row.context(&self.config.deployment)))
            .send()
            .await
            .map_err(|error| kms_error(OPERATION, code_of(&error)))?;
        row.ciphertext = answer.ciphertext_blob.ok_or_else(|| kms_error(OPERATION, "no key".into()))?.into_inner();
        Ok(row)
    }

    /// The same key wrapped anew for another row. KMS refuses when the row it comes from is not as it was written; the
    /// plaintext never leaves KMS.
    pub(crate) async fn rewrap(&self, from: &RootRow, slot: Slot, now_ms: i64) -> Result<RootRow, StoreError> {
        let mut row = RootRow { slot, created_at_ms: now_ms, ..from.clone() };
        let answer = self
            .kms
            .re_encrypt()
            .ciphertext_blob(Blob::new(from.ciphertext.clone()))
            .source_key_id(self.kms_key_arn())
            .set_source_encryption_context(Some(from.context(&self.config.deployment)))
            .destination_key_id(self.kms_key_arn())
            .set_destination_encryption_context(Some(row.context(&self.config.deployment)))
            .send()
            .await
            .map_err(|error| kms_error("ReEncrypt", code_of(&error)))?;
        row.ciphertext = answer.ciphertext_blob.ok_or_else(|| kms_error("ReEncrypt", "no key".into()))?.into_inner();
        Ok(row)
    }

    /// Has KMS say that a row is as it was written, without opening it.
    pub(crate) async fn verify(&self, row: &RootRow) -> Result<(), StoreError> {
        self.rewrap(row, row.slot, row.created_at_ms).await.map(|_| ())
    }

    pub(super) async fn unwrap(&self, row: &RootRow) -> Result<Arc<RootKey>, StoreError> {
        let mut answer = self
            .kms
            .decrypt()
            .key_id(self.kms_key_arn())
            .ciphertext_blob(Blob::new(row.ciphertext.clone()))
            .set_encryption_context(Some(row.context(&self.config.deployment)))
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

fn kms_error(operation: &'static str, code: String) -> StoreError {
    tracing::error!(operation, code, failure = KmsFailure::of(&code).as_str(), "the key service refused");
    StoreError::Kms { operation, code }
}
