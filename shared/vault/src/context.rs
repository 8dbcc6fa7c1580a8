//! What a record is bound to, and its one canonical encoding.
//!
//! The encoding is the GCM associated data and part of both derivations of a record. It is injective: the number of
//! fields and each field's length are written before it, so no two different contexts give the same bytes.

use crate::{VaultError, record};

/// Most bytes that one text field of a context may have.
pub const MAX_FIELD_LEN: usize = 1024;

/// First bytes of every encoded context.
pub(crate) const MAGIC: [u8; 4] = *b"THZO";

/// Where a secret belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope<'a> {
    /// To the whole platform.
    Platform,
    /// To one session, by its id.
    Session(&'a str),
    /// To one agent, by its id. Only copies do, and nothing else: [`Purpose::AgentCopy`] and [`Purpose::TokenCopy`].
    Agent(&'a str),
}

/// What a secret may be used for. Each purpose has its own derivation labels, so a record of one never opens as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A value that agents get as an environment variable.
    AgentSecret,
    /// A value that only a provider adapter gets, and no agent ever.
    ProviderCredential,
    /// A copy of a value that an agent booted with, kept beside it to mask its output with, and never delivered. It
    /// belongs to a [`Scope::Agent`] and to no other.
    AgentCopy,
    /// The same for what the agent reports of itself: sealed under a key derived from the agent's token, so that whoever
    /// is shown the token opens it without any other key. It belongs to a [`Scope::Agent`] and to no other.
    TokenCopy,
}

impl Purpose {
    /// The purpose's byte in the encoded context.
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::AgentSecret => 1,
            Self::ProviderCredential => 2,
            Self::AgentCopy => 3,
            Self::TokenCopy => 4,
        }
    }
}

/// Switches of a secret that must not be edited behind the vault's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Whether the value is masked in what the API shows of an agent.
    pub mask: bool,
    /// Whether sessions inherit the value from their platform.
    pub inherit: bool,
}

impl Flags {
    /// One byte: bit 0 is `mask`, bit 1 is `inherit`, the rest is zero.
    pub(crate) const fn byte(self) -> u8 {
        self.mask as u8 | (self.inherit as u8) << 1
    }
}

/// Everything that a record is bound to, besides its key versions (which the key knows).
///
/// Build it from the authorised request. A context read from the row that holds the record proves nothing: whoever
/// moved or edited the row wrote both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context<'a> {
    /// Name of the deployment (`dev`, `staging`, `prod`), so that a row copied between two does not open.
    pub deployment: &'a str,
    /// Id of the platform.
    pub platform: &'a str,
    /// `live` or `test`.
    pub mode: &'a str,
    /// Where the secret belongs.
    pub scope: Scope<'a>,
    /// What the secret may be used for.
    pub purpose: Purpose,
    /// The secret's canonical name: uppercase ASCII letters, digits and `_`.
    pub name: &'a str,
    /// The secret's version, from a counter that never restarts.
    pub version: u64,
    /// When the secret expires, milliseconds since 1970-01-01 UTC. The core binds it and does not look at a clock.
    pub expires_at_ms: Option<i64>,
    /// The secret's switches.
    pub flags: Flags,
}

impl Context<'_> {
    /// Refuses what no authorised request leads to, above all a name that somebody forgot to uppercase: its record
    /// would be written and never found again.
    fn check(&self) -> Result<(), VaultError> {
        check_text(self.deployment, "deployment")?;
        check_text(self.platform, "platform")?;
        check_text(self.name, "name")?;
        match self.scope {
            Scope::Platform => {}
            Scope::Session(id) => check_text(id, "session")?,
            Scope::Agent(id) => check_text(id, "agent")?,
        }
        // A copy belongs to an agent, and nothing else does.
        if matches!(self.scope, Scope::Agent(_)) != matches!(self.purpose, Purpose::AgentCopy | Purpose::TokenCopy) {
            return Err(VaultError::InvalidContext("purpose"));
        }
        if !matches!(self.mode, "live" | "test") {
            return Err(VaultError::InvalidContext("mode"));
        }
        let canonical = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        if !self.name.bytes().all(canonical) {
            return Err(VaultError::InvalidContext("name"));
        }
        Ok(())
    }

    /// The canonical encoding under these key versions.
    pub(crate) fn encode(&self, root_version: u32, platform_key_version: u32) -> Result<Vec<u8>, VaultError> {
        self.check()?;
        let mut scope = Vec::new();
        match self.scope {
            Scope::Platform => scope.push(0),
            Scope::Session(id) => {
                scope.push(1);
                scope.extend_from_slice(id.as_bytes());
            }
            Scope::Agent(id) => {
                scope.push(2);
                scope.extend_from_slice(id.as_bytes());
            }
        }
        let expiry = self.expires_at_ms.map(i64::to_be_bytes);
        Ok(encode_fields(
            self.purpose.byte(),
            &[
                self.deployment.as_bytes(),
                self.platform.as_bytes(),
                self.mode.as_bytes(),
                &scope,
                self.name.as_bytes(),
                &self.version.to_be_bytes(),
                expiry.as_ref().map_or(&[], |bytes| bytes.as_slice()),
                &[self.flags.byte()],
                &root_version.to_be_bytes(),
                &platform_key_version.to_be_bytes(),
            ],
        ))
    }
}

fn check_text(text: &str, field: &'static str) -> Result<(), VaultError> {
    if text.is_empty() || text.len() > MAX_FIELD_LEN { Err(VaultError::InvalidContext(field)) } else { Ok(()) }
}

/// `magic | format | suite | purpose | number of fields u32 BE | (length u32 BE | bytes)*`.
pub(crate) fn encode_fields(purpose: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[record::FORMAT, record::SUITE, purpose]);
    out.extend_from_slice(&len_u32(fields.len()));
    for field in fields {
        put_field(&mut out, field);
    }
    out
}

/// Appends one field, its length first.
pub(crate) fn put_field(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&len_u32(field.len()));
    out.extend_from_slice(field);
}

fn len_u32(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("ids and names are far below 4 GiB").to_be_bytes()
}
