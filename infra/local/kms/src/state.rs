//! What the emulator knows: keys, their material, aliases. The types are also the file format (see `disk`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::{EmulatorError, code};
use crate::ids::{ARN_PREFIX, KeyId, alias_arn};
use crate::random;
use crate::wire::Blob;

/// Bytes of one generation of key material, for AES-256 and HMAC-SHA-256 alike.
pub(crate) const MATERIAL_LEN: usize = 32;

/// On-demand rotations that AWS allows in the life of a key.
pub(crate) const MAX_ROTATIONS: usize = 25;

/// Everything that is kept.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) keys: BTreeMap<KeyId, Key>,
    /// By name, which includes `alias/`.
    pub(crate) aliases: BTreeMap<String, Alias>,
}

/// One key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    pub(crate) created_ms: u64,
    pub(crate) description: String,
    pub(crate) spec: KeySpec,
    pub(crate) state: KeyState,
    /// Automatic rotation: its period, or `None` when it is off.
    pub(crate) rotation_period_days: Option<u32>,
    /// All generations, oldest first; the last one encrypts, every one decrypts. Never empty.
    pub(crate) generations: Vec<Generation>,
}

/// One generation of a key's material.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Generation {
    pub(crate) created_ms: u64,
    pub(crate) material: Blob,
}

/// What a key is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeySpec {
    #[serde(rename = "SYMMETRIC_DEFAULT")]
    Symmetric,
    #[serde(rename = "HMAC_256")]
    Hmac256,
}

/// Whether a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum KeyState {
    Enabled,
    Disabled,
    PendingDeletion { due_ms: u64 },
}

/// Another name of a key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alias {
    pub(crate) target: KeyId,
    pub(crate) created_ms: u64,
}

impl KeySpec {
    /// The name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "SYMMETRIC_DEFAULT",
            Self::Hmac256 => "HMAC_256",
        }
    }

    /// The one usage AWS allows for the spec.
    pub(crate) fn usage(self) -> &'static str {
        match self {
            Self::Symmetric => "ENCRYPT_DECRYPT",
            Self::Hmac256 => "GENERATE_VERIFY_MAC",
        }
    }
}

impl KeyState {
    /// The name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion { .. } => "PendingDeletion",
        }
    }
}

impl Generation {
    /// Fresh random material.
    pub(crate) fn make() -> Result<Self, EmulatorError> {
        Ok(Self { created_ms: clock::now_ms(), material: random::make_secret(MATERIAL_LEN)?.into() })
    }
}

impl Key {
    /// A new enabled key.
    pub(crate) fn make(spec: KeySpec, description: String) -> Result<Self, EmulatorError> {
        let first = Generation::make()?;
        Ok(Self {
            created_ms: first.created_ms,
            description,
            spec,
            state: KeyState::Enabled,
            rotation_period_days: None,
            generations: vec![first],
        })
    }

    /// The newest generation and its number.
    pub(crate) fn newest(&self) -> Result<(usize, &Generation), EmulatorError> {
        self.generations.iter().enumerate().next_back().ok_or(EmulatorError::Internal("a key without material"))
    }

    /// Refuses a key that is disabled or waits for its deletion.
    pub(crate) fn must_be_enabled(&self, id: KeyId) -> Result<(), EmulatorError> {
        match self.state {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => Err(EmulatorError::refused(code::DISABLED, format!("{} is disabled.", id.arn()))),
            KeyState::PendingDeletion { .. } => self.must_not_be_pending_deletion(id),
        }
    }

    /// Refuses a key that waits for its deletion.
    pub(crate) fn must_not_be_pending_deletion(&self, id: KeyId) -> Result<(), EmulatorError> {
        match self.state {
            KeyState::Enabled | KeyState::Disabled => Ok(()),
            KeyState::PendingDeletion { .. } => {
                Err(EmulatorError::refused(code::INVALID_STATE, format!("{} is pending deletion.", id.arn())))
            }
        }
    }

    /// Refuses a key that is not enabled or was made for something else.
    pub(crate) fn must_be_usable(&self, id: KeyId, spec: KeySpec) -> Result<(), EmulatorError> {
        self.must_be_enabled(id)?;
        if self.spec == spec {
            return Ok(());
        }
        let message = format!("{} key usage is {} which is not valid for this operation.", id.arn(), self.spec.usage());
        Err(EmulatorError::refused(code::INVALID_KEY_USAGE, message))
    }

    fn is_due(&self, now_ms: u64) -> bool {
        matches!(self.state, KeyState::PendingDeletion { due_ms } if due_ms <= now_ms)
    }
}

