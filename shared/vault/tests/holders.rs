//! Every type that holds a secret's bytes itself, read from the workspace's sources: none can be printed, copied or
//! serialised.
//!
//! What wipes bytes has traits of its own: `Zeroizing` can be printed and cloned, a header's value too. A type around it
//! must not pass that on. Types made of such types need no look: nothing can be derived for them that their parts lack.

#![allow(clippy::unwrap_used, clippy::string_slice, reason = "a test may")]

mod sources;

use sources::{product, words};
use std::collections::BTreeMap;

/// What a secret's bytes are kept in.
const CONTAINERS: [&str; 8] =
    ["Zeroizing", "SecretBox", "SecretSlice", "SecretString", "Hkdf", "Hmac", "HeaderValue", "HeaderMap"];

/// What gives the bytes away, or makes more of them.
const TRAITS: [&str; 12] = [
    "Debug",
    "Display",
    "Clone",
    "Copy",
    "Serialize",
    "Deref",
    "AsRef",
    "Borrow",
    "LowerHex",
    "UpperHex",
    "ToString",
    "Error",
];

/// A type with a container in it: where, and which of the traits it may have, and why.
struct Holder(&'static str, &'static str, &'static [&'static str], &'static str);

/// All there are. A new one is a decision: it has none of the traits, or a reason that a reviewer agrees with.
const HOLDERS: [Holder; 27] = [
    Holder("shared/vault/src/secret.rs", "SecretValue", &[], "a value"),
    Holder("shared/vault/src/key.rs", "RootKey", &[], "a key"),
    Holder("shared/vault/src/key.rs", "PlatformKey", &[], "a key"),
    Holder("shared/vault/src/key.rs", "RecordKeys", &[], "a key"),
    Holder("shared/vault/src/hazmat.rs", "Prk", &[], "what keys come from"),
    Holder("shared/tenancy/src/credential_key.rs", "CredentialKey", &[], "a key"),
    Holder("shared/tenancy/src/credential.rs", "CredentialText", &["Deref"], "a credential; whoever reads it says so"),
    Holder("shared/store/src/agent_tokens.rs", "AgentToken", &[], "a token"),
    Holder("shared/redaction/src/needle.rs", "Unit", &[], "a value to be masked"),
    Holder("shared/redaction/src/index.rs", "Table", &[], "beginnings of values"),
    Holder("shared/redaction/src/index.rs", "Grams", &[], "hashes of beginnings of values"),
    Holder("shared/redaction/src/stream.rs", "Stream", &[], "what is not masked yet"),
    Holder("shared/providers/src/port_key.rs", "PortKey", &[], "a key"),
    Holder("shared/providers/src/contract.rs", "OpenPort", &[], "a port's token"),
    Holder("shared/providers/src/frame.rs", "Frame", &[], "an environment on its way"),
    Holder("shared/providers/src/docker/credential.rs", "Key", &[], "a host's private key"),
    Holder("shared/providers/src/e2b/account.rs", "Account", &[], "an account's key"),
    Holder("shared/providers/src/e2b/account.rs", "Handle", &[], "tokens of a sandbox"),
    Holder("shared/providers/src/fly/account.rs", "Account", &[], "an account's token"),
    Holder("shared/providers/src/http.rs", "Call", &["Clone"], "is repeated; its header values and body are shared"),
    Holder("shared/providers/src/http.rs", "Answer", &[], "what a service answers"),
    Holder("shared/http/src/request.rs", "Request", &[], "a caller's credential"),
    Holder("functions/serve.rs", "Incoming", &[], "a caller's credential"),
    Holder("functions/deployment/config.rs", "DeploymentConfig", &["Clone"], "whose pages may call: no secret"),
    Holder("infra/agent-image/forwarder/src/proxy.rs", "Shared", &[], "what opens a port"),
    // The emulators stand in for services, which answer with what they keep; nothing of a deployment's is in them.
    Holder("infra/local/e2b/src/envd.rs", "Rpc", &[], "of the emulator"),
    Holder("infra/local/kms/src/wire/mod.rs", "Blob", &["Clone", "Serialize"], "of the emulator"),
];

