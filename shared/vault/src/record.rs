//! The record: its layout, sealing and opening.
//!
//! `format u8 | suite u8 | root version u32 | platform key version u32 | salt 32 | nonce 12 | commitment 32 |
//! ciphertext | tag 16`, integers big endian. The ciphertext is that of the padded value.

use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Context, PlatformKey, SecretValue, TokenKey, VaultError,
    hazmat::{self, KEY_LEN, NONCE_LEN, TAG_LEN},
};

/// The only format there is.
pub(crate) const FORMAT: u8 = 1;
/// HKDF-SHA-256 and AES-256-GCM, the only suite there is.
pub(crate) const SUITE: u8 = 1;

const ROOT_VERSION_AT: usize = 2;
const PLATFORM_KEY_VERSION_AT: usize = ROOT_VERSION_AT + 4;
const SALT_AT: usize = PLATFORM_KEY_VERSION_AT + 4;
const NONCE_AT: usize = SALT_AT + KEY_LEN;
const COMMITMENT_AT: usize = NONCE_AT + NONCE_LEN;
const TEXT_AT: usize = COMMITMENT_AT + KEY_LEN;

/// Padded values are a multiple of this many bytes, so that a length says little about what a value is.
const BLOCK: usize = 64;
/// First byte of the padding; zeros follow.
const PAD: u8 = 0x80;

/// Most bytes that a value may have: 32 KiB.
pub const MAX_VALUE_LEN: usize = 32 * 1024;
/// Bytes of the shortest record (a value of up to 63 bytes).
pub const MIN_RECORD_LEN: usize = TEXT_AT + BLOCK + TAG_LEN;
/// Bytes of the longest record (a value of 32 KiB).
pub const MAX_RECORD_LEN: usize = TEXT_AT + padded_len(MAX_VALUE_LEN) + TAG_LEN;

/// There is always at least one byte of padding, so that it can be removed unambiguously.
const fn padded_len(value_len: usize) -> usize {
    (value_len / BLOCK + 1) * BLOCK
}

/// The key versions that a record names: a hint for picking the key, authenticated only when the record opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordHeader {
    /// Version of the root key.
    pub root_version: u32,
    /// Version of the platform key.
    pub platform_key_version: u32,
}

impl RecordHeader {
    /// Reads the header of a whole record.
    ///
    /// # Errors
    /// [`VaultError::UnknownFormat`], [`VaultError::UnknownSuite`], or [`VaultError::Malformed`] for a length that no
    /// record of this format has.
    pub fn parse(record: &[u8]) -> Result<Self, VaultError> {
        Parts::parse(record).map(|parts| parts.header)
    }
}

/// A record cut into its parts; nothing in it is authenticated.
struct Parts<'a> {
    header: RecordHeader,
    salt: &'a [u8; KEY_LEN],
    nonce: &'a [u8; NONCE_LEN],
    commitment: &'a [u8; KEY_LEN],
    text: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> Parts<'a> {
    fn parse(record: &'a [u8]) -> Result<Self, VaultError> {
        // Before the length, because a later format may have other lengths and deserves its own answer.
        match *record {
            [format, ..] if format != FORMAT => return Err(VaultError::UnknownFormat(format)),
            [_, suite, ..] if suite != SUITE => return Err(VaultError::UnknownSuite(suite)),
            _ => {}
        }
        let fits = (MIN_RECORD_LEN..=MAX_RECORD_LEN).contains(&record.len())
            && (record.len() - TEXT_AT - TAG_LEN).is_multiple_of(BLOCK);
        if !fits {
            return Err(VaultError::Malformed);
        }
        Self::cut(record).ok_or(VaultError::Malformed)
    }

    fn cut(record: &'a [u8]) -> Option<Self> {
        let (_, rest) = record.split_at_checked(ROOT_VERSION_AT)?;
        let (root_version, rest) = rest.split_first_chunk()?;
        let (platform_key_version, rest) = rest.split_first_chunk()?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (commitment, rest) = rest.split_first_chunk()?;
        let (text, tag) = rest.split_last_chunk()?;
        let header = RecordHeader {
            root_version: u32::from_be_bytes(*root_version),
            platform_key_version: u32::from_be_bytes(*platform_key_version),
        };
        Some(Self { header, salt, nonce, commitment, text, tag })
    }
}

/// Seals a value under a platform's key, bound to its context, with a fresh salt and nonce.
///
/// # Errors
/// [`VaultError::TooLarge`] above [`MAX_VALUE_LEN`] bytes, [`VaultError::InvalidContext`], [`VaultError::WrongPlatform`],
/// [`VaultError::Randomness`].
pub fn seal(key: &PlatformKey, context: &Context<'_>, value: &SecretValue) -> Result<Vec<u8>, VaultError> {
    seal_with(key, context, value, &hazmat::make_random()?, &hazmat::make_random()?)
}

/// [`seal`] of a copy for an agent's token.
///
/// # Errors
/// As [`seal`].
pub fn seal_for_token(key: &TokenKey, context: &Context<'_>, value: &SecretValue) -> Result<Vec<u8>, VaultError> {
    seal(&key.0, context, value)
}

