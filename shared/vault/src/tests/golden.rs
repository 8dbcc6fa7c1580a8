//! The golden records, the page that explains them, and the reader written from that page.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    Context, Flags, PlatformKey, Purpose, RootKey, Scope, SecretValue, TokenKey, label::Label, open, record::seal_with,
    seal,
};

/// Every golden file with the SHA-256 of its bytes. Files are only ever added: one that had to be changed so that the
/// tests pass means that stored secrets no longer open.
const FILES: [(&str, &str); 8] = [
    ("agent-copy", "dc77e5cae18a15db824622cce93e0fd1056f1c9678de6ba5489960f2c6a14079"),
    ("empty-value", "ca28bbb96adf8be7810200a59d6c056ca028e1155bd74e0d80746bb57537a125"),
    ("maximum-size", "4b5848a65ee362f2114def11ab422102e154de717a13a5d07575fe524b86ae8c"),
    ("padding-edge", "8c953064e1e9837cb85e863c291412359de019e554c7bf14996275a134c87e20"),
    ("platform-secret", "f3fa9ec2cd41410c7b41df92365325324e2d18ffb121a12ee71716a7a2e41552"),
    ("provider-credential", "e4b8c3bf2413be2a256b520771bda31c4b09913ae0d819addf30aef3defdf8fe"),
    ("session-secret", "3c49754cc3ad02f4fc574eab7384df6b241b3025b3bf1f6ed84e84ad883baedb"),
    ("token-copy", "7943d85ed0db321937d5c00d0cf313ff3e254ac6b5fbc7f9b7951af8ff8cbd68"),
];

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

struct Golden {
    source: String,
    entries: BTreeMap<String, String>,
}

impl Golden {
    fn load(name: &str) -> Self {
        let source = fs::read_to_string(Path::new(CRATE).join("golden").join(format!("{name}.txt"))).unwrap();
        let entries = source
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_once(" = ").or_else(|| line.split_once(" =")).unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { source, entries }
    }

    fn all() -> impl Iterator<Item = (&'static str, Self)> {
        FILES.iter().map(|(name, _)| (*name, Self::load(name)))
    }

    fn text(&self, key: &str) -> &str {
        self.entries.get(key).unwrap_or_else(|| panic!("no {key}"))
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, key: &str) -> T {
        self.text(key).parse().unwrap()
    }

    fn array<const N: usize>(&self, key: &str) -> [u8; N] {
        hex::decode(self.text(key)).unwrap().try_into().unwrap()
    }

    fn key(&self) -> PlatformKey {
        if let Some(token) = self.entries.get("token") {
            return TokenKey::derive(token, self.text("platform")).0;
        }
        RootKey::from_bytes(self.number("root_version"), Zeroizing::new(self.array("root_key"))).derive_platform_key(
            self.text("platform"),
            &self.array("platform_salt"),
            self.number("platform_key_version"),
        )
    }

    fn context(&self) -> Context<'_> {
        Context {
            deployment: self.text("deployment"),
            platform: self.text("platform"),
            mode: self.text("mode"),
            scope: match self.text("scope").split_once(' ') {
                None if self.text("scope") == "platform" => Scope::Platform,
                Some(("session", id)) => Scope::Session(id),
                Some(("agent", id)) => Scope::Agent(id),
                _ => panic!("{}", self.text("scope")),
            },
            purpose: match self.text("purpose") {
                "agent-secret" => Purpose::AgentSecret,
                "provider-credential" => Purpose::ProviderCredential,
                "agent-copy" => Purpose::AgentCopy,
                "token-copy" => Purpose::TokenCopy,
                other => panic!("{other}"),
            },
            name: self.text("name"),
            version: self.number("version"),
            expires_at_ms: (self.text("expires_at_ms") != "none").then(|| self.number("expires_at_ms")),
            flags: Flags { mask: self.number("mask"), inherit: self.number("inherit") },
        }
    }

    fn value(&self) -> Vec<u8> {
        match self.entries.get("value_rule").map(String::as_str) {
            None => hex::decode(self.text("value")).unwrap(),
            Some("index mod 251") => {
                (0..self.number("value_len")).map(|i: u32| u8::try_from(i % 251).unwrap()).collect()
            }
            Some(other) => panic!("{other}"),
        }
    }

    /// The record by the private deterministic path.
    fn sealed_again(&self) -> Vec<u8> {
        let value = SecretValue::from_bytes(self.value());
        seal_with(&self.key(), &self.context(), &value, &self.array("salt"), &self.array("nonce")).unwrap()
    }
}

