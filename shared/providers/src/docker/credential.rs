//! A platform's credential for its Docker hosts: where they are, and how both sides know each other. It comes from the vault
//! and lives in memory only; nothing that is said of it quotes it.

use super::ranges::HostRanges;
use super::tls::TlsEndpoint;
use crate::port_key::PortKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;
use theazo_vault::SecretValue;
use zeroize::Zeroizing;

/// Most hosts of one platform.
const MAX_HOSTS: usize = 32;
/// Most agents that one host may be said to take.
const MAX_AGENTS: u32 = 1000;
/// Longest name of a host in DNS.
const MAX_NAME: usize = 253;
/// Certificates in a chain.
const MAX_CHAIN: usize = 8;

/// What is wrong with a credential, in our words: which field, never what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CredentialFault(String);

impl CredentialFault {
    pub(super) fn no_client() -> Self {
        Self("has a host that no client can be made for".into())
    }
}

/// One host as the credential describes it.
pub(super) struct Described {
    /// `host:port`, what agents' rows and people know it by.
    pub(super) name: String,
    /// Which host it is: a hash of the name and of the authorities that vouch for it.
    pub(super) identity: [u8; 32],
    pub(super) max_agents: u32,
    pub(super) endpoint: TlsEndpoint,
    /// Derived from the private key: whoever has that one owns the host in any case.
    pub(super) port_key: PortKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    hosts: Vec<WrittenHost>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHost {
    url: String,
    ca: String,
    cert: String,
    key: Key,
    max_agents: u32,
}

/// A private key as PEM, wiped when it goes. What the TLS library makes of it is beyond our reach.
struct Key(Zeroizing<String>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|key| Self(Zeroizing::new(key)))
    }
}

/// Reads `{"hosts": [{"url", "ca", "cert", "key", "maxAgents"}]}`.
pub(super) fn read(credential: &SecretValue, ranges: &HostRanges) -> Result<Vec<Described>, CredentialFault> {
    // The parser's own words quote what they do not understand.
    let written: Written = serde_json::from_slice(credential.expose()).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        CredentialFault(format!(
            "must be JSON like {{\"hosts\": [{{\"url\", \"ca\", \"cert\", \"key\", \"maxAgents\"}}]}}; \
             it is not at line {line}, column {column}"
        ))
    })?;
    if !(1..=MAX_HOSTS).contains(&written.hosts.len()) {
        return Err(CredentialFault(format!("must have 1 to {MAX_HOSTS} hosts")));
    }
    let mut hosts: Vec<Described> = Vec::new();
    for (index, host) in written.hosts.into_iter().enumerate() {
        let wrong = |what: &str| CredentialFault(format!("hosts[{index}].{what}"));
        let described = describe(host, ranges).map_err(wrong)?;
        if hosts.iter().any(|other| other.name == described.name) {
            return Err(wrong("url names a host that is there already"));
        }
        hosts.push(described);
    }
    Ok(hosts)
}

fn describe(host: WrittenHost, ranges: &HostRanges) -> Result<Described, &'static str> {
    let (server, port) = parse_url(&host.url).ok_or("url must be tcp://host:port")?;
    if let ServerName::IpAddress(address) = &server
        && !ranges.allow(IpAddr::from(*address))
    {
        return Err("url has an address that hosts may not have in this deployment");
    }
    if !(1..=MAX_AGENTS).contains(&host.max_agents) {
        return Err("maxAgents must be 1 to 1000");
    }
    let mut roots = RootCertStore::empty();
    let name = format!("{}:{port}", bracketed(&server));
    let mut identity = Sha256::new().chain_update(&name);
    for certificate in certificates(&host.ca).ok_or("ca must be a certificate in PEM")? {
        identity.update(Sha256::digest(&certificate));
        roots.add(certificate).map_err(|_| "ca must be a certificate in PEM")?;
    }
    let chain = certificates(&host.cert).ok_or("cert must be a certificate in PEM")?;
    let key = PrivateKeyDer::from_pem_slice(host.key.0.as_bytes()).map_err(|_| "key must be a private key in PEM")?;
    let port_key = PortKey::derive(key.secret_der());
    // The host's own authority and no other: whoever has a certificate of a public one is not the host.
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| "url cannot be spoken to")?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|_| "key must be the private key of cert")?;
    let endpoint = TlsEndpoint::new(server, port, &name, Arc::new(tls), ranges.clone());
    Ok(Described { name, identity: identity.finalize().into(), max_agents: host.max_agents, endpoint, port_key })
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN).collect::<Result<_, _>>().ok()?;
    (!found.is_empty()).then_some(found)
}