/// [`seal`] with the salt and the nonce given, for the golden records. Never public: a salt and nonce used twice for
/// two values give both away.
pub(crate) fn seal_with(
    key: &PlatformKey,
    context: &Context<'_>,
    value: &SecretValue,
    salt: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
) -> Result<Vec<u8>, VaultError> {
    if value.len() > MAX_VALUE_LEN {
        return Err(VaultError::TooLarge);
    }
    if *key.platform != *context.platform {
        return Err(VaultError::WrongPlatform);
    }
    if !key.serves(context.purpose) {
        return Err(VaultError::InvalidContext("purpose"));
    }
    let aad = context.encode(key.root_version, key.key_version)?;
    let keys = key.derive_record_keys(context.purpose, salt, &aad);

    let text_len = padded_len(value.len());
    // Exactly the record's size: a vector that grew would leave the plaintext behind in freed memory.
    let mut record = Vec::with_capacity(TEXT_AT + text_len + TAG_LEN);
    record.extend_from_slice(&[FORMAT, SUITE]);
    record.extend_from_slice(&key.root_version.to_be_bytes());
    record.extend_from_slice(&key.key_version.to_be_bytes());
    record.extend_from_slice(salt);
    record.extend_from_slice(nonce);
    record.extend_from_slice(&keys.commitment);
    record.extend_from_slice(value.expose());
    record.push(PAD);
    record.resize(TEXT_AT + text_len, 0);
    match hazmat::gcm_seal(keys.key.expose_secret(), nonce, &aad, &mut record[TEXT_AT..]) {
        Ok(tag) => record.extend_from_slice(&tag),
        Err(error) => {
            record.zeroize();
            return Err(error);
        }
    }
    Ok(record)
}

/// Opens a record under the key and the context that the caller is authorised for.
///
/// # Errors
/// [`VaultError::Malformed`], [`VaultError::UnknownFormat`] and [`VaultError::UnknownSuite`] for what is no record;
/// [`VaultError::WrongKeyVersion`], [`VaultError::WrongPlatform`] and [`VaultError::InvalidContext`] for a mistake of the
/// caller; [`VaultError::NotAuthentic`] for everything else.
pub fn open(key: &PlatformKey, context: &Context<'_>, record: &[u8]) -> Result<SecretValue, VaultError> {
    open_steps(key, context, record).map_err(Refusal::into_error)
}

/// [`open`] of a copy for an agent's token.
///
/// # Errors
/// As [`open`].
pub fn open_with_token(key: &TokenKey, context: &Context<'_>, record: &[u8]) -> Result<SecretValue, VaultError> {
    open(&key.0, context, record)
}

/// At which step a record was refused. Callers see less ([`Refusal::into_error`]); tests hold the order of the steps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Before(VaultError),
    Commitment,
    Tag,
    Padding,
}

impl Refusal {
    fn into_error(self) -> VaultError {
        match self {
            Self::Before(error) => error,
            Self::Commitment | Self::Tag => VaultError::NotAuthentic,
            Self::Padding => VaultError::Malformed,
        }
    }
}

pub(crate) fn open_steps(key: &PlatformKey, context: &Context<'_>, record: &[u8]) -> Result<SecretValue, Refusal> {
    let parts = Parts::parse(record).map_err(Refusal::Before)?;
    let given = RecordHeader { root_version: key.root_version, platform_key_version: key.key_version };
    if parts.header != given {
        return Err(Refusal::Before(VaultError::WrongKeyVersion));
    }
    if *key.platform != *context.platform {
        return Err(Refusal::Before(VaultError::WrongPlatform));
    }
    if !key.serves(context.purpose) {
        return Err(Refusal::Before(VaultError::InvalidContext("purpose")));
    }
    // From the key given, not from the header, although the two are equal by now.
    let aad = context.encode(key.root_version, key.key_version).map_err(Refusal::Before)?;
    let keys = key.derive_record_keys(context.purpose, parts.salt, &aad);
    if !bool::from(keys.commitment.ct_eq(parts.commitment)) {
        return Err(Refusal::Commitment);
    }
    let mut text = Zeroizing::new(parts.text.to_vec());
    hazmat::gcm_open(keys.key.expose_secret(), parts.nonce, &aad, &mut text, parts.tag).map_err(|_| Refusal::Tag)?;
    let len = unpadded_len(&text).ok_or(Refusal::Padding)?;
    text.truncate(len);
    Ok(SecretValue::from_bytes(std::mem::take(&mut *text)))
}

/// Length of the value in a padded text: before the last byte that is not zero, which must be [`PAD`], lie in the last
/// block, and leave no more than [`MAX_VALUE_LEN`] bytes. So a value has one padded form and no other opens.
fn unpadded_len(text: &[u8]) -> Option<usize> {
    let len = text.iter().rposition(|byte| *byte != 0)?;
    (text[len] == PAD && padded_len(len) == text.len() && len <= MAX_VALUE_LEN).then_some(len)
}
