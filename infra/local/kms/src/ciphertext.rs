//! The ciphertext format: AES-256-GCM under one generation of a key's material.
//!
//! ```text
//! version (1) | key id (16) | material number (4, big endian) | nonce (12) | ciphertext | tag (16)
//! ```
//! The associated data is the first 21 bytes followed by the encryption context in key order, each text with its
//! length (8 bytes, big endian) before it. So no byte of a blob can change, and no two contexts look the same.

use std::collections::BTreeMap;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use zeroize::Zeroizing;

use crate::error::EmulatorError;
use crate::ids::{KEY_ID_LEN, KeyId};
use crate::random;

/// An encryption context. No context and an empty one are the same, as in AWS.
pub(crate) type Context = BTreeMap<String, String>;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + 4;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// A blob taken apart, its content not yet authenticated.
pub(crate) struct Parsed<'a> {
    /// The key that the blob names.
    pub(crate) key: KeyId,
    /// The generation of that key's material, from 0.
    pub(crate) generation: usize,
    header: &'a [u8],
    nonce: [u8; NONCE_LEN],
    sealed: &'a [u8],
}

/// Encrypts `plaintext`. `material` must be generation `generation` of `key`, 32 bytes.
pub(crate) fn seal(
    key: KeyId,
    generation: usize,
    material: &[u8],
    plaintext: &[u8],
    context: &Context,
) -> Result<Vec<u8>, EmulatorError> {
    let generation = u32::try_from(generation).map_err(|_| EmulatorError::Internal("too many generations"))?;
    let nonce = random::make_public::<NONCE_LEN>()?;
    let mut blob = Vec::with_capacity(HEADER_LEN + NONCE_LEN + plaintext.len() + TAG_LEN);
    blob.push(VERSION);
    blob.extend_from_slice(key.as_bytes());
    blob.extend_from_slice(&generation.to_be_bytes());
    let aad = associated_data(&blob, context);
    let sealed = cipher(material)?
        .encrypt(&Nonce::from(nonce), Payload { msg: plaintext, aad: &aad })
        .map_err(|_| EmulatorError::Internal("the plaintext cannot be encrypted"))?;
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(&sealed);
    Ok(blob)
}

/// Splits a blob into its parts.
///
/// # Errors
/// `InvalidCiphertextException` when it is too short or of another version.
pub(crate) fn parse(blob: &[u8]) -> Result<Parsed<'_>, EmulatorError> {
    split(blob).ok_or_else(EmulatorError::invalid_ciphertext)
}

fn split(blob: &[u8]) -> Option<Parsed<'_>> {
    let (header, rest) = blob.split_at_checked(HEADER_LEN)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
    let (&version, after_version) = header.split_first()?;
    let (key, after_key) = after_version.split_first_chunk::<KEY_ID_LEN>()?;
    let generation = u32::from_be_bytes(after_key.try_into().ok()?);
    if version != VERSION || sealed.len() < TAG_LEN {
        return None;
    }
    let generation = usize::try_from(generation).ok()?;
    Some(Parsed { key: KeyId::from_bytes(*key), generation, header, nonce: *nonce, sealed })
}

impl Parsed<'_> {
    /// Decrypts and authenticates.
    ///
    /// # Errors
    /// `InvalidCiphertextException` when the blob, the context or the material is not the one it was sealed with.
    pub(crate) fn open(&self, material: &[u8], context: &Context) -> Result<Zeroizing<Vec<u8>>, EmulatorError> {
        let aad = associated_data(self.header, context);
        cipher(material)?
            .decrypt(&Nonce::from(self.nonce), Payload { msg: self.sealed, aad: &aad })
            .map(Zeroizing::new)
            .map_err(|_| EmulatorError::invalid_ciphertext())
    }
}

fn cipher(material: &[u8]) -> Result<Aes256Gcm, EmulatorError> {
    Aes256Gcm::new_from_slice(material).map_err(|_| EmulatorError::Internal("key material of a wrong length"))
}

fn associated_data(header: &[u8], context: &Context) -> Vec<u8> {
    let mut data = header.to_vec();
    for text in context.iter().flat_map(|(name, value)| [name, value]) {
        data.extend_from_slice(&(text.len() as u64).to_be_bytes());
        data.extend_from_slice(text.as_bytes());
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> Context {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn contexts_that_join_to_the_same_text_are_different() {
        let key = KeyId::make().unwrap();
        let blob = seal(key, 0, &[7; 32], b"x", &context(&[("ab", "c")])).unwrap();
        let parsed = parse(&blob).unwrap();
        assert!(parsed.open(&[7; 32], &context(&[("ab", "c")])).is_ok());
        for other in [context(&[("a", "bc")]), context(&[("abc", "")]), context(&[("ab", ""), ("c", "")])] {
            assert!(parsed.open(&[7; 32], &other).is_err());
        }
    }

    #[test]
    fn a_blob_cut_short_anywhere_does_not_open() {
        let blob = seal(KeyId::make().unwrap(), 0, &[7; 32], b"", &Context::new()).unwrap();
        assert!(parse(&blob).unwrap().open(&[7; 32], &Context::new()).unwrap().is_empty());
        for length in 0..blob.len() {
            assert!(parse(&blob[..length]).is_err(), "{length} bytes were taken apart");
        }
    }
}
