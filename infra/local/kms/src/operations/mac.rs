//! HMAC-SHA-256 under `HMAC_256` keys.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::check::{self, MAC_ALGORITHM, MAX_CIPHERTEXT, MAX_PLAINTEXT};
use crate::error::{EmulatorError, code};
use crate::ids::KeyId;
use crate::state::KeySpec;
use crate::store::Store;
use crate::wire::{answers, requests};

pub(crate) fn generate_mac(
    store: &Store,
    request: requests::GenerateMac,
) -> Result<answers::GenerateMac, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    let message = check::blob(&request.message, "message", MAX_PLAINTEXT)?;
    check::mac_algorithm(&request.mac_algorithm)?;
    let (id, mac) = authenticate(store, text, message)?;
    let mac = mac.finalize().into_bytes().to_vec().into();
    Ok(answers::GenerateMac { key_id: id.arn(), mac, mac_algorithm: MAC_ALGORITHM })
}

pub(crate) fn verify_mac(store: &Store, request: requests::VerifyMac) -> Result<answers::VerifyMac, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    let message = check::blob(&request.message, "message", MAX_PLAINTEXT)?;
    let claimed = check::blob(&request.mac, "mac", MAX_CIPHERTEXT)?;
    check::mac_algorithm(&request.mac_algorithm)?;
    let (id, mac) = authenticate(store, text, message)?;
    mac.verify_slice(claimed).map_err(|_| EmulatorError::refused(code::INVALID_MAC, ""))?;
    Ok(answers::VerifyMac { key_id: id.arn(), mac_valid: true, mac_algorithm: MAC_ALGORITHM })
}

fn authenticate(store: &Store, text: &str, message: &[u8]) -> Result<(KeyId, Hmac<Sha256>), EmulatorError> {
    store.read(|state| {
        let (id, key) = state.resolve(text)?;
        key.must_be_usable(id, KeySpec::Hmac256)?;
        let (_, generation) = key.newest()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(generation.material.bytes())
            .map_err(|_| EmulatorError::Internal("key material of a wrong length"))?;
        mac.update(message);
        Ok((id, mac))
    })
}
