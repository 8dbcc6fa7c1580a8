//! TLS 1.3 with a raw public key (RFC 7250): there is no name to certify, whoever connects knows the key.

use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;
use theazo_guest_protocol::machine::FINGERPRINT;

/// A server with a new key, and the key's fingerprint. The key is in this process's memory and nowhere else.
pub fn make() -> io::Result<(Arc<ServerConfig>, [u8; FINGERPRINT])> {
    let document =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| io::Error::other("no randomness"))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document.as_ref()));
    let key = any_supported_type(&key).map_err(io::Error::other)?;
    let public = key.public_key().ok_or_else(|| io::Error::other("the key has no public part"))?.to_vec();
    let fingerprint = Sha256::digest(&public).into();
    let certified = CertifiedKey::new(vec![CertificateDer::from(public)], key);
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified))));
    // A resumed connection would be one that nobody has looked at the key of.
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), fingerprint))
}
