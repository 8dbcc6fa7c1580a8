//! The README's table of breach drills, kept true: every test that it names exists, and every drill is in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What the table has, and how many drills there are in files of their own: none goes unnoticed.
const BREACHES: usize = 21;
const DRILLS: usize = 18;

/// Where a test of that module may be, from the workspace's folder.
fn sources(module: &str) -> [PathBuf; 4] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    ["tests/e2e", "tests/e2e/leak", "shared/providers/tests/docker", "shared/providers/tests/conformance"]
        .map(|folder| root.join(folder).join(format!("{module}.rs")))
}

/// The tests of a file, by name, and the promises of one, which are tried on every provider.
fn tests_in(source: &str) -> BTreeSet<String> {
    let is_mark = |line: &&str| line.starts_with("#[tokio::test") || *line == "#[test]";
    let name = |line: &str| line.split_once("fn ")?.1.split_once('(').map(|(name, _)| name.to_owned());
    let lines: Vec<&str> = source.lines().collect();
    let marked = (0..lines.len()).filter(|at| is_mark(&lines[*at]));
    let tests = marked.filter_map(|at| lines[at..].iter().find_map(|line| name(line)));
    let promises = lines.iter().skip_while(|line| !line.starts_with("crate::promises!")).skip(1);
    let promises = promises.take_while(|line| **line != "}");
    let promised = promises.filter_map(|line| line.trim().strip_suffix(';')?.split_once(' '));
    tests.chain(promised.map(|(_, name)| name.to_owned())).collect()
}

/// The table's rows, cell by cell.
fn rows() -> Vec<Vec<String>> {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("\n## Breach drills\n").expect("the README has the table");
    let (part, _) = rest.split_once("\n## ").expect("something follows it");
    let lines = part.lines().filter(|line| line.starts_with("| ")).skip(1);
    lines.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The tests that a row names, as `module::name`.
fn named(row: &[String]) -> Vec<(String, String)> {
    let cell = row.last().unwrap();
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::")).map(|(module, name)| (module.to_owned(), name.to_owned())).collect()
}

#[test]
fn every_test_that_the_table_of_breach_drills_names_exists() {
    let rows = rows();
    assert_eq!(rows.len(), BREACHES, "a breach without a row, or a new one");
    for row in &rows {
        assert!(row.len() == 3 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        let named = named(row);
        assert!(!named.is_empty(), "no test: {row:?}");
        for (module, name) in named {
            let files = sources(&module).into_iter().chain(sources(&format!("{module}/mod")));
            let found = files
                .filter_map(|file| std::fs::read_to_string(file).ok())
                .any(|source| tests_in(&source).contains(&name));
            assert!(found, "the README names {module}::{name}, which does not exist");
        }
    }
}

#[test]
fn every_breach_drill_is_in_the_table() {
    let listed: BTreeSet<String> = rows().iter().flat_map(|row| named(row)).map(|(_, name)| name).collect();
    let drills = [
        include_str!("breaches.rs"),
        include_str!("breaches_host.rs"),
        include_str!("breaches_hostile.rs"),
        include_str!("breaches_paths.rs"),
        include_str!("breaches_table.rs"),
    ];
    let drills: BTreeSet<String> = drills.into_iter().flat_map(tests_in).collect();
    assert_eq!(drills.len(), DRILLS, "{drills:?}");
    let missing: Vec<_> = drills.difference(&listed).collect();
    assert!(missing.is_empty(), "not in the README: {missing:?}");
}
