//! What a caller claims to be, before any I/O, and how the claim is proven.

use crate::credential::{CHECKSUM_CHARS, RANDOM_CHARS};
use crate::keys::TableKey;
use crate::{CredentialKind, CredentialRecord, Mode, PlatformId, Principal, ReadScope, Unauthorized, base62};
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
    /// Takes a bearer token apart and verifies its checksum, without any I/O.
    ///
    /// # Errors
    /// [`Unauthorized`] for everything that [`crate::make_api_key`] could not have made.
    pub fn parse(token: &str) -> Result<Self, Unauthorized> {
        let (mode, rest) = [Mode::Live, Mode::Test]
            .into_iter()
            .find_map(|mode| token.strip_prefix(mode.key_prefix()).map(|rest| (mode, rest)))
            .ok_or(Unauthorized)?;
        if !rest.is_ascii() || rest.len() != RANDOM_CHARS + PlatformId::LEN + CHECKSUM_CHARS {
            return Err(Unauthorized);
        }
        let (random, rest) = rest.split_at(RANDOM_CHARS);
        let (platform, checksum) = rest.split_at(PlatformId::LEN);
        let (covered, _) = token.split_at(token.len() - CHECKSUM_CHARS);
        if !base62::is_base62(random)
            || checksum.as_bytes() != base62::encode_u32(crc32fast::hash(covered.as_bytes())).as_slice()
        {
            return Err(Unauthorized);
        }
        let platform = PlatformId::parse(platform).map_err(|_| Unauthorized)?;
        Ok(Self { hash: Self::hash_of(token), kind: CredentialKind::ApiKey, platform, mode })
    }

    pub(crate) fn hash_of(token: &str) -> [u8; 32] {
        Sha256::digest(token.as_bytes()).into()
    }

    /// Where the credential's row is, if there is one.
    pub fn credential_key(&self) -> TableKey {
        TableKey::credential(&self.hash)
    }

    /// Starts a read for the claimed tenant side by side with the credential's lookup. The outcome is withheld
    /// until the claim is proven.
    pub async fn read_ahead<T, F>(&self, read: impl FnOnce(ReadScope) -> F) -> Withheld<T>
    where
        F: Future<Output = T>,
    {
        Withheld(read(ReadScope::claimed(self.platform.clone(), self.mode)).await, self.hash)
    }

    /// Proves the claim by the stored credential.
    ///
    /// # Errors
    /// [`Unauthorized`] when there is none, when it is another's, or when it was revoked or has expired.
    pub fn prove(&self, record: Option<&CredentialRecord>, now_ms: i64) -> Result<Principal, Unauthorized> {
        let record = record.ok_or(Unauthorized)?;
        let same = bool::from(record.hash.ct_eq(&self.hash))
            && record.kind == self.kind
            && record.platform == self.platform
            && record.mode == self.mode;
        let over =
            record.revoked_at_ms.is_some_and(|at| at <= now_ms) || record.expires_at_ms.is_some_and(|at| at <= now_ms);
        if !same || over {
            return Err(Unauthorized);
        }
        Ok(Principal {
            hash: self.hash,
            id: record.id.clone(),
            platform: record.platform.clone(),
            mode: record.mode,
            session: None,
            expires_at_ms: record.expires_at_ms,
            cursor_key: record.cursor_key,
            origin: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IssuedKey, KeyId, make_api_key};

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
            revoked_at_ms: None,
            cursor_key: [7; 32],
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
    fn an_absent_foreign_revoked_or_expired_row_proves_nothing() {
        let (key, record) = issued(Mode::Live);
        let claim = Claim::parse(&key.text).unwrap();
        assert!(claim.prove(None, 0).is_err());
        let foreign = CredentialRecord { platform: PlatformId::make(), ..record.clone() };
        assert!(claim.prove(Some(&foreign), 0).is_err());
        let other_mode = CredentialRecord { mode: Mode::Test, ..record.clone() };
        assert!(claim.prove(Some(&other_mode), 0).is_err());
        let other_hash = CredentialRecord { hash: [0; 32], ..record.clone() };
        assert!(claim.prove(Some(&other_hash), 0).is_err());
        let expired = CredentialRecord { expires_at_ms: Some(10), ..record.clone() };
        assert!(claim.prove(Some(&expired), 9).is_ok());
        assert!(claim.prove(Some(&expired), 10).is_err());
        let revoked = CredentialRecord { revoked_at_ms: Some(10), ..record };
        assert!(claim.prove(Some(&revoked), 9).is_ok());
        assert!(claim.prove(Some(&revoked), 10).is_err());
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