/// A `struct` or `enum` of a code: its name, what stands before it, and its parts.
struct Definition<'a> {
    name: &'a str,
    attributes: &'a str,
    parts: &'a str,
}

fn definitions(code: &str) -> Vec<Definition<'_>> {
    let mut found = Vec::new();
    for keyword in ["struct ", "enum ", "union "] {
        for (at, _) in code.match_indices(keyword) {
            let before = &code[..at];
            let begins = before.chars().next_back().is_none_or(|letter| letter.is_whitespace());
            let rest = &code[at + keyword.len()..];
            let name = words(rest).next().unwrap_or_default();
            if !begins || !rest.starts_with(name) || name.is_empty() {
                continue;
            }
            let start = ["\n}\n", ";\n", "\n\n"].iter().filter_map(|end| Some(before.rfind(end)? + end.len())).max();
            found.push(Definition { name, attributes: &before[start.unwrap_or(0)..], parts: parts(rest) });
        }
    }
    found
}

/// Up to where a definition ends: at a semicolon, or with its braces.
fn parts(rest: &str) -> &str {
    let mut depth = 0;
    for (at, letter) in rest.char_indices() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(letter, ';' | '}') {
            return &rest[..at];
        }
    }
    panic!("a definition without an end: {rest:.100}")
}

/// Which of the traits a type is given, by deriving them or by hand.
fn traits<'a>(code: &'a str, of: &Definition<'a>) -> Vec<&'a str> {
    let derived = of.attributes.split("#[derive(").skip(1).filter_map(|list| list.split(")]").next()).flat_map(words);
    let by_hand = code.match_indices("impl").filter_map(|(at, _)| {
        let (head, target) = code[at..].split('{').next()?.split_once(" for ")?;
        (words(target).next() == Some(of.name)).then(|| words(head))
    });
    let mut given: Vec<_> = derived.chain(by_hand.flatten()).filter(|word| TRAITS.contains(word)).collect();
    given.sort_unstable();
    given.dedup();
    given
}

/// The types of a code that have a container in them, with their traits.
fn holders(code: &str) -> Vec<(&str, Vec<&str>)> {
    let all = definitions(code).into_iter();
    let holding = all.filter(|one| words(one.parts).any(|word| CONTAINERS.contains(&word)));
    holding.map(|one| (one.name, traits(code, &one))).collect()
}

#[test]
fn every_type_that_holds_a_secrets_bytes_is_listed_and_has_no_trait_that_gives_them_away() {
    let sources = product();
    let found = sources.iter().flat_map(|(file, code)| {
        holders(code).into_iter().map(|(name, traits)| (format!("{file}: {name}"), traits)).collect::<Vec<_>>()
    });
    let listed = HOLDERS.iter().map(|Holder(file, name, traits, why)| {
        assert!(!why.is_empty());
        (format!("{file}: {name}"), traits.to_vec())
    });
    let (found, listed): (BTreeMap<_, _>, BTreeMap<_, _>) = (found.collect(), listed.collect());
    assert_eq!(found, listed, "left: the sources; right: the list");
}

#[test]
fn the_reading_of_definitions_finds_holders_and_their_traits_however_they_are_written() {
    let code = "\
        #[derive(Clone)]\nstruct Plain {\n    text: String,\n}\n\n\
        #[derive(PartialEq)]\n#[derive(\n    Clone,\n    Debug,\n)]\npub(crate) struct Deep<T> {\n    a: Vec<Option<Zeroizing<T>>>,\n}\n\n\
        pub struct Tuple(SecretBox<[u8; 32]>);\n\
        enum Kind {\n    Without,\n    With(zeroize::Zeroizing<String>),\n}\n\n\
        impl<T> fmt::Display for Deep<T> {\n}\nimpl AsRef<[u8]> for Tuple {\n}\nimpl Clone for Plain {\n}\n\
        impl Tuple {\n    fn structure() {}\n}\nfn f(of: Zeroizing<u8>) {}\n";
    let mut found = holders(code);
    found.sort();
    assert_eq!(found, [("Deep", vec!["Clone", "Debug", "Display"]), ("Kind", vec![]), ("Tuple", vec!["AsRef"])]);
}
