//! What is published about credentials, so that others can find leaked ones, is what credentials are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use regex_lite::Regex;
use std::collections::BTreeMap;
use std::path::Path;
use theazo_tenancy::{
    AgentId, Claim, IssuedKey, Mode, PlatformId, SessionId, make_agent_token, make_api_key, make_session_token,
};

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// A value of the file: a text, a list of texts, or a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Texts(Vec<String>),
    Yes,
}

/// The tables of a TOML file in their order, by their heads as they are written; what stands before any has none. It reads
/// the part of TOML that such a file needs, and panics at anything else.
fn tables(text: &str) -> Vec<(String, BTreeMap<String, Value>)> {
    let mut tables = vec![(String::new(), BTreeMap::new())];
    let is_bare = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            let name = line.trim_start_matches('[').trim_end_matches(']');
            let is_head = line == format!("[{name}]") || line == format!("[[{name}]]");
            assert!(is_head && is_bare(name), "{line}");
            tables.push((line.to_owned(), BTreeMap::new()));
            continue;
        }
        let (name, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        let value = match value.strip_prefix('[').map(|list| list.strip_suffix(']').unwrap_or_else(|| panic!("{line}")))
        {
            Some(list) => Value::Texts(list.split(", ").map(text_of).collect()),
            None if value == "true" => Value::Yes,
            None => Value::Text(text_of(value)),
        };
        let given = tables.last_mut().unwrap().1.insert(name.to_owned(), value);
        assert!(is_bare(name) && given.is_none(), "{line}");
    }
    tables
}

/// What is quoted, with nothing in it that would end the quotes or begin an escape.
fn text_of(quoted: &str) -> String {
    let literal = quoted.strip_prefix("'''").and_then(|rest| rest.strip_suffix("'''"));
    let basic = || quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|text| !text.contains('\\'));
    let text = literal.or_else(basic).unwrap_or_else(|| panic!("{quoted} is no text"));
    assert!(!text.contains(if literal.is_some() { '\'' } else { '"' }), "{quoted}");
    text.to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Texts(texts) if !texts.is_empty() => texts.clone(),
        other => panic!("{other:?} is no list of texts"),
    }
}

fn one_text(value: &Value) -> String {
    match value {
        Value::Text(text) if !text.is_empty() => text.clone(),
        other => panic!("{other:?} is no text"),
    }
}

/// A rule as gitleaks reads it.
struct Rule {
    id: String,
    regex: Regex,
    keywords: Vec<String>,
}

/// What is published: rules, and the texts that are nobody's.
struct Published {
    rules: Vec<Rule>,
    allowed: Vec<Regex>,
}

