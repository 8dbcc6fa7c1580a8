//! Secrets: names in one row a scope, sealed values in a row each, under partitions of their own.
//!
//! The names' row carries everything about a secret but its value; it is locked optimistically, which makes a set of
//! several secrets all or nothing and keeps a scope's limits. A value's row repeats what the vault binds to it
//! (version, expiry, flags), so that an edited column makes the record refuse to open.

mod copies;
mod name;
mod names;
mod opener;
mod sealer;
mod shield;
mod token_copies;

pub use copies::{AgentCopies, SealedCopies, SealedCopy};
pub(crate) use copies::{copies_of, copy_context};
pub use name::{SecretName, SecretNameError};
pub use names::{ScopeNames, SecretEntry, SecretNames};
pub use opener::{OpenedSecret, SealedSecrets, SecretOpener, SecretSelection};
pub use sealer::{NewSecret, ScopeState, SecretSealer};
pub use shield::ExpectCredential;
pub(crate) use shield::{CredentialAccess, ProviderShield};
pub(crate) use token_copies::seal_for_token;
pub use token_copies::{TokenCopies, TokenSealed};

use crate::table::{Item, TTL, number, ttl_seconds};
use crate::transaction::Expression;
use crate::{StoreError, platforms::PlatformRow};
use aws_sdk_dynamodb::types::AttributeValue;
use theazo_tenancy::{Partition, ReadScope, SessionId, TableKey};
use theazo_vault::{Context, Flags, Purpose, Scope};

/// Longest value, bytes.
pub const MAX_VALUE_BYTES: usize = 32 * 1024;
/// Most secrets in a scope.
pub const MAX_NAMES_PER_SCOPE: usize = 100;
/// Most bytes of values in a scope.
pub const MAX_SCOPE_BYTES: u64 = 256 * 1024;
/// Most secrets in one call; their rows and the names' row fit into one transaction with its companions.
pub const MAX_NAMES_PER_CALL: usize = 90;

/// How often record and platform are read again when a rotation has sealed the record anew between the two reads.
const OUT_OF_DATE_ATTEMPTS: u32 = 5;

/// What a shorter value would hide is more than what masking it would protect, bytes.
const SHORTEST_MASKED: usize = 6;

/// Whose secrets are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretTarget {
    /// The platform's.
    Platform,
    /// One session's.
    Session(SessionId),
}

impl SecretTarget {
    fn names_key(&self, scope: &ReadScope) -> Result<TableKey, StoreError> {
        match self {
            Self::Platform => Ok(scope.secret_names_key()?),
            Self::Session(id) => Ok(scope.session(id).ok_or(StoreError::NotFound)?.secret_names_key()),
        }
    }

    fn values(&self, scope: &ReadScope) -> Result<Partition, StoreError> {
        match self {
            Self::Platform => Ok(scope.secret_values()?),
            Self::Session(id) => Ok(scope.session(id).ok_or(StoreError::NotFound)?.secret_values()),
        }
    }
}

/// A sealed value's row: the record and what the vault binds to it.
pub(crate) struct ValueRow {
    pub(crate) name: String,
    version: u64,
    expires_at_ms: Option<i64>,
    flags: Flags,
    provider: bool,
    pub(crate) blob: Vec<u8>,
}

impl ValueRow {
    fn item(&self, key: &TableKey) -> Item {
        let mut item = Item::from([
            ("pk".to_owned(), AttributeValue::S(key.pk().into())),
            ("sk".to_owned(), AttributeValue::S(key.sk().into())),
            ("version".to_owned(), number(self.version)),
            ("mask".to_owned(), AttributeValue::Bool(self.flags.mask)),
            ("inherit".to_owned(), AttributeValue::Bool(self.flags.inherit)),
            ("provider".to_owned(), AttributeValue::Bool(self.provider)),
            ("blob".to_owned(), AttributeValue::B(self.blob.clone().into())),
        ]);
        if let Some(at) = self.expires_at_ms {
            item.insert("expires_at_ms".into(), number(at));
            item.insert(TTL.into(), number(ttl_seconds(at)));
        }
        item
    }

    pub(crate) fn parse(mut item: Item) -> Result<Self, StoreError> {
        let parsed = (|| {
            let flag = |name: &str| item.get(name)?.as_bool().ok().copied();
            let expires_at_ms = match item.get("expires_at_ms") {
                Some(at) => Some(at.as_n().ok()?.parse().ok()?),
                None => None,
            };
            Some(Self {
                name: item.get("sk")?.as_s().ok()?.clone(),
                version: item.get("version")?.as_n().ok()?.parse().ok()?,
                expires_at_ms,
                flags: Flags { mask: flag("mask")?, inherit: flag("inherit")? },
                provider: flag("provider")?,
                blob: Vec::new(),
            })
        })();
        let row = parsed.ok_or(StoreError::Corrupt("a sealed value's row"))?;
        match item.remove("blob") {
            Some(AttributeValue::B(blob)) => Ok(Self { blob: blob.into_inner(), ..row }),
            _ => Err(StoreError::Corrupt("a sealed value's row")),
        }
    }

    /// What the record is bound to: the tenant from the authorised request, the rest from columns that it proves.
    pub(crate) fn context<'a>(
        &'a self,
        deployment: &'a str,
        scope: &'a ReadScope,
        target: &'a SecretTarget,
    ) -> Context<'a> {
        Context {
            deployment,
            platform: scope.platform().as_str(),
            mode: scope.mode().as_str(),
            scope: match target {
                SecretTarget::Platform => Scope::Platform,
                SecretTarget::Session(id) => Scope::Session(id.as_str()),
            },
            purpose: if self.provider { Purpose::ProviderCredential } else { Purpose::AgentSecret },
            name: &self.name,
            version: self.version,
            expires_at_ms: self.expires_at_ms,
            flags: self.flags,
        }
    }
}

/// Holds while a platform's vault key is the one that was read: nothing may be written under a key that has gone.
pub(crate) fn same_key(platform: &PlatformRow) -> Expression {
    Expression::new("vault_key_version = :version AND vault_salt = :salt")
        .value(":version", number(platform.vault_key_version))
        .value(":salt", AttributeValue::S(hex::encode(platform.vault_salt)))
}
