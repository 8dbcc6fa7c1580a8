//! Credentials as they are made and stored, and the principals they prove.

use crate::scope::Reach;
use crate::{Actor, ActorKind, AgentId, Claim, KeyId, Mode, Origin, PlatformId, SessionId, TenantScope, base62};
use std::fmt;
use std::ops::Deref;
use zeroize::Zeroizing;

/// Random base62 characters in a credential: 190 bits from the operating system.
pub(crate) const RANDOM_CHARS: usize = 32;
/// Base62 characters of the CRC-32 at a credential's end.
pub(crate) const CHECKSUM_CHARS: usize = 6;
/// What every session's token begins with.
pub(crate) const SESSION_PREFIX: &str = "th_sess_";
/// What every agent's token begins with.
pub(crate) const AGENT_PREFIX: &str = "th_agent_";
/// How many characters of a key may be shown again after its making.
pub const KEY_PREFIX_CHARS: usize = 12;

/// The one answer to every credential that is not good: absent, malformed, unknown, revoked, expired or of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credential is not good")]
pub struct Unauthorized;

/// What a credential is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// An API key: the whole platform, in one mode.
    ApiKey,
    /// A session's token: that session and nothing else.
    Session(SessionId),
    /// An agent's token: what that agent reports of itself, and nothing else.
    Agent(SessionId, AgentId),
}

/// What a session's token allows besides reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Whether it may do anything but read.
    pub exec: bool,
}

/// What a credential's row says, found by the SHA-256 of the whole credential. A revoked one has none.
#[derive(Clone)]
pub struct CredentialRecord {
    /// SHA-256 of the credential.
    pub hash: [u8; 32],
    /// Its public id.
    pub id: KeyId,
    /// What it is for.
    pub kind: CredentialKind,
    /// Whose it is.
    pub platform: PlatformId,
    /// Which of the platform's two worlds it opens.
    pub mode: Mode,
    /// When it ends by itself, Unix milliseconds.
    pub expires_at_ms: Option<i64>,
    /// 32 random bytes of the platform, for authenticating its cursors.
    pub cursor_key: [u8; 32],
    /// What it allows.
    pub permissions: Permissions,
    /// A session's token is good while its session's epoch is this one.
    pub epoch: u64,
}

impl fmt::Debug for CredentialRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialRecord").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A caller whose credential was found and good.
#[derive(Clone)]
pub struct Principal {
    pub(crate) hash: [u8; 32],
    pub(crate) id: KeyId,
    pub(crate) platform: PlatformId,
    pub(crate) mode: Mode,
    pub(crate) kind: CredentialKind,
    pub(crate) permissions: Permissions,
    pub(crate) expires_at_ms: Option<i64>,
    pub(crate) cursor_key: [u8; 32],
    pub(crate) session_is_paused: bool,
    pub(crate) origin: Option<Origin>,
}

impl Principal {
    /// What the caller may reach.
    pub fn scope(&self) -> TenantScope {
        let kind = match self.kind {
            CredentialKind::ApiKey => ActorKind::Platform,
            CredentialKind::Session(_) => ActorKind::Session,
            CredentialKind::Agent(..) => ActorKind::Agent,
        };
        let actor = Actor { kind, credential: Some(self.id.clone()), origin: self.origin.clone() };
        TenantScope::proven(self.platform.clone(), self.mode, self.kind.reach(), actor)
    }