/// Reads `tcp://host:port`, where the host may be an address, in brackets if it is one of version 6. A name is lowercase
/// from then on: agents' rows name their host by it.
fn parse_url(url: &str) -> Option<(ServerName<'static>, u16)> {
    let (host, port) = url.strip_prefix("tcp://")?.trim_end_matches('/').rsplit_once(':')?;
    let port =
        port.bytes().all(|byte| byte.is_ascii_digit()).then_some(port)?.parse().ok().filter(|port| *port != 0)?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let server = match inner {
        Some(six) => ServerName::IpAddress(IpAddr::V6(six.parse().ok()?).into()),
        None => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
            let fits = !host.is_empty() && host.len() <= MAX_NAME && host.bytes().all(plain);
            ServerName::try_from(fits.then(|| host.to_ascii_lowercase())?).ok()?
        }
    };
    Some((server, port))
}

fn bracketed(server: &ServerName<'_>) -> String {
    match server {
        ServerName::IpAddress(address) => match IpAddr::from(*address) {
            IpAddr::V6(six) => format!("[{six}]"),
            four => four.to_string(),
        },
        name => name.to_str().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        let read = read(&SecretValue::from_text(text.to_owned()), &HostRanges::default());
        read.err().map(|fault| fault.to_string()).unwrap_or_default()
    }

    #[test]
    fn hosts_are_named_by_a_name_or_an_address_and_a_port() {
        let name = |url| parse_url(url).map(|(server, port)| format!("{}:{port}", bracketed(&server)));
        for (url, expected) in [
            ("tcp://docker.example.com:2376", "docker.example.com:2376"),
            ("tcp://Docker.Example.COM:2376/", "docker.example.com:2376"),
            ("tcp://198.51.100.7:2376", "198.51.100.7:2376"),
            ("tcp://[2A00::1]:2376", "[2a00::1]:2376"),
        ] {
            assert_eq!(name(url).as_deref(), Some(expected), "{url}");
        }
        for bad in [
            "",
            "tcp://",
            "tcp://h",
            "tcp://h:",
            "tcp://:2376",
            "tcp://h:0",
            "tcp://h:65536",
            "tcp://h:+1",
            "http://h:1",
            "https://h:1",
            "unix:///run/docker.sock",
            "tcp://u:p@h:1",
            "tcp://h/x:1",
            "tcp://h:1/x",
            "tcp://h h:1",
            "tcp://2a00::1:2376",
            "tcp://[h]:1",
            "tcp://-:1?x",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field_and_never_by_what_is_in_it() {
        let host = |field: &str, value: serde_json::Value| {
            let mut host = serde_json::json!({
                "url": "tcp://h.example.com:1", "ca": "canary", "cert": "canary", "key": "canary", "maxAgents": 1
            });
            host[field] = value;
            serde_json::json!({ "hosts": [host] }).to_string()
        };
        for (text, told) in [
            ("canary".to_owned(), "must be JSON"),
            ("{\"hosts\": \"canary\"}".to_owned(), "must be JSON"),
            ("{\"hosts\": [], \"canary\": 1}".to_owned(), "must be JSON"),
            ("{\"hosts\": []}".to_owned(), "must have 1 to 32 hosts"),
            (host("key", 7.into()), "must be JSON"),
            (host("canary", 7.into()), "must be JSON"),
            (host("maxAgents", (-1).into()), "must be JSON"),
            (host("maxAgents", 0.into()), "hosts[0].maxAgents must"),
            (host("maxAgents", 1001.into()), "hosts[0].maxAgents must"),
            (host("url", "tcp://canary".into()), "hosts[0].url must be tcp://host:port"),
            (host("url", "tcp://127.0.0.1:2376".into()), "hosts[0].url has an address that hosts may not have"),
            (host("url", "tcp://[::ffff:169.254.169.254]:80".into()), "hosts[0].url has an address that"),
            (host("url", "tcp://h.example.com:2".into()), "hosts[0].ca must be a certificate in PEM"),
        ] {
            let fault = fault(&text);
            assert!(fault.starts_with(told) && !fault.contains("canary"), "{fault}");
        }
        let many: Vec<_> = (0..33).map(|_| serde_json::json!({})).collect();
        assert!(fault(&serde_json::json!({ "hosts": many }).to_string()).starts_with("must be JSON"));
    }
}
