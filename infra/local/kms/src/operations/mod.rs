//! The operations: which there are, and how a request body becomes an answer body.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::check;
use crate::error::{EmulatorError, code};
use crate::store::Store;
use crate::wire::requests::NotEmulated;

mod aliases;
mod data;
mod deletion;
mod keys;
mod mac;
mod page;
mod rotation;

pub(crate) use aliases::ensure_key;

/// Bytes set aside for an answer. Above any answer that holds a secret (the largest is a data key of 1024 bytes with
/// its ciphertext, or a decrypted 4096 bytes), so that the vector never grows and leaves one behind unwiped.
const ANSWER_ROOM: usize = 16 * 1024;

/// Runs one operation. Blocks, for a disk sync when it changes something.
pub(crate) fn run(store: &Store, operation: &str, body: &[u8]) -> Result<Zeroizing<Vec<u8>>, EmulatorError> {
    match operation {
        "CreateKey" => call(store, body, keys::create_key),
        "DescribeKey" => call(store, body, keys::describe_key),
        "ListKeys" => call(store, body, keys::list_keys),
        "EnableKey" => call(store, body, keys::enable_key),
        "DisableKey" => call(store, body, keys::disable_key),
        "CreateAlias" => call(store, body, aliases::create_alias),
        "ListAliases" => call(store, body, aliases::list_aliases),
        "ScheduleKeyDeletion" => call(store, body, deletion::schedule_key_deletion),
        "CancelKeyDeletion" => call(store, body, deletion::cancel_key_deletion),
        "EnableKeyRotation" => call(store, body, rotation::enable_key_rotation),
        "DisableKeyRotation" => call(store, body, rotation::disable_key_rotation),
        "GetKeyRotationStatus" => call(store, body, rotation::get_key_rotation_status),
        "RotateKeyOnDemand" => call(store, body, rotation::rotate_key_on_demand),
        "ListKeyRotations" => call(store, body, rotation::list_key_rotations),
        "GenerateDataKey" => call(store, body, data::generate_data_key),
        "GenerateDataKeyWithoutPlaintext" => call(store, body, data::generate_data_key_without_plaintext),
        "GenerateRandom" => call(store, body, data::generate_random),
        "Encrypt" => call(store, body, data::encrypt),
        "Decrypt" => call(store, body, data::decrypt),
        "ReEncrypt" => call(store, body, data::re_encrypt),
        "GenerateMac" => call(store, body, mac::generate_mac),
        "VerifyMac" => call(store, body, mac::verify_mac),
        _ => Err(EmulatorError::refused(code::UNKNOWN_OPERATION, "")),
    }
}

fn call<Request: DeserializeOwned, Answer: Serialize>(
    store: &Store,
    body: &[u8],
    operation: fn(&Store, Request) -> Result<Answer, EmulatorError>,
) -> Result<Zeroizing<Vec<u8>>, EmulatorError> {
    check::emulated(&read::<NotEmulated>(body)?)?;
    let answer = operation(store, read(body)?)?;
    let mut content = Zeroizing::new(Vec::with_capacity(ANSWER_ROOM));
    serde_json::to_writer(&mut *content, &answer)
        .map_err(|_| EmulatorError::Internal("an answer cannot be serialised"))?;
    Ok(content)
}

/// Reads a body. The refusal says nothing about the content, which may be a plaintext.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, EmulatorError> {
    serde_json::from_slice(body).map_err(|_| EmulatorError::refused(code::SERIALIZATION, ""))
}
