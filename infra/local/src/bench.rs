//! `cargo dev bench`: what Theazo's own work costs, each figure beside a baseline that was measured in the same run,
//! in turns with it, so that whatever else the machine does weighs on both.

pub mod agents;
mod agents_bare;
pub mod api;
mod api_cases;
mod caller;
pub mod cold_start;
pub mod month;
pub mod vault;
mod world;

use crate::terminal::say;
use serde::{Serialize, Serializer};
use std::path::Path;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a benchmark found.
#[derive(Serialize)]
pub struct Report {
    /// Which benchmark.
    pub bench: &'static str,
    /// Whether the compiler optimised this program. Figures of one that it did not are good for nothing.
    pub optimised: bool,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// One thing that was measured.
#[derive(Serialize)]
pub struct Row {
    /// Stable, for comparing runs.
    pub name: String,
    /// What the figures count.
    pub unit: Unit,
    /// Theazo.
    pub ours: Figures,
    /// What it is compared with.
    pub baseline: Option<Figures>,
    /// How many times worse the median is than the baseline's: smaller is better, for rates and for times.
    pub ratio: Option<f64>,
    /// How often a call waits for the table or the key service.
    #[serde(rename = "roundTrips", skip_serializing_if = "Option::is_none")]
    pub trips: Option<usize>,
    /// All that was measured, where that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Samples>,
    /// What was done, and what the baseline is.
    #[serde(skip)]
    pub what: &'static str,
}

/// What was measured, in order.
#[derive(Serialize)]
pub struct Samples {
    ours: Vec<f64>,
    baseline: Vec<f64>,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// How often in a second.
    PerSecond,
    /// 10^6 bytes in a second.
    MegabytesPerSecond,
    /// Milliseconds for one.
    Milliseconds,
    /// 10^6 bytes of one.
    Megabytes,
    /// Calls for one.
    Calls,
}

impl Unit {
    fn as_str(self) -> &'static str {
        match self {
            Self::PerSecond => "1/s",
            Self::MegabytesPerSecond => "MB/s",
            Self::Milliseconds => "ms",
            Self::Megabytes => "MB",
            Self::Calls => "calls",
        }
    }

    /// Whether more is better.
    fn is_rate(self) -> bool {
        matches!(self, Self::PerSecond | Self::MegabytesPerSecond)
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Quantiles of some samples, from the best to the worst: 95 of 100 samples are as good as `p95` or better, so the `p95`
/// of a time is above its median and the `p95` of a rate below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The median.
    pub p50: f64,
    /// 95 of 100 are as good or better.
    pub p95: f64,
    /// 99 of 100 are as good or better.
    pub p99: f64,
    /// Samples.
    pub n: usize,
}

impl Figures {
    /// Of at least one sample, by nearest rank.
    fn of(mut samples: Vec<f64>, unit: Unit) -> Self {
        samples.sort_by(f64::total_cmp);
        if unit.is_rate() {
            samples.reverse();
        }
        let n = samples.len();
        let at =
            |percent: usize| samples.get((n * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN);
        Self { p50: at(50), p95: at(95), p99: at(99), n }
    }
}

impl Row {
    fn new(
        name: impl Into<String>,
        unit: Unit,
        ours: Vec<f64>,
        baseline: Option<Vec<f64>>,
        what: &'static str,
    ) -> Self {
        let ours = Figures::of(ours, unit);
        let baseline = baseline.map(|samples| Figures::of(samples, unit));
        let ratio = baseline.map(|base| if unit.is_rate() { base.p50 / ours.p50 } else { ours.p50 / base.p50 });
        Self { name: name.into(), unit, ours, baseline, ratio, trips: None, samples: None, what }
    }

    /// Beside a baseline, with all samples for the file.
    fn with_all(name: &str, unit: Unit, ours: Vec<f64>, baseline: Vec<f64>, what: &'static str) -> Self {
        let samples = Samples { ours: ours.clone(), baseline: baseline.clone() };
        Self { samples: Some(samples), ..Self::new(name, unit, ours, Some(baseline), what) }
    }

