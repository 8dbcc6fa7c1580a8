//! Request bodies, named after their operations.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Blob;
use crate::ciphertext::Context;

/// Members, of any operation, that would change the outcome and are not emulated.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NotEmulated {
    pub(crate) dry_run: Option<bool>,
    pub(crate) multi_region: Option<bool>,
    pub(crate) recipient: Option<IgnoredAny>,
    pub(crate) custom_key_store_id: Option<IgnoredAny>,
    pub(crate) xks_key_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateKey {
    pub(crate) description: Option<String>,
    pub(crate) key_usage: Option<String>,
    pub(crate) key_spec: Option<String>,
    pub(crate) customer_master_key_spec: Option<String>,
    pub(crate) origin: Option<String>,
}

/// The operations whose only member is the key.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OneKey {
    pub(crate) key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListKeys {
    pub(crate) limit: Option<i64>,
    pub(crate) marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateAlias {
    pub(crate) alias_name: Option<String>,
    pub(crate) target_key_id: Option<String>,
}

/// `ListAliases` (the key optional) and `ListKeyRotations` (the key required).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListOfKey {
    pub(crate) key_id: Option<String>,
    pub(crate) limit: Option<i64>,
    pub(crate) marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ScheduleKeyDeletion {
    pub(crate) key_id: Option<String>,
    pub(crate) pending_window_in_days: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EnableKeyRotation {
    pub(crate) key_id: Option<String>,
    pub(crate) rotation_period_in_days: Option<i64>,
}

/// `GenerateDataKey` and `GenerateDataKeyWithoutPlaintext`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GenerateDataKey {
    pub(crate) key_id: Option<String>,
    pub(crate) encryption_context: Option<Context>,
    pub(crate) number_of_bytes: Option<i64>,
    pub(crate) key_spec: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GenerateRandom {
    pub(crate) number_of_bytes: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Encrypt {
    pub(crate) key_id: Option<String>,
    pub(crate) plaintext: Option<Blob>,
    pub(crate) encryption_context: Option<Context>,
    pub(crate) encryption_algorithm: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Decrypt {
    pub(crate) ciphertext_blob: Option<Blob>,
    pub(crate) encryption_context: Option<Context>,
    pub(crate) key_id: Option<String>,
    pub(crate) encryption_algorithm: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReEncrypt {
    pub(crate) ciphertext_blob: Option<Blob>,
    pub(crate) source_encryption_context: Option<Context>,
    pub(crate) source_key_id: Option<String>,
    pub(crate) source_encryption_algorithm: Option<String>,
    pub(crate) destination_key_id: Option<String>,
    pub(crate) destination_encryption_context: Option<Context>,
    pub(crate) destination_encryption_algorithm: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GenerateMac {
    pub(crate) key_id: Option<String>,
    pub(crate) message: Option<Blob>,
    pub(crate) mac_algorithm: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct VerifyMac {
    pub(crate) key_id: Option<String>,
    pub(crate) message: Option<Blob>,
    pub(crate) mac: Option<Blob>,
    pub(crate) mac_algorithm: Option<String>,
}
