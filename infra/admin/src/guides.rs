//! What the guides tell an operator to type is what this command line takes.

use crate::Cli;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

const GUIDES: [(&str, &str); 2] =
    [("README.md", include_str!("../../../README.md")), ("infra/README.md", include_str!("../../README.md"))];
const PROGRAM: &str = "cargo admin ";
/// What a reader puts in: words in capitals, or in angle brackets what an output says.
const PLACEHOLDERS: [(&str, &str); 7] = [
    ("PLATFORM", "plt_00000000000000000000000000"),
    ("KEY", "key_00000000000000000000000000"),
    ("HOST", "docker-1.example.com:2376"),
    ("PROVIDER", "docker"),
    ("VERSION", "1"),
    ("NAME", "theazo-dev"),
    ("<LedgerTableName>", "theazo-dev-ledger"),
];
/// What takes something away for good, which has to be said twice.
const DESTRUCTIVE: [&str; 5] = ["delete", "remove", "retire", "revoke", "replay-deletions"];
/// What only counts what would go.
const HARMLESS: &str = "--dry-run";

/// The texts between backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Every command of a guide, on a line of its own or between backticks. In a table, what follows in the first cell has the
/// same noun: `cargo admin host enroll PLATFORM`, `probe PLATFORM`.
fn commands(guide: &str) -> Vec<String> {
    let mut found = Vec::new();
    // A span may go on in the next line of a paragraph.
    for paragraph in guide.split("\n\n") {
        if paragraph.starts_with("    ") {
            let lines = paragraph.lines().map(|line| line.trim().split(" #").next().unwrap_or_default());
            found.extend(lines.filter(|line| line.starts_with(PROGRAM)).map(str::to_owned));
        } else if paragraph.starts_with('|') {
            for line in paragraph.lines() {
                let (mut cells, mut noun) = (line.split(" | "), None);
                for span in spans(cells.next().unwrap_or_default()) {
                    if let Some(rest) = span.strip_prefix(PROGRAM) {
                        noun = rest.split(' ').next();
                        found.push(span.to_owned());
                    } else if let Some(noun) = noun {
                        found.push(format!("{PROGRAM}{noun} {span}"));
                    }
                }
                found.extend(cells.flat_map(spans).filter(|span| span.starts_with(PROGRAM)).map(str::to_owned));
            }
        } else {
            let text = paragraph.replace('\n', " ");
            found.extend(
                spans(&text)
                    .filter(|span| span.starts_with(PROGRAM))
                    .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")),
            );
        }
    }
    found
}

/// A command as somebody types it, once with what is optional in it and once without.
fn typed(command: &str) -> [Vec<String>; 2] {
    let rest = command.strip_prefix(PROGRAM).unwrap_or(command);
    [true, false].map(|optional| {
        let mut out = vec!["cargo admin".to_owned()];
        let mut within = false;
        for word in rest.split_whitespace() {
            let opens = word.starts_with('[');
            within |= opens;
            if optional || !within {
                let word = word.trim_start_matches('[').trim_end_matches(']');
                let known = PLACEHOLDERS.iter().find(|(placeholder, _)| *placeholder == word);
                out.push(known.map_or(word, |(_, value)| value).to_owned());
            }
            within &= !word.ends_with(']');
        }
        out
    })
}

/// Why this command line would not take a command.
fn fault(command: &str) -> Option<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let is_said = words.contains(&"--yes") || words.contains(&HARMLESS);
    if DESTRUCTIVE.iter().any(|verb| words.contains(verb)) && !is_said {
        return Some("it does not say --yes".to_owned());
    }
    typed(command).into_iter().find_map(|arguments| match Cli::try_parse_from(arguments) {
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => None,
        Err(error) => Some(error.to_string()),
    })
}

#[test]
fn every_command_that_a_guide_names_is_one_that_can_be_typed() {
    let mut faults = Vec::new();
    for (name, guide) in GUIDES {
        let commands = commands(guide);
        // As often as the program is named, which is how a command that is found no more is noticed.
        assert!(commands.len() >= guide.matches(PROGRAM).count(), "{name}: {commands:#?}");
        faults.extend(commands.iter().filter_map(|command| Some(format!("{name}: {command}: {}", fault(command)?))));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The commands that there are, by noun and verb.
fn verbs(command: &clap::Command, path: &str) -> Vec<String> {
    let path = format!("{path}{} ", command.get_name());
    if !command.has_subcommands() {
        return vec![path];
    }
    command.get_subcommands().flat_map(|verb| verbs(verb, &path)).collect()
}

#[test]
fn every_command_there_is_stands_in_a_guide() {
    let told: Vec<String> = GUIDES
        .iter()
        .flat_map(|(_, guide)| commands(guide))
        .map(|command| format!("{} ", command.replace("--aws --table theazo-dev-data ", "")))
        .collect();
    let verbs = verbs(&Cli::command(), "");
    assert!(verbs.len() >= 18, "{verbs:?}");
    let missing: Vec<_> = verbs.iter().filter(|verb| !told.iter().any(|command| command.starts_with(*verb))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn commands_are_found_wherever_they_stand_and_those_that_cannot_be_typed_are_told() {
    let guide = "Then `cargo admin key create\nPLATFORM` and more.\n\n    cargo admin platform lst\n    curl x # cargo admin doctor\n\n\
                 | `cargo admin host probe PLATFORM [HOST]`, `drian PLATFORM HOST [--undo]` | see `cargo admin doctor` |";
    let found = commands(guide);
    let expected = [
        "cargo admin key create PLATFORM",
        "cargo admin platform lst",
        "cargo admin host probe PLATFORM [HOST]",
        "cargo admin host drian PLATFORM HOST [--undo]",
        "cargo admin doctor",
    ];
    assert_eq!(found, expected);
    let is_fault: Vec<bool> = found.iter().map(|command| fault(command).is_some()).collect();
    assert_eq!(is_fault, [true, true, false, true, false]);
    assert!(fault("cargo admin root-key retire VERSION").is_some());
    assert!(fault("cargo admin root-key retire VERSION --yes").is_none());
    assert!(fault("cargo admin restore replay-deletions").is_some());
    assert!(fault("cargo admin restore replay-deletions --dry-run").is_none());
}
