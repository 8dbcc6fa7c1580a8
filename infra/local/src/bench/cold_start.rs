//! `cargo dev bench cold-start`: what a function's start takes, from the start of its process to its first poll, and how
//! large it is, beside a function of `lambda_http` that does nothing.

use super::{Failure, Figures, Report, Row, Unit};
use crate::lambda::Bootstrap;
use crate::terminal::say;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use theazo_functions::routes::ROUTES;
use theazo_functions::schedule::SCHEDULED;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// The function that does nothing.
pub const EMPTY: &str = "empty-function";
/// Starts of each function; those of the empty one are taken in turns with them.
pub const STARTS: usize = 21;
const LIMIT: Duration = Duration::from_secs(5);

/// Measures every function that there is a binary of in that folder, as `cargo lambda build` or `cargo build` leave them.
///
/// # Errors
/// When there is none, not the empty one, or one that does not start.
pub async fn run(folder: &Path, only: &[String], starts: usize) -> Result<Report, Failure> {
    let empty = binary(folder, EMPTY).ok_or_else(|| {
        format!("{} has no {EMPTY}: `cargo lambda build --release` builds all of them", folder.display())
    })?;
    let names = ROUTES.iter().map(|route| route.info.name).chain(SCHEDULED.iter().map(|function| function.name));
    let wanted = names.filter(|name| only.is_empty() || only.iter().any(|only| only == name));
    let found: Vec<(&'static str, PathBuf)> = wanted.filter_map(|name| Some((name, binary(folder, name)?))).collect();
    if found.is_empty() {
        return Err(format!("{} has no function", folder.display()).into());
    }
    let mut rows = Vec::new();
    let base_size = size(&empty).await?;
    for (name, binary) in found {
        say(&format!("    {name}"));
        let (mut ours, mut base) = (Samples::default(), Samples::default());
        for _ in 0..starts {
            // In turns, so that whatever else the machine does weighs on both.
            base.add(&empty).await?;
            ours.add(&binary).await?;
        }
        let own_size = size(&binary).await?;
        rows.push(Row::new(name, Unit::Milliseconds, ours.init_ms, Some(base.init_ms), ""));
        rows.push(Row::new("  memory", Unit::Megabytes, ours.resident_mb, Some(base.resident_mb), ""));
        rows.push(Row::new("  binary", Unit::Megabytes, vec![own_size.0], Some(vec![base_size.0]), ""));
        rows.push(Row::new("  packed", Unit::Megabytes, vec![own_size.1], Some(vec![base_size.1]), ""));
    }
    let report = Report::new("cold-start", rows);
    let is_release = folder.components().any(|part| part.as_os_str() == "release" || part.as_os_str() == "lambda");
    Ok(Report { optimised: is_release, ..report })
}

/// A function's binary, in either layout.
fn binary(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join(name).join("bootstrap"), folder.join(name)].into_iter().find(|path| path.is_file())
}

#[derive(Default)]
struct Samples {
    init_ms: Vec<f64>,
    resident_mb: Vec<f64>,
}

impl Samples {
    async fn add(&mut self, binary: &Path) -> Result<(), Failure> {
        let function = Bootstrap::start(binary.to_owned(), &environment(), LIMIT).await?;
        self.init_ms.push(function.init().as_secs_f64() * 1000.0);
        let resident = function.resident_bytes().ok_or("the process's memory cannot be read")?;
        self.resident_mb.push(resident as f64 / 1e6);
        Ok(())
    }
}

/// What a function finds in production, as far as its start looks at it. It calls nobody before its first event.
fn environment() -> Vec<(String, String)> {
    let variables = [
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        ("AWS_SESSION_TOKEN", "none"),
        ("THEAZO_DEPLOYMENT", "bench"),
        ("THEAZO_TABLE", "bench-data"),
        ("THEAZO_KMS_KEY_ARN", "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000"),
        ("THEAZO_CREDENTIAL_KEY", "0000000000000000000000000000000000000000000000000000000000000000"),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Megabytes of a binary, and of it packed as a zip file packs.
async fn size(binary: &Path) -> Result<(f64, f64), Failure> {
    let whole = std::fs::metadata(binary)?.len();
    let mut packing =
        Command::new("gzip").args(["-9", "-c"]).arg(binary).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut packed = 0;
    let mut buffer = vec![0; 64 * 1024];
    if let Some(mut out) = packing.stdout.take() {
        while let read @ 1.. = out.read(&mut buffer).await? {
            packed += read;
        }
    }
    if !packing.wait().await?.success() {
        return Err("gzip failed".into());
    }
    Ok((whole as f64 / 1e6, packed as f64 / 1e6))
}

/// The rows that the aim is about, with how far each is from it: 1.3 times the empty function's time, and 1.5 times its
/// memory.
pub fn over_the_aim(report: &Report) -> Vec<String> {
    let mut over = Vec::new();
    let mut function = "";
    for row in &report.rows {
        let limit = match row.unit {
            Unit::Milliseconds => {
                function = &row.name;
                1.3
            }
            _ if row.name.trim() == "memory" => 1.5,
            _ => continue,
        };
        let Some(ratio) = row.ratio.filter(|ratio| *ratio > limit) else { continue };
        let Figures { p50, .. } = row.ours;
        over.push(format!("{function}: {p50:.1} {} is {ratio:.2} times the empty function's", row.unit.as_str()));
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_aim_is_named_with_how_far_it_is_and_sizes_are_not_of_it() {
        let row = |name: &str, unit, ours, baseline| Row::new(name, unit, vec![ours], Some(vec![baseline]), "");
        let of = |name: &str, ms, resident| {
            [
                row(name, Unit::Milliseconds, ms, 2.0),
                row("  memory", Unit::Megabytes, resident, 4.0),
                row("  binary", Unit::Megabytes, 80.0, 4.0),
                row("  packed", Unit::Megabytes, 80.0, 4.0),
            ]
        };
        // At the aim is within it: 1.3 times the time, 1.5 times the memory.
        let rows = [of("at-it", 2.6, 6.0), of("slow", 2.62, 6.0), of("large", 1.0, 6.2), of("both", 4.0, 8.0)];
        let report = Report::new("cold-start", rows.into_iter().flatten().collect());
        let expected = [
            "slow: 2.6 ms is 1.31 times the empty function's",
            "large: 6.2 MB is 1.55 times the empty function's",
            "both: 4.0 ms is 2.00 times the empty function's",
            "both: 8.0 MB is 2.00 times the empty function's",
        ];
        assert_eq!(over_the_aim(&report), expected);
        assert!(over_the_aim(&Report::new("cold-start", Vec::new())).is_empty());
    }
}
