//! The vault's core: how a secret is turned into a record and back, and nothing else.
//!
//! This crate owns the record format, the key hierarchy and the context a record is bound to. It does no I/O: who
//! may seal or open, where records lie and how the root key is unwrapped belong to its callers. `FORMAT.md` beside
//! this crate describes every byte; the records in `golden/` hold both to it for ever.
//!
//! - `hazmat` wraps the primitives, so that published test vectors run through the very calls that we make.
//! - `label` lists every domain separation label.
//! - `context` says what a record is bound to, as bytes: to a place (platform, session or agent) and to a purpose
//!   (agent secret, provider credential, or a copy of a value kept beside an agent that booted with it).
//! - `key` derives platform keys from the root key, token keys from agents' tokens, and record keys from both.
//! - `record` lays a record out, seals and opens.
//!
//! ```
//! use theazo_vault::{Context, Flags, Purpose, RootKey, Scope, SecretValue, make_salt, open, seal};
//! use zeroize::Zeroizing;
//!
//! # fn main() -> Result<(), theazo_vault::VaultError> {
//! let root = RootKey::from_bytes(1, Zeroizing::new([7; 32])); // unwrapped by a KMS in reality
//! let key = root.derive_platform_key("plt_1", &make_salt()?, 1);
//! let context = Context {
//!     deployment: "prod",
//!     platform: "plt_1",
//!     mode: "live",
//!     scope: Scope::Session("ses_1"),
//!     purpose: Purpose::AgentSecret,
//!     name: "DATABASE_URL",
//!     version: 1,
//!     expires_at_ms: None,
//!     flags: Flags { mask: true, inherit: true },
//! };
//! let record = seal(&key, &context, &SecretValue::from_text("postgres://".to_owned()))?;
//! assert_eq!(open(&key, &context, &record)?.expose(), b"postgres://");
//!
//! let moved = Context { scope: Scope::Session("ses_2"), ..context };
//! assert!(open(&key, &moved, &record).is_err());
//! # Ok(())
//! # }
//! ```

mod context;
mod error;
mod hazmat;
mod key;
mod label;
mod record;
mod secret;
#[cfg(test)]
mod tests;

pub use context::{Context, Flags, MAX_FIELD_LEN, Purpose, Scope};
pub use error::VaultError;
pub use key::{PlatformKey, RootKey, TokenKey, make_salt};
pub use record::{
    MAX_RECORD_LEN, MAX_VALUE_LEN, MIN_RECORD_LEN, RecordHeader, open, open_with_token, seal, seal_for_token,
};
pub use secret::SecretValue;