impl State {
    /// The key behind an identifier, a key ARN, an alias name or an alias ARN.
    pub(crate) fn resolve(&self, text: &str) -> Result<(KeyId, &Key), EmulatorError> {
        let id = match local_part(text)? {
            name if name.starts_with("alias/") => match self.aliases.get(name) {
                Some(alias) => alias.target,
                None => return Err(not_found(format!("Alias {} is not found.", alias_arn(name)))),
            },
            name => parse_key(text, name)?,
        };
        Ok((id, self.key(id)?))
    }

    /// The key behind an identifier or key ARN. Operations that manage a key take no alias.
    pub(crate) fn resolve_without_alias(&self, text: &str) -> Result<KeyId, EmulatorError> {
        let id = parse_key(text, local_part(text)?)?;
        self.key(id).map(|_| id)
    }

    /// The key with this identifier.
    pub(crate) fn key(&self, id: KeyId) -> Result<&Key, EmulatorError> {
        self.keys.get(&id).ok_or_else(|| no_such_key(id))
    }

    /// The key with this identifier, to be changed.
    pub(crate) fn key_mut(&mut self, id: KeyId) -> Result<&mut Key, EmulatorError> {
        self.keys.get_mut(&id).ok_or_else(|| no_such_key(id))
    }

    /// Whether the waiting period of some key is over.
    pub(crate) fn has_due_keys(&self, now_ms: u64) -> bool {
        self.keys.values().any(|key| key.is_due(now_ms))
    }

    /// Destroys the keys whose waiting period is over, and their aliases.
    pub(crate) fn destroy_due_keys(&mut self, now_ms: u64) {
        self.keys.retain(|_, key| !key.is_due(now_ms));
        let keys = &self.keys;
        self.aliases.retain(|_, alias| keys.contains_key(&alias.target));
    }

    /// What makes this state impossible, if anything does. For a state that was read from disk.
    pub(crate) fn contradiction(&self) -> Option<String> {
        for (id, key) in &self.keys {
            if key.generations.is_empty() {
                return Some(format!("key {id} has no material"));
            }
            if key.generations.iter().any(|generation| generation.material.bytes().len() != MATERIAL_LEN) {
                return Some(format!("key {id} has material of a wrong length"));
            }
        }
        let dangling = self.aliases.iter().find(|(_, alias)| !self.keys.contains_key(&alias.target));
        dangling.map(|(name, _)| format!("{name:?} names a key that does not exist"))
    }
}

/// What follows the ARN prefix without a leading `key/`, or the text itself when it is no ARN.
fn local_part(text: &str) -> Result<&str, EmulatorError> {
    if !text.starts_with("arn:") {
        return Ok(text);
    }
    let name = match text.strip_prefix(ARN_PREFIX) {
        Some(name) if name.starts_with("alias/") => Some(name),
        Some(resource) => resource.strip_prefix("key/"),
        None => None,
    };
    name.ok_or_else(|| EmulatorError::refused(code::INVALID_ARN, format!("Invalid arn {text}")))
}

fn parse_key(text: &str, name: &str) -> Result<KeyId, EmulatorError> {
    KeyId::parse(name).ok_or_else(|| not_found(format!("Invalid keyId '{text}'")))
}

fn no_such_key(id: KeyId) -> EmulatorError {
    not_found(format!("Key '{}' does not exist", id.arn()))
}

fn not_found(message: String) -> EmulatorError {
    EmulatorError::refused(code::NOT_FOUND, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_generation_encrypts_and_has_material_of_its_own() {
        let mut key = Key::make(KeySpec::Symmetric, String::new()).unwrap();
        let first = key.newest().unwrap().1.material.bytes().to_vec();
        key.generations.push(Generation::make().unwrap());
        let (number, generation) = key.newest().unwrap();
        assert_eq!(number, 1);
        assert_ne!(generation.material.bytes(), first);
    }

    #[test]
    fn a_key_is_destroyed_with_its_aliases_when_its_waiting_period_ends_and_not_before() {
        let mut state = State::default();
        let (doomed, kept) = (KeyId::make().unwrap(), KeyId::make().unwrap());
        for (id, name) in [(doomed, "alias/doomed"), (kept, "alias/kept")] {
            state.keys.insert(id, Key::make(KeySpec::Symmetric, String::new()).unwrap());
            state.aliases.insert(name.to_owned(), Alias { target: id, created_ms: 0 });
        }
        state.key_mut(doomed).unwrap().state = KeyState::PendingDeletion { due_ms: 1000 };

        state.destroy_due_keys(999);
        assert!(!state.has_due_keys(999));
        assert_eq!(state.keys.len(), 2);

        assert!(state.has_due_keys(1000));
        state.destroy_due_keys(1000);
        assert!(state.key(doomed).is_err());
        assert!(state.resolve("alias/doomed").is_err());
        assert_eq!(state.resolve("alias/kept").unwrap().0, kept);
        assert_eq!(state.contradiction(), None);
    }
}
