//! `cargo dev bench vault` as it is typed: what it prints and writes, by few samples of a program that nobody optimised.

use crate::harness::{DevCommand, make_canary};
use serde_json::{Value, json};

const ROWS: [&str; 6] = ["seal", "open", "bundle50", "kms_cold", "kms_warm", "redact"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vaults_figures_are_printed_and_written_a_row_each() {
    let file = std::env::temp_dir().join(make_canary("bench-vault"));
    let args = ["bench", "vault", "--samples", "2", "--json", file.to_str().unwrap()];
    let (code, printed) = DevCommand::start(&args, &std::env::temp_dir()).end().await;
    assert_eq!(code, Some(0), "{printed}");
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!((&report["bench"], &report["optimised"]), (&json!("vault"), &json!(!cfg!(debug_assertions))));
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.iter().map(|row| row["name"].as_str().unwrap()).eq(ROWS), "{report}");
    // Each by its name, its unit and how many samples it has, and then in words.
    for row in rows {
        let (name, unit, samples) = (row["name"].as_str().unwrap(), row["unit"].as_str().unwrap(), &row["ours"]["n"]);
        let mut lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let figures = lines.find(|line| line.first() == Some(&name)).unwrap_or_else(|| panic!("{name}: {printed}"));
        assert_eq!((figures.len(), figures[1], figures[5]), (8, unit, samples.to_string().as_str()), "{printed}");
        assert!(lines.any(|line| line.first() == Some(&name) && line.len() > 4), "{name} is not explained: {printed}");
    }
    assert_eq!(rows[0]["ours"]["n"], 2, "as many samples as were asked for");
    assert_eq!(printed.contains("WITHOUT OPTIMISATION"), cfg!(debug_assertions), "{printed}");
    assert!(printed.contains(&format!("written to {}", file.display())), "{printed}");
}