#[test]
fn golden_files_were_never_changed_and_none_is_left_out() {
    let mut found: Vec<String> = fs::read_dir(Path::new(CRATE).join("golden"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, FILES.map(|(name, _)| format!("{name}.txt")));
    for (name, hash) in FILES {
        assert_eq!(hex::encode(Sha256::digest(Golden::load(name).source)), hash, "{name}");
    }
}

#[test]
fn golden_records_open() {
    for (name, golden) in Golden::all() {
        let record = match golden.entries.get("record") {
            Some(record) => hex::decode(record).unwrap(),
            None => golden.sealed_again(),
        };
        let value = open(&golden.key(), &golden.context(), &record).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(value.expose() == golden.value(), "{name}");
    }
}

#[test]
fn golden_records_are_reproduced_bit_for_bit() {
    let (mut whole, mut hashed) = (0, 0);
    for (name, golden) in Golden::all() {
        let record = golden.sealed_again();
        match golden.entries.get("record") {
            Some(expected) => {
                whole += 1;
                assert_eq!(hex::encode(&record), *expected, "{name}");
            }
            None => {
                hashed += 1;
                assert_eq!(hex::encode(Sha256::digest(&record)), golden.text("record_sha256"), "{name}");
            }
        }
    }
    assert_eq!((whole, hashed), (7, 1));
}

#[test]
fn every_intermediate_value_of_a_golden_file_is_ours() {
    for (name, golden) in Golden::all() {
        let key = golden.key();
        let context = golden.context().encode(key.root_version(), key.key_version()).unwrap();
        let keys = key.derive_record_keys(golden.context().purpose, &golden.array("salt"), &context);
        assert_eq!(hex::encode(key.key.expose_secret()), golden.text("platform_key"), "{name}");
        assert_eq!(hex::encode(&context), golden.text("context"), "{name}");
        assert_eq!(hex::encode(keys.key.expose_secret()), golden.text("record_key"), "{name}");
        assert_eq!(hex::encode(keys.commitment), golden.text("commitment"), "{name}");
    }
}

#[test]
fn the_published_page_has_the_golden_example_and_every_label() {
    let page = fs::read_to_string(Path::new(CRATE).join("FORMAT.md")).unwrap();
    for label in Label::ALL {
        assert!(page.contains(label.text()), "{label:?}");
    }
    let joined: String = page.chars().filter(|letter| !letter.is_whitespace()).collect();
    let golden = Golden::load("session-secret");
    for key in [
        "root_key",
        "platform_salt",
        "platform_key",
        "context",
        "salt",
        "nonce",
        "record_key",
        "commitment",
        "value",
        "record",
    ] {
        assert!(joined.contains(golden.text(key)), "{key}");
    }
}

/// Runs the independent reader over golden texts, each with a record in place of its own. What it answers to each:
/// the value, or `None` for a refusal. `None` altogether where Python or its package is missing.
fn read_independently(cases: &[(&Golden, Vec<u8>)]) -> Option<Vec<Option<Vec<u8>>>> {
    let python = std::env::var_os("THEAZO_PYTHON").unwrap_or_else(|| "python3".into());
    let started = Command::new(python)
        .args(["-B", "../../tests/reader/reader.py"])
        .current_dir(CRATE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = started.ok()?;
    let case = |(golden, record): &(&Golden, Vec<u8>)| format!("{}record = {}\n\n", golden.source, hex::encode(record));
    let input: String = cases.iter().map(case).collect();
    // It answers after it has read everything, so neither side waits for the other. A reader without its package exits
    // before it reads, and then this write fails; its exit code says why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        return None;
    }
    assert!(output.status.success(), "the reader failed");
    let answers = String::from_utf8(output.stdout).unwrap();
    let answer = |line: &str| match line.strip_prefix("value ") {
        Some(value) => Some(hex::decode(value).unwrap()),
        None => {
            assert_eq!(line, "refused");
            None
        }
    };
    Some(answers.lines().map(answer).collect())
}

#[test]
fn a_reader_in_another_language_opens_what_we_seal() {
    let (mut cases, mut expected) = (Vec::new(), Vec::new());
    let all: Vec<_> = Golden::all().collect();
    for (name, golden) in &all {
        // The golden record, and one with a salt and a nonce that nobody chose.
        let fresh = seal(&golden.key(), &golden.context(), &SecretValue::from_bytes(golden.value())).unwrap();
        for record in [golden.sealed_again(), fresh] {
            cases.push((golden, record));
            expected.push((*name, "as it was sealed", Some(golden.value())));
        }
        let len = golden.sealed_again().len();
        for (at, what) in [(0, "format"), (5, "root version"), (54, "commitment"), (86, "text"), (len - 16, "tag")] {
            let mut altered = golden.sealed_again();
            altered[at] ^= 1;
            cases.push((golden, altered));
            expected.push((*name, what, None));
        }
    }
    let Some(read) = read_independently(&cases) else {
        let in_ci = std::env::var_os("THEAZO_CI").is_some_and(|ci| ci == "1");
        assert!(!in_ci, "needs python3 with the package `cryptography`");
        eprintln!("skipped: needs python3 with the package `cryptography`");
        return;
    };
    assert_eq!(read.len(), expected.len());
    for (read, (name, what, expected)) in read.into_iter().zip(expected) {
        assert!(read == expected, "{name}, {what}: opened is {}", read.is_some());
    }
}
