//! The key that tells the credentials we issued from rows that somebody else wrote into the table.

use crate::{AgentId, CredentialKind, CredentialRecord, Mode, PlatformId, SessionId, make_random_bytes};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What the key is used for: a tag of the one thing is none of the other.
const LABEL: &[u8] = b"theazo credential row v1";
const AGENT_LABEL: &[u8] = b"theazo agent row v1";

/// Whose an agent is.
#[derive(Clone, Copy, Debug)]
pub struct AgentPlace<'a> {
    /// Its platform.
    pub platform: &'a PlatformId,
    /// Its mode.
    pub mode: Mode,
    /// Its session.
    pub session: &'a SessionId,
    /// The agent.
    pub agent: &'a AgentId,
}

/// A deployment's own 32 bytes, which are not in the table. Whoever can write to the table and does not have them
/// cannot insert, revive, widen or move a credential, and cannot make an agent somebody else's.
pub struct CredentialKey(Zeroizing<[u8; 32]>);

impl CredentialKey {
    /// A new key, from the operating system's randomness.
    pub fn make() -> Self {
        Self(Zeroizing::new(make_random_bytes()))
    }

    /// The key of that text, 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), bytes.as_mut_slice()).ok()?;
        Some(Self(bytes))
    }

    /// The key's text, for a deployment's configuration.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.as_slice()))
    }

    /// HMAC-SHA-256 of all that a credential's row says.
    pub fn seal(&self, record: &CredentialRecord) -> [u8; 32] {
        self.tag(record).finalize().into_bytes().into()
    }

    /// Whether the tag is this record's, in constant time.
    pub fn is_sealed(&self, record: &CredentialRecord, tag: &[u8]) -> bool {
        self.tag(record).verify_slice(tag).is_ok()
    }

    fn tag(&self, record: &CredentialRecord) -> Hmac<Sha256> {
        // Taken apart whole: a field that is added and not covered does not compile.
        let CredentialRecord { hash, id, kind, platform, mode, expires_at_ms, cursor_key, permissions, epoch } = record;
        let (kind, session, agent) = match kind {
            CredentialKind::ApiKey => ("api key", "", ""),
            CredentialKind::Session(session) => ("session", session.as_str(), ""),
            CredentialKind::Agent(session, agent) => ("agent", session.as_str(), agent.as_str()),
        };
        let expires = expires_at_ms.map(i64::to_be_bytes);
        self.tag_of(&[
            LABEL,
            hash,
            id.as_str().as_bytes(),
            kind.as_bytes(),
            session.as_bytes(),
            agent.as_bytes(),
            platform.as_str().as_bytes(),
            mode.as_str().as_bytes(),
            expires.as_ref().map_or(&[], |bytes| bytes.as_slice()),
            cursor_key,
            &[u8::from(permissions.exec)],
            &epoch.to_be_bytes(),
        ])
    }

    /// HMAC-SHA-256 of whose an agent is, for its row. A sandbox is found by its agent's id alone: a row that is somewhere
    /// else would give it to somebody else.
    pub fn seal_agent(&self, place: AgentPlace<'_>) -> [u8; 32] {
        self.agent_tag(place).finalize().into_bytes().into()
    }

    /// Whether the tag is of an agent in that place, in constant time.
    pub fn is_agents(&self, place: AgentPlace<'_>, tag: &[u8]) -> bool {
        self.agent_tag(place).verify_slice(tag).is_ok()
    }

    fn agent_tag(&self, AgentPlace { platform, mode, session, agent }: AgentPlace<'_>) -> Hmac<Sha256> {
        let ids = [platform.as_str(), mode.as_str(), session.as_str(), agent.as_str()].map(str::as_bytes);
        self.tag_of(&[&[AGENT_LABEL], ids.as_slice()].concat())
    }

    /// Of parts, each with its length before it.
    fn tag_of(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut tag = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("HMAC takes keys of any length");
        for part in parts {
            tag.update(&(part.len() as u64).to_be_bytes());
            tag.update(part);
        }
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyId, Permissions};

    fn record() -> CredentialRecord {
        CredentialRecord {
            hash: [1; 32],
            id: KeyId::parse("key_00000000000000000000000000").unwrap(),
            kind: CredentialKind::ApiKey,
            platform: PlatformId::parse("plt_00000000000000000000000000").unwrap(),
            mode: Mode::Live,
            expires_at_ms: None,
            cursor_key: [2; 32],
            permissions: Permissions { exec: true },
            epoch: 0,
        }
    }

    #[test]
    fn a_tag_covers_every_part_of_a_credential() {
        let key = CredentialKey::make();
        let session = SessionId::make();
        let token = CredentialKind::Session(session.clone());
        let changed = [
            CredentialRecord { hash: [0; 32], ..record() },
            CredentialRecord { id: KeyId::make(), ..record() },
            CredentialRecord { kind: token.clone(), ..record() },
            CredentialRecord { kind: CredentialKind::Session(SessionId::make()), ..record() },
            CredentialRecord { kind: CredentialKind::Agent(session.clone(), AgentId::make()), ..record() },
            CredentialRecord { kind: CredentialKind::Agent(session, AgentId::make()), ..record() },
            CredentialRecord { platform: PlatformId::make(), ..record() },
            CredentialRecord { mode: Mode::Test, ..record() },
            CredentialRecord { expires_at_ms: Some(0), ..record() },
            CredentialRecord { expires_at_ms: Some(1), ..record() },
            CredentialRecord { cursor_key: [0; 32], ..record() },
            CredentialRecord { permissions: Permissions { exec: false }, ..record() },
            CredentialRecord { epoch: 1, ..record() },
            record(),
        ];
        let tags: Vec<_> = changed.iter().map(|record| key.seal(record)).collect();
        for (index, record) in changed.iter().enumerate() {
            for (other, tag) in tags.iter().enumerate() {
                assert_eq!(key.is_sealed(record, tag), index == other, "{index} {other}");
            }
        }
    }

    #[test]
    fn an_agents_tag_covers_each_part_of_whose_it_is() {
        let key = CredentialKey::make();
        let (platform, session, agent) = (PlatformId::make(), SessionId::make(), AgentId::make());
        let (platform_2, session_2, agent_2) = (PlatformId::make(), SessionId::make(), AgentId::make());
        let own = AgentPlace { platform: &platform, mode: Mode::Live, session: &session, agent: &agent };
        let tag = key.seal_agent(own);
        assert!(key.is_agents(own, &tag) && !CredentialKey::make().is_agents(own, &tag));
        assert!(!key.is_agents(own, &tag[..31]) && !key.is_agents(own, &[]));
        for other in [
            AgentPlace { platform: &platform_2, ..own },
            AgentPlace { mode: Mode::Test, ..own },
            AgentPlace { session: &session_2, ..own },
            AgentPlace { agent: &agent_2, ..own },
        ] {
            assert!(!key.is_agents(other, &tag), "{other:?}");
        }
        let kind = CredentialKind::Agent(session.clone(), agent.clone());
        assert_ne!(key.seal(&CredentialRecord { kind, platform: platform.clone(), ..record() }), tag);
    }

    #[test]
    fn a_tag_is_another_keys_or_cut_short_and_proves_nothing() {
        let (key, record) = (CredentialKey::make(), record());
        let tag = key.seal(&record);
        assert!(!CredentialKey::make().is_sealed(&record, &tag));
        assert!(!key.is_sealed(&record, &tag[..31]) && !key.is_sealed(&record, &[]));
        let same = CredentialKey::parse(&format!("{}\n", *key.to_text())).unwrap();
        assert!(same.is_sealed(&record, &tag));
        for bad in ["", "00", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
            assert!(CredentialKey::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_encoding_stays_what_rows_were_sealed_with() {
        // Computed with Python's hmac over the length-prefixed parts.
        let key = CredentialKey::parse(&"07".repeat(32)).unwrap();
        assert_eq!(
            hex::encode(key.seal(&record())),
            "546ed0cd334f842593c2083f18d39e81980b52dcc1c8d45b8fd204bbb2341a6e"
        );
    }
}
