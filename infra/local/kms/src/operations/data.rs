//! Encrypting, decrypting, data keys and random bytes.

use zeroize::Zeroizing;

use crate::check::{self, MAX_CIPHERTEXT, MAX_PLAINTEXT, MAX_RANDOM, SYMMETRIC_ALGORITHM};
use crate::ciphertext::{self, Context};
use crate::error::{EmulatorError, code};
use crate::ids::KeyId;
use crate::random;
use crate::state::{KeySpec, State};
use crate::store::Store;
use crate::wire::{Blob, answers, requests};

pub(crate) fn generate_data_key(
    store: &Store,
    request: requests::GenerateDataKey,
) -> Result<answers::GenerateDataKey, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    let plaintext = random::make_secret(data_key_len(&request)?)?;
    let context = request.encryption_context.unwrap_or_default();
    let (id, sealed) = store.read(|state| seal(state, text, &plaintext, &context))?;
    Ok(answers::GenerateDataKey { key_id: id.arn(), ciphertext_blob: sealed.into(), plaintext: Some(plaintext.into()) })
}

pub(crate) fn generate_data_key_without_plaintext(
    store: &Store,
    request: requests::GenerateDataKey,
) -> Result<answers::GenerateDataKey, EmulatorError> {
    generate_data_key(store, request).map(|answer| answers::GenerateDataKey { plaintext: None, ..answer })
}

/// Bytes of the data key that is asked for.
fn data_key_len(request: &requests::GenerateDataKey) -> Result<usize, EmulatorError> {
    match (request.number_of_bytes, request.key_spec.as_deref()) {
        (Some(count), None) => random_len(count),
        (None, Some("AES_128")) => Ok(16),
        (None, Some("AES_256")) => Ok(32),
        (None, Some(other)) => Err(check::not_in_set(other, "keySpec", &["AES_256", "AES_128"])),
        (None, None) | (Some(_), Some(_)) => Err(check::invalid("Please specify either number of bytes or key spec.")),
    }
}

fn random_len(count: i64) -> Result<usize, EmulatorError> {
    let count = check::number(count, "numberOfBytes", 1..=MAX_RANDOM)?;
    usize::try_from(count).map_err(|_| EmulatorError::Internal("a length beyond the address space"))
}

pub(crate) fn generate_random(
    _store: &Store,
    request: requests::GenerateRandom,
) -> Result<answers::GenerateRandom, EmulatorError> {
    let length = random_len(*check::required(&request.number_of_bytes, "numberOfBytes")?)?;
    Ok(answers::GenerateRandom { plaintext: random::make_secret(length)?.into() })
}

pub(crate) fn encrypt(store: &Store, request: requests::Encrypt) -> Result<answers::Encrypt, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    let plaintext = check::blob(&request.plaintext, "plaintext", MAX_PLAINTEXT)?;
    check::encryption_algorithm(&request.encryption_algorithm, "encryptionAlgorithm")?;
    let context = request.encryption_context.unwrap_or_default();
    let (id, sealed) = store.read(|state| seal(state, text, plaintext, &context))?;
    Ok(answers::Encrypt { key_id: id.arn(), ciphertext_blob: sealed.into(), encryption_algorithm: SYMMETRIC_ALGORITHM })
}

pub(crate) fn decrypt(store: &Store, request: requests::Decrypt) -> Result<answers::Decrypt, EmulatorError> {
    let source = Source {
        blob: check::blob(&request.ciphertext_blob, "ciphertextBlob", MAX_CIPHERTEXT)?,
        context: &request.encryption_context.unwrap_or_default(),
        key: optional_key(&request.key_id, "keyId")?,
    };
    check::encryption_algorithm(&request.encryption_algorithm, "encryptionAlgorithm")?;
    let (id, plaintext) = store.read(|state| open(state, &source))?;
    Ok(answers::Decrypt {
        key_id: id.arn(),
        plaintext: Blob::from(plaintext),
        encryption_algorithm: SYMMETRIC_ALGORITHM,
    })
}

pub(crate) fn re_encrypt(store: &Store, request: requests::ReEncrypt) -> Result<answers::ReEncrypt, EmulatorError> {
    let source = Source {
        blob: check::blob(&request.ciphertext_blob, "ciphertextBlob", MAX_CIPHERTEXT)?,
        context: &request.source_encryption_context.unwrap_or_default(),
        key: optional_key(&request.source_key_id, "sourceKeyId")?,
    };
    let destination = check::key_text(&request.destination_key_id, "destinationKeyId")?;
    check::encryption_algorithm(&request.source_encryption_algorithm, "sourceEncryptionAlgorithm")?;
    check::encryption_algorithm(&request.destination_encryption_algorithm, "destinationEncryptionAlgorithm")?;
    let context = request.destination_encryption_context.unwrap_or_default();
    store.read(|state| {
        let (source, plaintext) = open(state, &source)?;
        let (id, sealed) = seal(state, destination, &plaintext, &context)?;
        Ok(answers::ReEncrypt {
            source_key_id: source.arn(),
            key_id: id.arn(),
            ciphertext_blob: sealed.into(),
            source_encryption_algorithm: SYMMETRIC_ALGORITHM,
            destination_encryption_algorithm: SYMMETRIC_ALGORITHM,
        })
    })
}

/// What is to be opened, and the key the caller says it is under.
struct Source<'a> {
    blob: &'a [u8],
    context: &'a Context,
    key: Option<&'a str>,
}

fn optional_key<'a>(value: &'a Option<String>, member: &str) -> Result<Option<&'a str>, EmulatorError> {
    value.is_some().then(|| check::key_text(value, member)).transpose()
}

/// Encrypts under the newest generation of a key.
fn seal(state: &State, text: &str, plaintext: &[u8], context: &Context) -> Result<(KeyId, Vec<u8>), EmulatorError> {
    let (id, key) = state.resolve(text)?;
    key.must_be_usable(id, KeySpec::Symmetric)?;
    let (number, generation) = key.newest()?;
    Ok((id, ciphertext::seal(id, number, generation.material.bytes(), plaintext, context)?))
}

/// Decrypts under the key and generation that the blob names.
///
/// A blob of a key that was destroyed cannot be told from a tampered one here: both are invalid ciphertexts, where
/// AWS may answer `AccessDeniedException` or `NotFoundException` for the former.
fn open(state: &State, source: &Source<'_>) -> Result<(KeyId, Zeroizing<Vec<u8>>), EmulatorError> {
    let expected = source.key.map(|text| state.resolve(text)).transpose()?.map(|(id, _)| id);
    let parsed = ciphertext::parse(source.blob)?;
    let key = state.keys.get(&parsed.key).ok_or_else(EmulatorError::invalid_ciphertext)?;
    if expected.is_some_and(|expected| expected != parsed.key) {
        let message = "The key ID in the request does not identify a CMK that can perform this operation.";
        return Err(EmulatorError::refused(code::INCORRECT_KEY, message));
    }
    key.must_be_usable(parsed.key, KeySpec::Symmetric)?;
    let generation = key.generations.get(parsed.generation).ok_or_else(EmulatorError::invalid_ciphertext)?;
    Ok((parsed.key, parsed.open(generation.material.bytes(), source.context)?))
}
