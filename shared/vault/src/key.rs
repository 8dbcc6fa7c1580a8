//! The key hierarchy: root key, platform key, and the two outputs of a record.

use secrecy::{ExposeSecret, SecretBox};
use zeroize::Zeroizing;

use crate::{
    Purpose, VaultError, context,
    hazmat::{self, KEY_LEN, Prk},
    label::Label,
};

/// The deployment's root key: 256 bits and the version of the row they were unwrapped from.
///
/// Zeroised when dropped; no `Debug`, no `Clone`, and nothing gives the bytes back.
///
/// ```compile_fail,E0277
/// let root = theazo_vault::RootKey::from_bytes(1, zeroize::Zeroizing::new([0; 32]));
/// println!("{root:?}");
/// ```
/// ```compile_fail,E0599
/// let root = theazo_vault::RootKey::from_bytes(1, zeroize::Zeroizing::new([0; 32]));
/// let copy = root.clone();
/// ```
pub struct RootKey {
    version: u32,
    // Boxed like every key here: moving an array would leave copies on the stack that nobody wipes.
    key: SecretBox<[u8; KEY_LEN]>,
}

impl RootKey {
    /// Takes an unwrapped root key over. `key` must be uniformly random, as a KMS makes it.
    pub fn from_bytes(version: u32, key: Zeroizing<[u8; 32]>) -> Self {
        Self { version, key: SecretBox::init_with_mut(|inner: &mut [u8; KEY_LEN]| inner.copy_from_slice(&*key)) }
    }

    /// The version of the root key's row.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key of one platform: HKDF-SHA-256 with the platform's own random salt, bound to the platform's id, this
    /// root version and `key_version`.
    ///
    /// Deterministic: it exists as long as the root key and the salt do. Deleting the salt is therefore the only way
    /// to forget one platform's key, and backups keep salts.
    pub fn derive_platform_key(&self, platform: &str, salt: &[u8; 32], key_version: u32) -> PlatformKey {
        let mut info = Vec::with_capacity(128);
        context::put_field(&mut info, Label::PlatformKey.text().as_bytes());
        context::put_field(&mut info, platform.as_bytes());
        context::put_field(&mut info, &self.version.to_be_bytes());
        context::put_field(&mut info, &key_version.to_be_bytes());
        let prk = Prk::extract(salt, self.key.expose_secret());
        let key = SecretBox::init_with_mut(|out| prk.expand_key(&[&info], out));
        PlatformKey { platform: platform.into(), root_version: self.version, key_version, of_token: false, key }
    }
}

/// The key that one platform's records are derived from.
///
/// It knows which platform it belongs to, so that a cache which confuses two platforms is caught before it seals.
/// Zeroised when dropped; no `Debug`, no `Clone`.
///
/// ```compile_fail,E0277
/// let root = theazo_vault::RootKey::from_bytes(1, zeroize::Zeroizing::new([0; 32]));
/// println!("{:?}", root.derive_platform_key("plt_1", &[0; 32], 1));
/// ```
/// ```compile_fail,E0599
/// let root = theazo_vault::RootKey::from_bytes(1, zeroize::Zeroizing::new([0; 32]));
/// let copy = root.derive_platform_key("plt_1", &[0; 32], 1).clone();
/// ```
pub struct PlatformKey {
    pub(crate) platform: Box<str>,
    pub(crate) root_version: u32,
    pub(crate) key_version: u32,
    /// Whether it is inside a [`TokenKey`]. Such a key opens copies for tokens, and no other key does.
    pub(crate) of_token: bool,
    pub(crate) key: SecretBox<[u8; KEY_LEN]>,
}

impl PlatformKey {
    /// The version of the root key that this key comes from.
    pub fn root_version(&self) -> u32 {
        self.root_version
    }

    /// This key's own version.
    pub fn key_version(&self) -> u32 {
        self.key_version
    }

    /// Whether records of that purpose are sealed under keys of this kind.
    pub(crate) fn serves(&self, purpose: Purpose) -> bool {
        self.of_token == (purpose == Purpose::TokenCopy)
    }

