//! Figures for the operator, a line each in CloudWatch's embedded metric format
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>),
//! from which CloudWatch makes metrics by itself. Only logs in JSON have them.
//!
//! A line holds whole numbers, and words that are part of this program: no secret, no tenant and no id can be in one. Its
//! one dimension has a few values, because each value of each figure is a metric that costs money every month.

use crate::deployment::{CapabilityName, Deployment};
use crate::reconcile::Outcome;
use crate::routes::Route;
use serde_json::{Map, Value, json};
use theazo_http::FIGURES;
use theazo_store::{RoundTrips, now_ms};

/// What a line is told apart by: a name and one of a few values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// Its name.
    pub name: &'static str,
    /// What it is here.
    pub value: &'static str,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Milliseconds,
    Count,
}

/// A figure: its name, what it counts, and how much.
type Figure = (&'static str, Unit, u64);

/// Of a run of reconciling.
pub const RECONCILE: Dimension = Dimension { name: "Function", value: "reconcile" };
/// The figures of [`RECONCILE`].
pub const RECONCILE_FIGURES: [&str; 5] = ["Orphans", "Postponed", "Skipped", "Lag", "Duration"];
/// What requests are told apart by. The route is in each line for whoever searches, and is no dimension.
pub const REQUEST: &str = "Kind";
/// The kinds of requests.
pub const REQUEST_KINDS: [&str; 5] = ["read", "write", "compute", "stream", "none"];
/// The figures of a request.
pub const REQUEST_FIGURES: [&str; 3] = ["Latency", "RoundTrips", "Errors"];

/// What kind of request a route's are: of those that call providers more is to be expected.
fn kind(route: Option<&Route>) -> &'static str {
    match route {
        None => "none",
        Some(route) if route.capabilities.contains(&CapabilityName::Sandboxes) => "compute",
        Some(route) if route.info.streams => "stream",
        Some(route) if route.info.method == "GET" => "read",
        Some(_) => "write",
    }
}

/// Tells of a request that was answered. An error is an answer that says that it is our fault, or a provider's.
pub(crate) fn request(deployment: &Deployment, route: Option<&Route>, status: u16, ms: u64, trips: RoundTrips) {
    let [latency, round_trips, errors] = REQUEST_FIGURES;
    let figures = [
        (latency, Unit::Milliseconds, ms),
        (round_trips, Unit::Count, u64::try_from(trips.sequential).unwrap_or(u64::MAX)),
        (errors, Unit::Count, u64::from(status >= 500)),
    ];
    let name = route.map_or("none", |route| route.info.name);
    write(&deployment.config().name, Dimension { name: REQUEST, value: kind(route) }, &figures, &[("Route", name)]);
}

/// Tells of a request that is counted already as one that was answered with success, and whose work ended later with an
/// error. `deployment` is its name.
pub(crate) fn failed_late(deployment: &str, route: Option<&Route>) {
    let [.., errors] = REQUEST_FIGURES;
    let name = route.map_or("none", |route| route.info.name);
    let dimension = Dimension { name: REQUEST, value: kind(route) };
    write(deployment, dimension, &[(errors, Unit::Count, 1)], &[("Route", name)]);
}

/// Tells of a run of reconciling.
pub(crate) fn reconciled(deployment: &Deployment, outcome: &Outcome, ms: u64) {
    let [orphans, postponed, skipped, lag, duration] = RECONCILE_FIGURES;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let figures = [
        (orphans, Unit::Count, count(outcome.lingering)),
        (postponed, Unit::Count, count(outcome.postponed)),
        (skipped, Unit::Count, count(outcome.skipped)),
        (lag, Unit::Milliseconds, outcome.lag_ms),
        (duration, Unit::Milliseconds, ms),
    ];
    write(&deployment.config().name, RECONCILE, &figures, &[]);
}

fn write(deployment: &str, dimension: Dimension, figures: &[Figure], notes: &[(&'static str, &'static str)]) {
    if !tracing::enabled!(target: FIGURES, tracing::Level::INFO) {
        return;
    }
    let line = line(deployment, now_ms(), dimension, figures, notes);
    tracing::info!(target: FIGURES, line = %line);
}

/// A line. The namespace is the deployment's own, as its alarms have it.
fn line(
    deployment: &str,
    now_ms: i64,
    dimension: Dimension,
    figures: &[Figure],
    notes: &[(&'static str, &'static str)],
) -> Value {
    let units = figures.iter().map(|(name, unit, _)| {
        let unit = match unit {
            Unit::Milliseconds => "Milliseconds",
            Unit::Count => "Count",
        };
        json!({ "Name": name, "Unit": unit })
    });
    let metrics = json!({
        "Namespace": format!("Theazo/{deployment}"),
        "Dimensions": [[dimension.name]],
        "Metrics": units.collect::<Vec<_>>(),
    });
    let mut line = Map::new();
    line.insert("_aws".into(), json!({ "Timestamp": now_ms, "CloudWatchMetrics": [metrics] }));
    line.insert(dimension.name.into(), dimension.value.into());
    line.extend(notes.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
    line.extend(figures.iter().map(|(name, _, value)| ((*name).to_owned(), Value::from(*value))));
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::ROUTES;
    use std::collections::BTreeSet;

    #[test]
    fn a_line_is_what_the_format_says_and_every_name_in_it_is_there() {
        let figures = [("Latency", Unit::Milliseconds, 12), ("Errors", Unit::Count, 0)];
        let dimension = Dimension { name: REQUEST, value: "read" };
        let line = line("theazo-dev", 1_795_564_800_000, dimension, &figures, &[("Route", "whoami")]);
        assert_eq!(
            line,
            json!({
                "_aws": {
                    "Timestamp": 1_795_564_800_000_i64,
                    "CloudWatchMetrics": [{
                        "Namespace": "Theazo/theazo-dev",
                        "Dimensions": [["Kind"]],
                        "Metrics": [
                            { "Name": "Latency", "Unit": "Milliseconds" },
                            { "Name": "Errors", "Unit": "Count" },
                        ],
                    }],
                },
                "Kind": "read", "Route": "whoami", "Latency": 12, "Errors": 0,
            })
        );
    }

    #[test]
    fn requests_are_of_a_few_kinds_and_all_of_those_are_known() {
        let kinds: BTreeSet<_> = ROUTES.iter().map(|route| kind(Some(route))).chain([kind(None)]).collect();
        assert_eq!(kinds, REQUEST_KINDS.into_iter().collect());
    }
}
