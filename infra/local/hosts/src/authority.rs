//! A host's own certificate authority, and what it certifies: one server and any number of clients.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate with its key, both as PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

/// An authority that exists as long as its test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// Where there is no randomness.
    pub fn make(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), cert }
    }

    /// Its certificate as PEM.
    pub fn cert(&self) -> &str {
        &self.cert
    }

    /// What a server at that address shows.
    pub fn server(&self, address: &str) -> Pair {
        self.certify("server", &[address.to_owned()], ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// What a client shows.
    pub fn client(&self) -> Pair {
        self.certify("client", &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn certify(&self, name: &str, addresses: &[String], purpose: ExtendedKeyUsagePurpose) -> Pair {
        let mut params = params(name, addresses);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { cert, key: key.serialize_pem() }
    }
}

fn params(name: &str, addresses: &[String]) -> CertificateParams {
    let mut params = CertificateParams::new(addresses.to_vec()).expect("addresses");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
