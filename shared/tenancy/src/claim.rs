//! What a caller claims to be, before any I/O, and how the claim is proven.

use crate::credential::{AGENT_PREFIX, CHECKSUM_CHARS, RANDOM_CHARS, SESSION_PREFIX};
use crate::keys::TableKey;
use crate::{
    AgentId, CredentialKind, CredentialRecord, Mode, PlatformId, Principal, ReadScope, SessionId, SessionScope,
    Unauthorized, base62,
};
use sha2::{Digest, Sha256};
use std::fmt;
use std::future::Future;
use subtle::ConstantTimeEq;

/// A well-formed credential with a right checksum. It says only where to look; it proves nothing.
#[derive(Clone)]
pub struct Claim {
    hash: [u8; 32],
    kind: CredentialKind,
    platform: PlatformId,
    mode: Mode,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("platform", &self.platform).finish_non_exhaustive()
    }
}

/// Something read for a claim that is not proven yet. It can be looked at only with the principal that the very
/// same credential proved, so a forged credential never learns what was read for it.
#[must_use]
pub struct Withheld<T>(T, [u8; 32]);

impl<T> Withheld<T> {
    /// Hands the value over to the principal of the credential it was read for.
    ///
    /// # Errors
    /// [`Unauthorized`] when the principal was proven by another credential.
    pub fn release(self, principal: &Principal) -> Result<T, Unauthorized> {
        if bool::from(self.1.ct_eq(&principal.hash)) { Ok(self.0) } else { Err(Unauthorized) }
    }
}

impl Claim {
    /// Takes a credential apart and verifies its checksum, without any I/O.
    ///
    /// # Errors
    /// [`Unauthorized`] for everything that could not have been made here.
    pub fn parse(token: &str) -> Result<Self, Unauthorized> {
        Self::take_apart(token).ok_or(Unauthorized)
    }

