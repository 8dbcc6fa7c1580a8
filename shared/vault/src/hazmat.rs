//! The primitives, wrapped once. Nothing outside this module calls a cryptographic crate to derive, seal or open.
//!
//! Kept apart from the format so that RFC 5869, Wycheproof and NIST vectors test these calls themselves, argument
//! order and buffer handling included, and not the crates behind them.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{AeadInOut, inout::InOutBuf},
};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroize;

use crate::VaultError;

/// Bytes of an AES-256 key, of HKDF-SHA-256 output as we use it, and of a salt.
pub(crate) const KEY_LEN: usize = 32;
/// Bytes of a GCM nonce.
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of a GCM tag.
pub(crate) const TAG_LEN: usize = 16;

/// HKDF after its extract step. Wiped when dropped (`sha2`'s `zeroize` feature).
pub(crate) struct Prk(Hkdf<Sha256>);

impl Prk {
    /// HKDF-Extract (RFC 5869, section 2.2).
    pub(crate) fn extract(salt: &[u8], ikm: &[u8]) -> Self {
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(salt), ikm);
        prk.as_mut_slice().zeroize();
        Self(hkdf)
    }

    /// HKDF-Expand (RFC 5869, section 2.3) over the concatenation of `info`. Fails above 255 * 32 bytes of output.
    pub(crate) fn expand(&self, info: &[&[u8]], out: &mut [u8]) -> Result<(), VaultError> {
        self.0.expand_multi_info(info, out).map_err(|_| VaultError::TooLarge)
    }

    /// HKDF-Expand to 32 bytes, which is never too long.
    pub(crate) fn expand_key(&self, info: &[&[u8]], out: &mut [u8; KEY_LEN]) {
        self.expand(info, out).expect("HKDF-SHA-256 gives up to 8160 bytes");
    }
}

/// AES-256-GCM, in place; gives the tag.
pub(crate) fn gcm_seal(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &mut [u8],
) -> Result<[u8; TAG_LEN], VaultError> {
    let cipher = Aes256Gcm::new(key.into());
    let tag =
        cipher.encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text)).map_err(|_| VaultError::TooLarge)?;
    Ok(tag.into())
}

/// AES-256-GCM, in place. When the tag is wrong, `text` is left as ciphertext and no plaintext exists.
pub(crate) fn gcm_open(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), VaultError> {
    let cipher = Aes256Gcm::new(key.into());
    cipher
        .decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text), tag.into())
        .map_err(|_| VaultError::NotAuthentic)
}

/// Fresh bytes from the operating system, per call. No generator of our own is kept, because a sandbox or function
/// that is restored from a memory snapshot would repeat what such a generator gives.
pub(crate) fn make_random<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| VaultError::Randomness)?;
    Ok(bytes)
}
