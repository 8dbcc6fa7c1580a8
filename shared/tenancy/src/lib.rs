//! Who is calling, and what they may reach.
//!
//! This crate owns ids, credentials, principals, scopes and the layout of table keys. It does no I/O. The chain
//! that everything else leans on: a bearer token is parsed into a [`Claim`] (its checksum verified, nothing more);
//! a claim and the stored [`CredentialRecord`] prove a [`Principal`]; a principal has a [`TenantScope`]; and only a
//! scope makes a [`TableKey`]. An endpoint has no other way to a tenant's rows. ([`Operator`] is for those who act
//! without a caller; a lint and a test keep endpoints from it.)
//!
//! ```compile_fail
//! // A scope cannot be written down, only proven.
//! fn forge(platform: theazo_tenancy::PlatformId) -> theazo_tenancy::TenantScope {
//!     theazo_tenancy::TenantScope::proven(platform, theazo_tenancy::Mode::Live)
//! }
//! ```
//! ```compile_fail
//! // A table key cannot be made from strings.
//! let key = theazo_tenancy::TableKey { pk: "plt_x#live#values".into(), sk: "NAME".into() };
//! ```
//! ```compile_fail
//! // What was read ahead of authentication cannot be looked at without the principal.
//! fn peek(withheld: theazo_tenancy::Withheld<u8>) -> u8 { withheld.0 }
//! ```
//! ```compile_fail
//! // What holds all sessions' rows cannot be had without asking whether the caller is confined to one.
//! fn list(scope: &theazo_tenancy::ReadScope) -> theazo_tenancy::Partition { scope.agents() }
//! ```
//! ```
//! fn list(scope: &theazo_tenancy::ReadScope) -> Result<theazo_tenancy::Partition, theazo_tenancy::OutOfReach> {
//!     Ok(scope.platform_wide()?.agents())
//! }
//! ```

#![cfg_attr(test, allow(clippy::string_slice, reason = "tests slice ASCII of their own"))]

mod actor;
mod base62;
mod claim;
mod credential;
mod credential_key;
mod ids;
mod keys;
mod operator;
mod rows;
mod scope;
mod user_id;

pub use actor::{Actor, ActorKind, Origin};
pub use claim::{Claim, Withheld};
pub use credential::{CredentialKind, CredentialRecord, Permissions, Principal, Unauthorized};
pub use credential::{CredentialText, IssuedKey, KEY_PREFIX_CHARS, make_agent_token, make_api_key, make_session_token};
pub use credential_key::{AgentPlace, CredentialKey};
pub use ids::{
    AgentId, AuditId, CheckpointId, IdError, KeyId, LogId, PlatformId, RequestId, SessionId, SnapshotId,
    make_random_bytes,
};
pub use keys::{LOG_SHARDS, Partition, TableKey, WORK_SHARDS, WorkRef};
pub use operator::{Operator, SealedOwner, SealedPlace};
pub use rows::{PlatformScope, SessionScope};
pub use scope::{Mode, OutOfReach, ReadScope, TenantScope};
pub use user_id::{MAX_USER_ID_BYTES, UserId};