    fn with_trips(self, trips: usize) -> Self {
        Self { trips: Some(trips), ..self }
    }
}

impl Report {
    fn new(bench: &'static str, rows: Vec<Row>) -> Self {
        Self { bench, optimised: !cfg!(debug_assertions), rows }
    }

    /// Shows the report to the person at the terminal, and writes it as JSON where that was asked for.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, json: Option<&Path>) -> Result<(), Failure> {
        self.lines().iter().for_each(|line| say(line));
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(self)? + "\n";
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            say(&format!("\nwritten to {}", path.display()));
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.optimised {
            lines.push("BUILT WITHOUT OPTIMISATION: these figures say nothing about Theazo.".into());
            lines.push(format!("    cargo dev-release bench {}   measures what is worth reading.\n", self.bench));
        }
        let columns = ["", "unit", "p50", "p95", "p99", "n", "baseline", "ratio", "trips"];
        lines.push(columns.iter().zip(WIDTHS).map(|(text, width)| format!("{text:>width$}")).collect());
        for row in &self.rows {
            let optional = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), number);
            let cells = [
                row.name.clone(),
                row.unit.as_str().to_owned(),
                number(row.ours.p50),
                number(row.ours.p95),
                number(row.ours.p99),
                row.ours.n.to_string(),
                optional(row.baseline.map(|figures| figures.p50)),
                optional(row.ratio),
                row.trips.map_or_else(String::new, |trips| trips.to_string()),
            ];
            lines.push(cells.iter().zip(WIDTHS).map(|(text, width)| format!("{text:>width$}")).collect());
        }
        lines.push(String::new());
        let told = self.rows.iter().filter(|row| !row.what.is_empty());
        lines.extend(told.map(|row| format!("{:>10}  {}", row.name, row.what)));
        lines.push("\nThe baseline is shown as its median. The ratio compares medians; smaller is better.".into());
        lines
    }
}

const WIDTHS: [usize; 9] = [40, 7, 12, 12, 12, 6, 12, 9, 6];

/// Three digits or more that mean something, without an exponent.
fn number(figure: f64) -> String {
    let decimals = match figure.abs() {
        0.0 => 0,
        size if size < 1.0 => 4,
        size if size < 100.0 => 2,
        _ => 0,
    };
    format!("{figure:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hundred() -> Vec<f64> {
        (1..=100).rev().map(f64::from).collect()
    }

    #[test]
    fn quantiles_go_from_the_best_to_the_worst() {
        assert_eq!(Figures::of(hundred(), Unit::Milliseconds), Figures { p50: 50.0, p95: 95.0, p99: 99.0, n: 100 });
        assert_eq!(Figures::of(hundred(), Unit::PerSecond), Figures { p50: 51.0, p95: 6.0, p99: 2.0, n: 100 });
        assert_eq!(Figures::of(vec![7.0], Unit::Calls), Figures { p50: 7.0, p95: 7.0, p99: 7.0, n: 1 });
    }

    #[test]
    fn a_ratio_is_smaller_where_theazo_is_better() {
        let ratio = |unit, ours, baseline| Row::new("x", unit, vec![ours], Some(vec![baseline]), "").ratio;
        assert_eq!(ratio(Unit::Milliseconds, 3.0, 2.0), Some(1.5));
        assert_eq!(ratio(Unit::PerSecond, 2.0, 3.0), Some(1.5));
        assert_eq!(Row::new("x", Unit::Calls, vec![1.0], None, "").ratio, None);
    }

    #[test]
    fn a_program_without_optimisation_says_so_first() {
        let report = |optimised| Report { bench: "vault", optimised, rows: Vec::new() };
        assert!(report(false).lines()[0].contains("WITHOUT OPTIMISATION"));
        assert!(!report(true).lines().iter().any(|line| line.contains("OPTIMISATION")));
        assert_eq!(Report::new("vault", Vec::new()).optimised, !cfg!(debug_assertions));
    }
}
