//! What the vault's core refuses, and how much it says about it.

/// Why something was not sealed or not opened.
///
/// No variant carries a value, a key or a part of a record. A wrong key, a wrong context and a forged record are all
/// [`VaultError::NotAuthentic`]: telling them apart would help only somebody who is trying keys or contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The record has a length that no record has, or its padding is not the format's.
    #[error("the record is malformed")]
    Malformed,
    /// The record's first byte names a format that this version does not read.
    #[error("the record has the unknown format {0}")]
    UnknownFormat(u8),
    /// The record's second byte names a cipher suite that this version does not have.
    #[error("the record has the unknown cipher suite {0}")]
    UnknownSuite(u8),
    /// The record was sealed under another version of the root key or of the platform key than the one given.
    #[error("the record was sealed under another key version")]
    WrongKeyVersion,
    /// The key belongs to another platform than the context. Caught before any cryptography, because sealing so
    /// would write a record that nothing opens.
    #[error("the key belongs to another platform than the context")]
    WrongPlatform,
    /// The context is not canonical; the text says which field. Always a mistake of the caller.
    #[error("the context is not canonical: {0}")]
    InvalidContext(&'static str),
    /// The record does not belong to this key and this context, or was altered.
    #[error("the record is not authentic for this key and context")]
    NotAuthentic,
    /// The value is longer than [`crate::MAX_VALUE_LEN`] bytes.
    #[error("the value is too large")]
    TooLarge,
    /// The operating system gave no randomness. Nothing was sealed.
    #[error("the operating system gave no randomness")]
    Randomness,
}
