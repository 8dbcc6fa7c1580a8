//! What is published about credentials, so that others can find leaked ones, is what credentials are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use regex_lite::Regex;
use std::path::Path;
use theazo_tenancy::{AgentId, Claim, Mode, PlatformId, SessionId, make_agent_token, make_api_key, make_session_token};

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// The rules that are published, by their ids.
fn rules() -> Vec<(String, Regex)> {
    let text = file(".gitleaks.toml");
    let rules = text.split("[[rules]]").skip(1).map(|rule| {
        let between = |begin: &str, end: &str| rule.split(begin).nth(1).unwrap().split(end).next().unwrap().to_owned();
        (between("id = \"", "\""), Regex::new(&between("regex = '''", "'''")).unwrap())
    });
    rules.collect()
}

fn found_by(text: &str) -> Vec<String> {
    rules().into_iter().filter(|(_, rule)| rule.is_match(text)).map(|(id, _)| id).collect()
}

#[test]
fn each_rule_finds_its_kind_of_credential_and_no_other() {
    assert_eq!(rules().len(), 3);
    let (platform, session, agent) = (PlatformId::make(), SessionId::make(), AgentId::make());
    for mode in [Mode::Live, Mode::Test] {
        for (key, rule) in [
            (make_api_key(&platform, mode), "theazo-api-key"),
            (make_session_token(&platform, mode, &session), "theazo-session-token"),
            (make_agent_token(&platform, mode, &session, &agent), "theazo-agent-token"),
        ] {
            for text in
                [key.text.to_string(), format!("KEY=\"{}\"\n", *key.text), format!("https://h/a/{}/v1", *key.text)]
            {
                assert_eq!(found_by(&text), [rule]);
            }
            assert!(found_by(key.text.split_at(key.text.len() - 1).0).is_empty(), "cut short");
            assert!(found_by(&format!("{}0", *key.text)).is_empty(), "too long");
        }
    }
    for harmless in ["th_live_", &platform.to_string(), &format!("th_live_{platform}"), "th_sess_0123"] {
        assert!(found_by(harmless).is_empty(), "{harmless}");
    }
}

#[test]
fn the_readmes_examples_have_right_checksums_and_differ_from_what_we_accept_in_any_other_letter() {
    let readme = file("README.md");
    let examples: Vec<&str> = readme
        .split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        .filter(|word| word.starts_with("th_") && word.len() > 60)
        .collect();
    let kinds: Vec<String> = examples.iter().flat_map(|example| found_by(example)).collect();
    assert_eq!(kinds, ["theazo-api-key", "theazo-api-key", "theazo-session-token", "theazo-agent-token"]);
    for example in examples {
        assert!(Claim::parse(example).is_ok(), "{example}");
        // As the README describes it, step by step.
        let (covered, checksum) = example.split_at(example.len() - 6);
        let alphabet: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
        let mut number = crc32fast::hash(covered.as_bytes());
        let mut digits = Vec::new();
        for _ in 0..6 {
            digits.insert(0, alphabet[number as usize % 62]);
            number /= 62;
        }
        assert_eq!(digits.into_iter().collect::<String>(), checksum);
        let wrong = format!("{covered}{}", checksum.chars().rev().collect::<String>());
        assert!(Claim::parse(&wrong).is_err(), "{wrong}");
    }
}
