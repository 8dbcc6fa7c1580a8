//! Every place outside tests where a secret's plaintext leaves its type, read from the workspace's sources.
//!
//! The list may only shrink. A new call site is a decision: it wants a reason here, and a reviewer who agrees.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

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

/// Sources that are part of the product: not tests, not built files, not fetched ones.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !name.starts_with('.') && !matches!(name, "target" | "tests" | "node_modules") {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The code of a file without comments, and without its tests, which stand at a file's end.
fn code(text: &str) -> String {
    let (product, tests) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((text, "\n}\n"));
    assert!(
        tests.ends_with("\n}\n") && tests.matches("\n}\n").count() == 1,
        "something stands after the tests: {text}"
    );
    // Only what is certainly a comment: `//` may stand in a text.
    let lines = product.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line.split(" // ").next().unwrap_or_default(), "\n"]).collect()
}

/// How often a word stands in a code, whole.
fn count(code: &str, word: &str) -> usize {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|found| *found == word).count()
}

/// Files of the workspace that have one of these words, and how often.
fn files_with(words: &[&str]) -> BTreeMap<String, usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 50, "the workspace's sources are there");
    let counts = found.iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let code = code(&fs::read_to_string(path).unwrap());
        (name, words.iter().map(|word| count(&code, word)).sum())
    });
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