    /// The key and the commitment of the record with this salt and this encoded context.
    pub(crate) fn derive_record_keys(&self, purpose: Purpose, salt: &[u8; KEY_LEN], context: &[u8]) -> RecordKeys {
        let (key_label, commitment_label) = match purpose {
            Purpose::AgentSecret => (Label::AgentSecretKey, Label::AgentSecretCommitment),
            Purpose::ProviderCredential => (Label::ProviderCredentialKey, Label::ProviderCredentialCommitment),
            Purpose::AgentCopy => (Label::AgentCopyKey, Label::AgentCopyCommitment),
            Purpose::TokenCopy => (Label::TokenCopyKey, Label::TokenCopyCommitment),
        };
        let prk = Prk::extract(salt, self.key.expose_secret());
        let expand = |label: Label, out: &mut [u8; KEY_LEN]| {
            let mut prefix = Vec::with_capacity(64);
            context::put_field(&mut prefix, label.text().as_bytes());
            prk.expand_key(&[&prefix, context], out);
        };
        let mut commitment = [0; KEY_LEN];
        expand(commitment_label, &mut commitment);
        RecordKeys { key: SecretBox::init_with_mut(|out| expand(key_label, out)), commitment }
    }
}

/// The key that a [`Purpose::TokenCopy`] is sealed under. It comes from the text of an agent's token and from nothing
/// else, so it exists wherever the token is presented, and nowhere once the token is forgotten.
///
/// Zeroised when dropped; no `Debug`, no `Clone`.
///
/// ```compile_fail,E0277
/// println!("{:?}", theazo_vault::TokenKey::derive("th_agent_x", "plt_1"));
/// ```
pub struct TokenKey(pub(crate) PlatformKey);

impl TokenKey {
    /// The key of an agent's token: HKDF-SHA-256 without a salt (the token holds 190 random bits), bound to the platform's
    /// id. Its records name version 0 of both keys, which no other record does.
    pub fn derive(token: &str, platform: &str) -> Self {
        let mut info = Vec::with_capacity(128);
        context::put_field(&mut info, Label::TokenKey.text().as_bytes());
        context::put_field(&mut info, platform.as_bytes());
        let prk = Prk::extract(&[0; KEY_LEN], token.as_bytes());
        let key = SecretBox::init_with_mut(|out| prk.expand_key(&[&info], out));
        Self(PlatformKey { platform: platform.into(), root_version: 0, key_version: 0, of_token: true, key })
    }
}

/// What HKDF gives for one record.
pub(crate) struct RecordKeys {
    /// The AES-256 key. It seals exactly one message, so the 2^32 bound on random nonces (SP 800-38D) never binds.
    pub(crate) key: SecretBox<[u8; KEY_LEN]>,
    /// Public value that only this key and this context give; GCM alone does not commit to its key.
    pub(crate) commitment: [u8; KEY_LEN],
}

/// 32 random bytes from the operating system: a new platform's salt.
///
/// # Errors
/// [`VaultError::Randomness`] if the operating system gives none.
pub fn make_salt() -> Result<[u8; 32], VaultError> {
    hazmat::make_random()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Sha256;
    use zeroize::ZeroizeOnDrop;

    fn is_wiped(_: &impl ZeroizeOnDrop) {}

    /// Compiles for keys that wipe themselves. Their parts are all named, so that another one has to be looked at here:
    /// those that are not asked about are no secrets.
    #[test]
    fn every_key_wipes_itself_when_it_is_dropped() {
        let root = RootKey::from_bytes(1, Zeroizing::new([7; KEY_LEN]));
        let of_platform = root.derive_platform_key("plt_1", &[0; KEY_LEN], 1);
        let of_record = of_platform.derive_record_keys(Purpose::AgentSecret, &[0; KEY_LEN], b"context");
        let TokenKey(of_token) = TokenKey::derive("th_agent_x", "plt_1");
        let RootKey { version: _, key } = &root;
        is_wiped(key);
        for of_platform in [&of_platform, &of_token] {
            let PlatformKey { platform: _, root_version: _, key_version: _, of_token: _, key } = of_platform;
            is_wiped(key);
        }
        // The commitment stands in the record.
        let RecordKeys { key, commitment: _ } = &of_record;
        is_wiped(key);
    }

    /// What keys pass through: their crates wipe it with features that another edit of a manifest could take away.
    #[test]
    fn the_states_of_the_hash_and_the_cipher_wipe_themselves_too() {
        fn are_wiped<T: ZeroizeOnDrop>() {}
        are_wiped::<Sha256>();
        are_wiped::<aes_gcm::Aes256Gcm>();
    }
}
