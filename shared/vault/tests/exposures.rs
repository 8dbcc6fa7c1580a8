//! Every place outside tests where a secret's plaintext leaves its type, read from the workspace's sources.
//!
//! The list may only shrink. A new call site is a decision: it wants a reason here, and a reviewer who agrees.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod sources;

use sources::{code, product, words};
use std::collections::BTreeMap;

/// Files that name `expose`, how often, and why.
const EXPOSURES: [(&str, usize, &str); 10] = [
    (
        "functions/agents/docker_hosts.rs",
        1,
        "a digest of the credential tells whose connections to Docker hosts are whose",
    ),
    ("functions/secrets/body.rs", 2, "a request's body is read as secrets: a time among them, and zero bytes refused"),
    (
        "shared/providers/src/docker/credential.rs",
        1,
        "the hosts' certificates and keys are read, for the connections to them",
    ),
    ("shared/providers/src/e2b/account.rs", 1, "the account's API key goes into the header that carries it"),
    ("shared/providers/src/e2b/mod.rs", 1, "a digest of the account's API key tells accounts apart"),
    (
        "shared/providers/src/fly/account.rs",
        1,
        "the account's token goes into the header that carries it, and into digests",
    ),
    ("shared/providers/src/frame.rs", 1, "delivers an agent's environment to its sandbox"),
    ("shared/redaction/src/lib.rs", 1, "takes the values that are to be masked"),
    ("shared/vault/src/record.rs", 1, "copies the value into the buffer that is then sealed in place"),
    ("shared/vault/src/secret.rs", 1, "the definition"),
];

/// How often a word stands in a code, whole.
fn count(code: &str, word: &str) -> usize {
    words(code).filter(|found| *found == word).count()
}

/// Files of the workspace that have one of these words, and how often.
fn files_with(words: &[&str]) -> BTreeMap<String, usize> {
    let counts =
        product().into_iter().map(|(name, code)| (name, words.iter().map(|word| count(&code, word)).sum::<usize>()));
    counts.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn every_place_where_a_plaintext_leaves_is_listed() {
    let listed: BTreeMap<String, usize> =
        EXPOSURES.iter().map(|(file, count, _)| ((*file).to_owned(), *count)).collect();
    assert_eq!(files_with(&["expose"]), listed, "left: the sources; right: the list, which may only shrink");
    assert!(EXPOSURES.iter().all(|(_, _, why)| !why.is_empty()));
}

#[test]
fn no_other_crate_opens_a_secret_box_of_its_own() {
    let files = files_with(&["ExposeSecret", "ExposeSecretMut", "expose_secret", "expose_secret_mut", "SecretBox"]);
    assert!(files.keys().all(|file| file.starts_with("shared/vault/src/")), "{:?}", files.keys());
    assert!(files.len() >= 3, "they are found where they are");
}

#[test]
fn the_reading_of_sources_leaves_out_comments_and_tests_and_nothing_else() {
    let text = "/// `expose`\nfn a() { b.expose(); } // expose\nmap(S::expose);\nlet exposed = re_expose();\n";
    assert_eq!(count(&code(text), "expose"), 2);
    let with_tests = format!("{text}#[cfg(test)]\nmod tests {{\n    fn c() {{ d.expose(); }}\n}}\n");
    assert_eq!(count(&code(&with_tests), "expose"), 2);
}
