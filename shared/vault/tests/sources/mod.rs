//! The workspace's sources as far as they are the product, for tests that read them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The code of every file, without comments and tests, by its path in the workspace.
pub fn product() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 50, "the workspace's sources are there");
    let named = found.iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, code(&fs::read_to_string(path).unwrap()))
    });
    named.collect()
}

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
pub fn code(text: &str) -> String {
    let (product, tests) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((text, "\n}\n"));
    assert!(
        tests.ends_with("\n}\n") && tests.matches("\n}\n").count() == 1,
        "something stands after the tests: {text}"
    );
    // Only what is certainly a comment: `//` may stand in a text.
    let lines = product.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line.split(" // ").next().unwrap_or_default(), "\n"]).collect()
}

/// The words of a code.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}