    /// The same caller, in the request that it made.
    #[must_use]
    pub fn in_request(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// The same caller, whose credential's session is paused or not.
    #[must_use]
    pub fn in_session(self, is_paused: bool) -> Self {
        Self { session_is_paused: is_paused, ..self }
    }

    /// Whether the session that the credential is for is paused. Never for a platform's own key.
    pub fn session_is_paused(&self) -> bool {
        self.session_is_paused
    }

    /// The credential's public id, for logs and the audit trail.
    pub fn credential_id(&self) -> &KeyId {
        &self.id
    }

    /// The caller's platform.
    pub fn platform(&self) -> &PlatformId {
        &self.platform
    }

    /// Live or test.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What kind of caller it is.
    pub fn kind(&self) -> &CredentialKind {
        &self.kind
    }

    /// What the credential allows besides reading.
    pub fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// The one session the caller is confined to, for a session's or an agent's credential.
    pub fn session(&self) -> Option<&SessionId> {
        self.kind.session()
    }

    /// When the credential ends by itself, Unix milliseconds.
    pub fn expires_at_ms(&self) -> Option<i64> {
        self.expires_at_ms
    }

    /// The key that authenticates this platform's cursors.
    pub fn cursor_key(&self) -> &[u8; 32] {
        &self.cursor_key
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").field("id", &self.id).field("platform", &self.platform).finish_non_exhaustive()
    }
}

impl CredentialKind {
    /// How far it reaches.
    pub(crate) fn reach(&self) -> Reach {
        match self {
            Self::ApiKey => Reach::Platform,
            Self::Session(session) => Reach::Session(session.clone()),
            Self::Agent(session, agent) => Reach::Agent(session.clone(), agent.clone()),
        }
    }

    /// The one session that it reaches, unless it reaches the whole platform.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::ApiKey => None,
            Self::Session(session) | Self::Agent(session, _) => Some(session),
        }
    }
}

/// The text of a credential, zeroed on drop. Nobody prints or records it by accident: it is read as a `str`, and said so.
///
/// ```
/// # use theazo_tenancy::{Mode, PlatformId, make_api_key};
/// let key = make_api_key(&PlatformId::make(), Mode::Live);
/// let line = format!("{}", key.text.as_str());
/// ```
///
/// ```compile_fail,E0277
/// # use theazo_tenancy::{Mode, PlatformId, make_api_key};
/// let key = make_api_key(&PlatformId::make(), Mode::Live);
/// let line = format!("{}", key.text);
/// ```
///
/// ```compile_fail,E0277
/// # use theazo_tenancy::{Mode, PlatformId, make_api_key};
/// let key = make_api_key(&PlatformId::make(), Mode::Live);
/// let line = format!("{:?}", key.text);
/// ```
pub struct CredentialText(Zeroizing<String>);

impl CredentialText {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for CredentialText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A credential that was just made. The text is shown once and never stored.
///
/// ```compile_fail,E0277
/// # use theazo_tenancy::{Mode, PlatformId, make_api_key};
/// let line = format!("{:?}", make_api_key(&PlatformId::make(), Mode::Live));
/// ```
pub struct IssuedKey {
    /// The whole credential.
    pub text: CredentialText,
    /// What may be shown later to recognise it: the first [`KEY_PREFIX_CHARS`] characters.
    pub prefix: String,
    /// SHA-256 of the whole key, which is what the table keeps.
    pub hash: [u8; 32],
}

/// Makes an API key: `th_{live|test}_`, 32 random base62 characters, the platform's id, six characters of checksum.
pub fn make_api_key(platform: &PlatformId, mode: Mode) -> IssuedKey {
    issue(mode.key_prefix(), &[platform.as_str()])
}

/// Makes a session's token: `th_sess_`, 32 random base62 characters, the ids of platform and session, `l` or `t` for the
/// mode, six characters of checksum.
pub fn make_session_token(platform: &PlatformId, mode: Mode, session: &SessionId) -> IssuedKey {
    issue(SESSION_PREFIX, &[platform.as_str(), session.as_str(), mode.letter()])
}

/// Makes an agent's token: `th_agent_`, then as a session's with the agent's id before the mode.
pub fn make_agent_token(platform: &PlatformId, mode: Mode, session: &SessionId, agent: &AgentId) -> IssuedKey {
    issue(AGENT_PREFIX, &[platform.as_str(), session.as_str(), agent.as_str(), mode.letter()])
}

fn issue(prefix: &str, names: &[&str]) -> IssuedKey {
    let random = Zeroizing::new(base62::make_random(RANDOM_CHARS));
    // Never grown: a longer allocation would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(256));
    text.push_str(prefix);
    text.push_str(&random);
    names.iter().for_each(|name| text.push_str(name));
    let checksum = base62::encode_u32(crc32fast::hash(text.as_bytes()));
    text.extend(checksum.iter().copied().map(char::from));
    let prefix = text.chars().take(KEY_PREFIX_CHARS).collect();
    let hash = Claim::hash_of(&text);
    IssuedKey { text: CredentialText(text), prefix, hash }
}
