//! `cargo dev bench cold-start`: what it measures and how it reports that, by one start of binaries that nobody optimised.

use crate::harness::{DevCommand, built, make_canary};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with two of the binaries that the tests are built with, as small as a release's, by which packing takes seconds.
fn stripped() -> PathBuf {
    let folder = std::env::temp_dir().join(make_canary("cold-start"));
    std::fs::create_dir(&folder).unwrap();
    for name in ["upkeep", "empty-function"] {
        let status = Command::new("strip").arg("-o").arg(folder.join(name)).arg(built().join(name)).status();
        assert!(status.expect("strip runs, which comes with the linker").success());
    }
    folder
}

async fn bench(folder: &Path, json: &Path) -> (Option<i32>, String) {
    let (folder, file) = (folder.to_str().unwrap(), json.to_str().unwrap());
    let args = ["bench", "cold-start", "--starts", "1", "--only", "upkeep", "--folder", folder, "--json", file];
    DevCommand::start(&args, &std::env::temp_dir()).end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_functions_start_is_reported_beside_that_of_one_that_does_nothing() {
    let folder = tokio::task::spawn_blocking(stripped).await.unwrap();
    let file = folder.join("report.json");
    let (code, printed) = bench(&folder, &file).await;
    assert_eq!(code, Some(0), "{printed}");
    let text = std::fs::read_to_string(&file).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&report["bench"], &report["optimised"]),
        (&json!("cold-start"), &json!(!cfg!(debug_assertions))),
        "{report}"
    );
    let rows = report["rows"].as_array().unwrap();
    let named: Vec<_> = rows.iter().map(|row| (row["name"].as_str().unwrap(), row["unit"].as_str().unwrap())).collect();
    assert_eq!(named, [("upkeep", "ms"), ("  memory", "MB"), ("  binary", "MB"), ("  packed", "MB")]);
    for row in rows {
        let figure = |of: &str| row[of]["p50"].as_f64().unwrap();
        assert_eq!((&row["ours"]["n"], &row["baseline"]["n"]), (&json!(1), &json!(1)), "{row}");
        assert!(figure("ours") > 0.0 && figure("baseline") > 0.0, "{row}");
        let ratio = row["ratio"].as_f64().unwrap();
        assert!((ratio - figure("ours") / figure("baseline")).abs() < 1e-9, "{row}");
    }
    // Of the sizes it is known which is larger: a function has all that the empty one has, and more.
    let sizes = |row: &Value| [row["ours"]["p50"].as_f64().unwrap(), row["baseline"]["p50"].as_f64().unwrap()];
    let ([whole, empty], [packed, _]) = (sizes(&rows[2]), sizes(&rows[3]));
    assert!(whole > empty && whole > packed, "{report}");
    let on_disk = std::fs::metadata(folder.join("upkeep")).unwrap().len() as f64 / 1e6;
    assert!((whole - on_disk).abs() < 1e-9, "{report}");
    assert_eq!(printed.contains("WITHOUT OPTIMISATION"), cfg!(debug_assertions), "{printed}");
    for told in ["upkeep", "memory", "packed", "the aim"] {
        assert!(printed.contains(told), "{told}: {printed}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_folder_without_binaries_is_no_report() {
    let folder = std::env::temp_dir().join(make_canary("no-functions"));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("report.json");
    let (code, printed) = bench(&folder, &file).await;
    assert!(code == Some(1) && printed.contains("has no empty-function"), "{printed}");
    assert!(!file.exists());
    std::fs::remove_dir_all(&folder).unwrap();
}