impl Published {
    fn read() -> Self {
        let mut published = Self { rules: Vec::new(), allowed: Vec::new() };
        // The crate knows no more than RE2 does: neither a look around nor a reference back.
        let regex = |text: &str| Regex::new(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        for (head, mut values) in tables(&file(".gitleaks.toml")) {
            let mut take = |name: &str| values.remove(name).unwrap_or_else(|| panic!("{head} has no {name}"));
            match head.as_str() {
                "" => assert!(!one_text(&take("title")).is_empty()),
                "[extend]" => assert_eq!(take("useDefault"), Value::Yes),
                "[[rules]]" => {
                    assert!(one_text(&take("description")).len() > 10);
                    let rule = Rule {
                        id: one_text(&take("id")),
                        regex: regex(&one_text(&take("regex"))),
                        keywords: texts(&take("keywords")),
                    };
                    published.rules.push(rule);
                }
                "[[allowlists]]" => {
                    assert!(!one_text(&take("description")).is_empty());
                    published.allowed.extend(texts(&take("regexes")).iter().map(|text| regex(text)));
                }
                other => panic!("{other} is no table of gitleaks'"),
            }
            assert!(values.is_empty(), "{head} has more: {values:?}");
        }
        published
    }

    /// What a rule finds, as gitleaks goes about it: a text without a keyword, in whatever case, is not looked at; what
    /// is found is the first group; and what is allowed is not told.
    fn found(&self, text: &str) -> Vec<(&str, String)> {
        let lower = text.to_lowercase();
        let looking =
            self.rules.iter().filter(|rule| rule.keywords.iter().any(|word| lower.contains(&word.to_lowercase())));
        let finds = looking.flat_map(|rule| {
            let secrets = rule.regex.captures_iter(text).map(|found| found.get(1).unwrap().as_str().to_owned());
            secrets.map(|secret| (rule.id.as_str(), secret)).collect::<Vec<_>>()
        });
        finds.filter(|(_, secret)| !self.allowed.iter().any(|allowed| allowed.is_match(secret))).collect()
    }
}

/// Every kind of credential that is made, with the rule that finds it.
fn made() -> Vec<(IssuedKey, &'static str)> {
    let (platform, session, agent) = (PlatformId::make(), SessionId::make(), AgentId::make());
    let of = |mode| {
        [
            (make_api_key(&platform, mode), "theazo-api-key"),
            (make_session_token(&platform, mode, &session), "theazo-session-token"),
            (make_agent_token(&platform, mode, &session, &agent), "theazo-agent-token"),
        ]
    };
    [Mode::Live, Mode::Test].into_iter().flat_map(of).collect()
}

/// The rules whose form a text has, examples included.
fn found_by(text: &str) -> Vec<String> {
    let rules = Published::read().rules;
    rules.into_iter().filter(|rule| rule.regex.is_match(text)).map(|rule| rule.id).collect()
}

#[test]
fn each_rule_finds_its_kind_of_credential_wherever_it_stands_and_no_other() {
    let published = Published::read();
    assert_eq!(published.rules.len(), 3);
    for (key, rule) in made() {
        let key = key.text.as_str();
        for text in [
            key.to_owned(),
            format!("KEY={key}"),
            format!("KEY={key}\n"),
            format!("export KEY=\"{key}\"\r\nnext"),
            format!("{{\"key\":\"{key}\",\"a\":1}}"),
            format!("key: '{key}'"),
            format!("`{key}`, ({key}); <{key}>"),
            format!("Authorization: Bearer {key}"),
            format!("https://h/a/{key}/v1/sandbox/log?x={key}&y=1"),
            format!("(see {key}.)"),
        ] {
            let found = published.found(&text);
            assert_eq!(found.len(), text.matches(key).count(), "{rule}: {}", text.replace(key, "KEY"));
            assert!(
                found.iter().all(|(id, secret)| *id == rule && secret == key),
                "{rule}: {}",
                text.replace(key, "KEY")
            );
        }
        assert!(published.found(key.split_at(key.len() - 1).0).is_empty(), "cut short");
        assert!(published.found(&format!("{key}0")).is_empty(), "too long");
        assert!(published.found(&format!("x{key}")).is_empty(), "a part of something else");
    }
}

#[test]
fn every_credential_has_a_keyword_of_its_rule_and_every_keyword_is_in_some_credential() {
    let published = Published::read();
    let made = made();
    for (key, rule) in &made {
        let lower = key.text.to_lowercase();
        for Rule { id, keywords, .. } in &published.rules {
            // Keywords are held against the text in lowercase.
            assert!(keywords.iter().all(|word| *word == word.to_lowercase()), "{keywords:?}");
            let has = keywords.iter().any(|word| lower.contains(word.as_str()));
            assert_eq!(has, id == rule, "{id} {keywords:?}");
        }
    }
    for Rule { id, keywords, .. } in &published.rules {
        for word in keywords {
            assert!(made.iter().any(|(key, rule)| rule == id && key.text.starts_with(word.as_str())), "{word}");
        }
    }
}

#[test]
fn what_documentation_shows_is_not_found_and_what_is_allowed_is_nobodys() {
    let published = Published::read();
    let platform = PlatformId::make();
    for harmless in [
        "th_live_",
        "th_live_...",
        "th_test_<your key>",
        "th_sess_0123",
        "Authorization: Bearer th_live_$KEY",
        &format!("th_live_{}", "x".repeat(70)),
        &platform.to_string(),
        &format!("th_live_{platform}"),
    ] {
        assert_eq!(published.found(harmless), [], "{harmless}");
    }
    assert_eq!(published.found(&file("README.md")), []);
    assert_eq!(published.allowed.len(), 1);
    for (key, _) in made() {
        let key = key.text.as_str();
        assert!(!published.allowed.iter().any(|allowed| allowed.is_match(key)));
        // Of the examples everything is zeros; what a real platform is named in is none.
        let (prefix, rest) = key.split_at(key.find("plt_").unwrap());
        let zeros = format!("{}{}{rest}", prefix.split_at(prefix.len() - 32).0, "0".repeat(32));
        assert_eq!(published.found(&zeros).len(), 1);
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