    fn take_apart(token: &str) -> Option<Self> {
        let bytes = token.is_ascii().then_some(token)?;
        let (covered, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_CHARS)?)?;
        if checksum.as_bytes() != base62::encode_u32(crc32fast::hash(covered.as_bytes())).as_slice() {
            return None;
        }
        let key_mode = [Mode::Live, Mode::Test].into_iter().find(|mode| covered.starts_with(mode.key_prefix()));
        let prefix = match key_mode {
            Some(mode) => mode.key_prefix(),
            None => [SESSION_PREFIX, AGENT_PREFIX].into_iter().find(|prefix| covered.starts_with(prefix))?,
        };
        let (random, rest) = covered.strip_prefix(prefix)?.split_at_checked(RANDOM_CHARS)?;
        let (platform, rest) = rest.split_at_checked(PlatformId::LEN)?;
        let (kind, mode) = match key_mode {
            Some(mode) => rest.is_empty().then_some((CredentialKind::ApiKey, mode))?,
            None => {
                let (session, rest) = rest.split_at_checked(SessionId::LEN)?;
                let session = SessionId::parse(session).ok()?;
                let (kind, letter) = if prefix == SESSION_PREFIX {
                    (CredentialKind::Session(session), rest)
                } else {
                    let (agent, rest) = rest.split_at_checked(AgentId::LEN)?;
                    (CredentialKind::Agent(session, AgentId::parse(agent).ok()?), rest)
                };
                (kind, [Mode::Live, Mode::Test].into_iter().find(|mode| mode.letter() == letter)?)
            }
        };
        let platform = PlatformId::parse(platform).ok()?;
        base62::is_base62(random).then(|| Self { hash: Self::hash_of(token), kind, platform, mode })
    }

    pub(crate) fn hash_of(token: &str) -> [u8; 32] {
        Sha256::digest(token.as_bytes()).into()
    }

    /// Where the credential's row is, if there is one.
    pub fn credential_key(&self) -> TableKey {
        TableKey::credential(&self.hash)
    }

    /// What the credential says it is for. Nothing is proven by it.
    pub fn kind(&self) -> &CredentialKind {
        &self.kind
    }

    /// The row of the session that the credential names, on which its validity depends as well. For the lookup of the
    /// credential only.
    pub fn session_key(&self) -> Option<TableKey> {
        let session = self.kind.session()?;
        Some(SessionScope::claimed(&self.platform, self.mode, session).key())
    }

    /// The row that is there while the platform that the credential names is suspended, likewise.
    pub fn standing_key(&self) -> TableKey {
        TableKey::standing(&self.platform)
    }

    /// The row of the agent that the credential names, likewise.
    pub fn agent_key(&self) -> Option<TableKey> {
        let CredentialKind::Agent(_, agent) = &self.kind else { return None };
        self.claimed_scope().agent_key(agent).ok()
    }

    fn claimed_scope(&self) -> ReadScope {
        ReadScope::claimed(self.platform.clone(), self.mode, self.kind.reach())
    }

    /// Starts a read for the claimed tenant side by side with the credential's lookup. The outcome is withheld
    /// until the claim is proven.
    pub async fn read_ahead<T, F>(&self, read: impl FnOnce(ReadScope) -> F) -> Withheld<T>
    where
        F: Future<Output = T>,
    {
        Withheld(read(self.claimed_scope()).await, self.hash)
    }

    /// Proves the claim by the stored credential.
    ///
    /// # Errors
    /// [`Unauthorized`] when there is none, as after a revocation, when it is another's, or when it has expired.
    pub fn prove(&self, record: Option<&CredentialRecord>, now_ms: i64) -> Result<Principal, Unauthorized> {
        let record = record.ok_or(Unauthorized)?;
        let same = bool::from(record.hash.ct_eq(&self.hash))
            && record.kind == self.kind
            && record.platform == self.platform
            && record.mode == self.mode;
        if !same || record.expires_at_ms.is_some_and(|at| at <= now_ms) {
            return Err(Unauthorized);
        }
        Ok(Principal {
            hash: self.hash,
            id: record.id.clone(),
            platform: record.platform.clone(),
            mode: record.mode,
            kind: record.kind.clone(),
            permissions: record.permissions,
            expires_at_ms: record.expires_at_ms,
            cursor_key: record.cursor_key,
            session_is_paused: false,
            origin: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IssuedKey, KeyId, Permissions, make_agent_token, make_api_key, make_session_token};

    fn issued(mode: Mode) -> (IssuedKey, CredentialRecord) {
        let platform = PlatformId::make();
        let key = make_api_key(&platform, mode);
        let record = CredentialRecord {
            hash: key.hash,
            id: KeyId::make(),
            kind: CredentialKind::ApiKey,
            platform,
            mode,
            expires_at_ms: None,
            cursor_key: [7; 32],
            permissions: Permissions { exec: true },
            epoch: 0,
        };
        (key, record)
    }

    #[test]
    fn a_made_key_parses_names_its_platform_and_is_proven_by_its_row() {
        for mode in [Mode::Live, Mode::Test] {
            let (key, record) = issued(mode);
            assert_eq!(key.text.len(), 8 + 32 + 30 + 6);
            assert_eq!(key.prefix, key.text[..12]);
            let claim = Claim::parse(&key.text).unwrap();
            assert_eq!((&claim.platform, claim.mode), (&record.platform, mode));
            let principal = claim.prove(Some(&record), 0).unwrap();
            assert_eq!(principal.platform(), &record.platform);
        }
    }

    #[test]
    fn a_known_key_has_the_documented_checksum() {
        // CRC-32 (ISO-HDLC) of the first 70 characters, computed with Python's zlib.crc32.
        let body = "th_live_00000000000000000000000000000000plt_00000000000000000000000000";
        let token = format!("{body}{}", "1KqQge");
        assert!(Claim::parse(&token).is_ok());
    }

    #[test]
    fn a_made_token_names_its_platform_session_agent_and_mode() {
        let (platform, session, agent) = (PlatformId::make(), SessionId::make(), AgentId::make());
        for mode in [Mode::Live, Mode::Test] {
            let token = make_session_token(&platform, mode, &session);
            let claim = Claim::parse(&token.text).unwrap();
            assert_eq!((&claim.platform, claim.mode), (&platform, mode));
            assert_eq!(claim.kind, CredentialKind::Session(session.clone()));
            assert!(claim.claimed_scope().session(&SessionId::make()).is_none());

            let token = make_agent_token(&platform, mode, &session, &agent);
            let claim = Claim::parse(&token.text).unwrap();
            assert_eq!((&claim.platform, claim.mode), (&platform, mode));
            assert_eq!(claim.kind, CredentialKind::Agent(session.clone(), agent.clone()));
        }
    }

    #[test]
    fn parts_of_one_kind_of_credential_do_not_make_another() {
        let checked = |body: String| {
            format!("{body}{}", std::str::from_utf8(&base62::encode_u32(crc32fast::hash(body.as_bytes()))).unwrap())
        };
        let (random, platform, session) = ("0".repeat(32), PlatformId::make(), SessionId::make());
        assert!(Claim::parse(&checked(format!("th_live_{random}{platform}"))).is_ok());
        for body in [
            format!("th_live_{random}{platform}{session}l"),
            format!("th_sess_{random}{platform}l"),
            format!("th_sess_{random}{platform}{session}"),
            format!("th_sess_{random}{platform}{session}x"),
            format!("th_sess_{random}{platform}{session}ll"),
            format!("th_agent_{random}{platform}{session}l"),
            format!("th_prod_{random}{platform}"),
            format!("th_live_{}{platform}", "-".repeat(32)),
            format!("{random}{platform}"),
        ] {
            assert!(Claim::parse(&checked(body.clone())).is_err(), "{body}");
        }
    }

    #[test]
    fn every_changed_character_is_refused_before_any_lookup() {
        let (key, _) = issued(Mode::Live);
        for index in 0..key.text.len() {
            let mut bytes = key.text.as_bytes().to_vec();
            bytes[index] = if bytes[index] == b'a' { b'b' } else { b'a' };
            assert!(Claim::parse(std::str::from_utf8(&bytes).unwrap()).is_err(), "position {index}");
        }
        for end in 0..key.text.len() {
            assert!(Claim::parse(&key.text[..end]).is_err());
        }
        assert!(Claim::parse(&format!("{}0", &*key.text)).is_err());
        assert!(Claim::parse(&"th_live_\u{fc}".repeat(9)).is_err());
    }

    #[test]
    fn an_absent_foreign_or_expired_row_proves_nothing() {
        let (key, record) = issued(Mode::Live);
        let claim = Claim::parse(&key.text).unwrap();
        assert!(claim.prove(None, 0).is_err());
        let foreign = CredentialRecord { platform: PlatformId::make(), ..record.clone() };
        assert!(claim.prove(Some(&foreign), 0).is_err());
        let other_mode = CredentialRecord { mode: Mode::Test, ..record.clone() };
        assert!(claim.prove(Some(&other_mode), 0).is_err());
        let other_hash = CredentialRecord { hash: [0; 32], ..record.clone() };
        assert!(claim.prove(Some(&other_hash), 0).is_err());
        let other_kind = CredentialRecord { kind: CredentialKind::Session(SessionId::make()), ..record.clone() };
        assert!(claim.prove(Some(&other_kind), 0).is_err());
        let expired = CredentialRecord { expires_at_ms: Some(10), ..record };
        assert!(claim.prove(Some(&expired), 9).is_ok());
        assert!(claim.prove(Some(&expired), 10).is_err());
    }

    #[test]
    fn what_is_printed_of_a_claim_and_of_what_proves_it_is_nothing_that_is_looked_up_or_kept() {
        let (key, record) = issued(Mode::Live);
        let claim = Claim::parse(&key.text).unwrap();
        assert_eq!(format!("{claim:?}"), format!("Claim {{ platform: {:?}, .. }}", claim.platform));
        let principal = claim.prove(Some(&record), 0).unwrap();
        let (id, platform) = (&record.id, &record.platform);
        assert_eq!(format!("{record:?}"), format!("CredentialRecord {{ id: {id}, .. }}"));
        assert_eq!(format!("{principal:?}"), format!("Principal {{ id: {id}, platform: {platform}, .. }}"));
    }

    #[test]
    fn a_claim_names_the_rows_of_the_session_and_agent_that_its_credential_is_for() {
        let (platform, session, agent) = (PlatformId::make(), SessionId::make(), AgentId::make());
        let rows = |text: &str| Claim::parse(text).map(|claim| (claim.session_key(), claim.agent_key())).unwrap();
        let own = SessionScope::claimed(&platform, Mode::Test, &session);
        let (of_session, of_agent) = (Some(own.key()), Some(own.agents().row(agent.as_str())));
        assert_eq!(rows(&crate::make_api_key(&platform, Mode::Test).text), (None, None));
        let token = crate::make_session_token(&platform, Mode::Test, &session);
        assert_eq!(rows(&token.text), (of_session.clone(), None));
        let token = crate::make_agent_token(&platform, Mode::Test, &session, &agent);
        assert_eq!(rows(&token.text), (of_session, of_agent));
    }

    #[test]
    fn a_caller_is_what_the_row_says_in_the_request_that_was_made() {
        let (platform, session, id) = (PlatformId::make(), SessionId::make(), KeyId::make());
        let token = make_session_token(&platform, Mode::Test, &session);
        let record = CredentialRecord {
            hash: token.hash,
            id: id.clone(),
            kind: CredentialKind::Session(session.clone()),
            platform: platform.clone(),
            mode: Mode::Test,
            expires_at_ms: Some(10),
            cursor_key: [7; 32],
            permissions: Permissions { exec: false },
            epoch: 0,
        };
        let origin = crate::Origin { request: crate::RequestId::make(), source_ip: None, trace: Some("t".into()) };
        let caller = Claim::parse(&token.text).unwrap().prove(Some(&record), 0).unwrap().in_request(origin.clone());
        assert_eq!((caller.platform(), caller.mode(), caller.session()), (&platform, Mode::Test, Some(&session)));
        assert_eq!((caller.credential_id(), caller.expires_at_ms(), caller.cursor_key()), (&id, Some(10), &[7; 32]));
        assert!(!caller.permissions().exec);
        assert_eq!(caller.scope().actor().origin, Some(origin));
        assert_eq!(caller.scope().confined_to(), Some(&session));
        assert!(!caller.session_is_paused() && caller.clone().in_session(true).session_is_paused());
    }

    #[test]
    fn what_was_read_ahead_is_released_only_to_the_same_credential() {
        let (key, record) = issued(Mode::Live);
        let (other, other_record) = issued(Mode::Live);
        let claim = Claim::parse(&key.text).unwrap();
        let principal = claim.prove(Some(&record), 0).unwrap();
        let stranger = Claim::parse(&other.text).unwrap().prove(Some(&other_record), 0).unwrap();
        assert!(Withheld(1, claim.hash).release(&stranger).is_err());
        assert_eq!(Withheld(1, claim.hash).release(&principal), Ok(1));
    }
}
