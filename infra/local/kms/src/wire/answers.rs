//! Answer bodies, named after their operations. Times are seconds since 1970.
//!
//! `KeyId` is an ARN wherever the API reference shows one (data operations, deletion) and the bare identifier where
//! it shows that (metadata, lists, rotation).

use serde::Serialize;

use super::Blob;

/// The answer of operations that have none: `{}`.
#[derive(Serialize)]
pub(crate) struct Nothing {}

/// The body of a refusal.
#[derive(Serialize)]
pub(crate) struct Refusal<'a> {
    #[serde(rename = "__type")]
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
}

/// `CreateKey` and `DescribeKey`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KeyDescription {
    pub(crate) key_metadata: KeyMetadata,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KeyMetadata {
    #[serde(rename = "AWSAccountId")]
    pub(crate) account: &'static str,
    pub(crate) key_id: String,
    pub(crate) arn: String,
    pub(crate) creation_date: f64,
    pub(crate) enabled: bool,
    pub(crate) description: String,
    pub(crate) key_usage: &'static str,
    pub(crate) key_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deletion_date: Option<f64>,
    pub(crate) origin: &'static str,
    pub(crate) key_manager: &'static str,
    pub(crate) customer_master_key_spec: &'static str,
    pub(crate) key_spec: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encryption_algorithms: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mac_algorithms: Option<[&'static str; 1]>,
    pub(crate) multi_region: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListKeys {
    pub(crate) keys: Vec<KeyEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_marker: Option<String>,
    pub(crate) truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KeyEntry {
    pub(crate) key_id: String,
    pub(crate) key_arn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListAliases {
    pub(crate) aliases: Vec<AliasEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_marker: Option<String>,
    pub(crate) truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AliasEntry {
    pub(crate) alias_name: String,
    pub(crate) alias_arn: String,
    pub(crate) target_key_id: String,
    pub(crate) creation_date: f64,
    pub(crate) last_updated_date: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ScheduleKeyDeletion {
    pub(crate) key_id: String,
    pub(crate) deletion_date: f64,
    pub(crate) key_state: &'static str,
    pub(crate) pending_window_in_days: u32,
}

/// `CancelKeyDeletion` and `RotateKeyOnDemand`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OneKey {
    pub(crate) key_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetKeyRotationStatus {
    pub(crate) key_id: String,
    pub(crate) key_rotation_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rotation_period_in_days: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListKeyRotations {
    pub(crate) rotations: Vec<RotationEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_marker: Option<String>,
    pub(crate) truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RotationEntry {
    pub(crate) key_id: String,
    pub(crate) rotation_date: f64,
    pub(crate) rotation_type: &'static str,
}

/// `GenerateDataKey`, and `GenerateDataKeyWithoutPlaintext` without the plaintext.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GenerateDataKey {
    pub(crate) key_id: String,
    pub(crate) ciphertext_blob: Blob,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plaintext: Option<Blob>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GenerateRandom {
    pub(crate) plaintext: Blob,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Encrypt {
    pub(crate) key_id: String,
    pub(crate) ciphertext_blob: Blob,
    pub(crate) encryption_algorithm: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Decrypt {
    pub(crate) key_id: String,
    pub(crate) plaintext: Blob,
    pub(crate) encryption_algorithm: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReEncrypt {
    pub(crate) source_key_id: String,
    pub(crate) key_id: String,
    pub(crate) ciphertext_blob: Blob,
    pub(crate) source_encryption_algorithm: &'static str,
    pub(crate) destination_encryption_algorithm: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GenerateMac {
    pub(crate) key_id: String,
    pub(crate) mac: Blob,
    pub(crate) mac_algorithm: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct VerifyMac {
    pub(crate) key_id: String,
    pub(crate) mac_valid: bool,
    pub(crate) mac_algorithm: &'static str,
}
