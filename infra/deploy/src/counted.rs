//! What alarms count of the functions' logs: lines that say the same in every function add up in one metric. Figures that
//! functions write for CloudWatch by themselves (`theazo_functions::emf`) are none of these.

use crate::permissions::{Permissions, Service};
use std::fmt::Write;
use theazo_functions::schedule::{RECONCILE, UPKEEP};

/// A metric, and the messages of the lines that it counts.
struct Counted {
    metric: &'static str,
    messages: &'static [&'static str],
}

const STORE_ERRORS: Counted =
    Counted { metric: "StoreErrors", messages: &["the store failed", "log entries are lost"] };
const KMS_ERRORS: Counted = Counted { metric: "KmsErrors", messages: &["the key service refused"] };
const RUN: &[&str] = &["a scheduled run is done"];
const RECONCILE_RUNS: Counted = Counted { metric: "ReconcileRuns", messages: RUN };
const ROTATION_ERRORS: Counted = Counted {
    metric: "RotationErrors",
    messages: &["a rotation could not go on", "values do not open and keep an old key"],
};
const UPKEEP_RUNS: Counted = Counted { metric: "UpkeepRuns", messages: RUN };

/// The metric filters on a function's log group, as YAML at the indentation of a resource.
pub(crate) fn filters(function: &str, resource_name: &str, permissions: &Permissions) -> String {
    let mut out = String::new();
    for counted in of(function, permissions) {
        let Counted { metric, messages } = counted;
        let _ = writeln!(out, "{resource_name}{metric}:\n  Type: AWS::Logs::MetricFilter\n  Properties:");
        let _ = writeln!(out, "    LogGroupName: !Ref {resource_name}Log");
        let _ = writeln!(out, "    FilterPattern: '{}'", pattern(messages));
        let _ = writeln!(out, "    MetricTransformations:\n      - MetricNamespace: !Sub 'Theazo/${{Deployment}}'");
        let _ = writeln!(out, "        MetricName: {metric}\n        MetricValue: '1'");
    }
    out
}

/// The filter of lines that say one of these, which are JSON.
fn pattern(messages: &[&str]) -> String {
    let terms: Vec<_> = messages.iter().map(|message| format!("($.message = \"{message}\")")).collect();
    format!("{{ {} }}", terms.join(" || "))
}

fn of(function: &str, permissions: &Permissions) -> Vec<&'static Counted> {
    let calls = |service| permissions.of(function, service).next().is_some();
    let mut counted = Vec::new();
    if calls(Service::Data) {
        counted.push(&STORE_ERRORS);
    }
    if calls(Service::Kms) {
        counted.push(&KMS_ERRORS);
    }
    if function == RECONCILE.name {
        counted.push(&RECONCILE_RUNS);
    }
    if function == UPKEEP.name {
        counted.push(&UPKEEP_RUNS);
        counted.push(&ROTATION_ERRORS);
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use theazo_functions::emf;
    use theazo_http::{ApiError, LogFormat, make_subscriber};
    use theazo_store::StoreError;

    /// The line that a function writes for that, in the middle of a request.
    fn line(log: impl FnOnce()) -> Value {
        let (reader, writer) = std::io::pipe().unwrap();
        let wanted = tracing_subscriber::EnvFilter::new("info");
        tracing::subscriber::with_default(make_subscriber(LogFormat::Json, wanted, Arc::new(writer)), || {
            let _request = tracing::info_span!("request", id = "req_1", message = "of the span").entered();
            log();
        });
        serde_json::from_reader(reader).unwrap()
    }

    /// Whether a line passes a filter, as CloudWatch reads those of JSON: `{ ($.a = "b") || ($.a = "c") }`.
    fn passes(pattern: &str, line: &Value) -> bool {
        let mut terms = pattern.trim_start_matches("{ ").trim_end_matches(" }").split(" || ");
        let term = |term: &str| {
            let (name, wanted) = term.strip_prefix("($.")?.strip_suffix("\")")?.split_once(" = \"")?;
            Some(line[name] == wanted)
        };
        terms.any(|text| term(text).unwrap_or_else(|| panic!("{text}")))
    }

    #[test]
    fn a_line_as_functions_write_it_is_counted_once() {
        let store = line(|| drop(ApiError::from(StoreError::Contended(1))));
        let run = line(|| tracing::info!(function = "reconcile", "a scheduled run is done"));
        let kms = line(|| tracing::error!(operation = "Decrypt", "the key service refused"));
        let other = line(|| tracing::info!(status = 200, "answered"));
        // As upkeep tells of what it goes on without.
        let rotation = line(|| tracing::error!(rotation = "root key", "a rotation could not go on"));
        let all = [&STORE_ERRORS, &RECONCILE_RUNS, &KMS_ERRORS, &ROTATION_ERRORS];
        for (index, line) in [&store, &run, &kms, &rotation].into_iter().enumerate() {
            for (other, counted) in all.iter().enumerate() {
                assert_eq!(passes(&pattern(counted.messages), line), index == other, "{} {line}", counted.metric);
            }
        }
        assert!(all.iter().all(|counted| !passes(&pattern(counted.messages), &other)), "{other}");
    }

    #[test]
    fn every_line_that_is_counted_is_one_that_is_written() {
        let sources = [
            include_str!("../../../shared/http/src/error.rs"),
            include_str!("../../../shared/store/src/logs/writer.rs"),
            include_str!("../../../shared/store/src/root_keys/rows.rs"),
            include_str!("../../../functions/schedule.rs"),
            include_str!("../../../functions/upkeep.rs"),
        ];
        for message in [STORE_ERRORS, KMS_ERRORS, RECONCILE_RUNS, UPKEEP_RUNS, ROTATION_ERRORS]
            .iter()
            .flat_map(|counted| counted.messages)
        {
            assert!(sources.iter().any(|source| source.contains(&format!("\"{message}\")"))), "{message}");
        }
    }

    #[test]
    fn no_entry_of_a_log_is_lost_without_being_counted() {
        let writer = include_str!("../../../shared/store/src/logs/writer.rs");
        assert_eq!(writer.matches("tracing::error!").count(), 1, "all say what is counted");
    }

    /// The metrics of our own namespace that alarms read: the name, and the dimension if there is one.
    fn alarmed() -> BTreeSet<(String, Option<(String, String)>)> {
        let mut found = BTreeSet::new();
        for alarm in include_str!("frame/alarms.yaml").split("Type: AWS::CloudWatch::Alarm").skip(1) {
            let line = |name: &str| alarm.lines().find_map(|line| line.trim().strip_prefix(name));
            if line("Namespace: ") != Some("!Sub 'Theazo/${Deployment}'") {
                continue;
            }
            let dimension = line("Dimensions: [{Name: ").map(|rest| {
                let (name, value) = rest.trim_end_matches("}]").split_once(", Value: ").unwrap();
                (name.to_owned(), value.to_owned())
            });
            found.insert((line("MetricName: ").unwrap().to_owned(), dimension));
        }
        found
    }

    #[test]
    fn every_metric_that_an_alarm_reads_is_counted_or_written_and_under_the_same_dimension() {
        let counted = [STORE_ERRORS, KMS_ERRORS, RECONCILE_RUNS, ROTATION_ERRORS]
            .map(|counted| (counted.metric.to_owned(), None));
        let dimension = Some((emf::RECONCILE.name.to_owned(), emf::RECONCILE.value.to_owned()));
        let looked_at = emf::RECONCILE_FIGURES.into_iter().filter(|name| ["Orphans", "Lag"].contains(name));
        // Runs of upkeep and the other figures are looked at on the dashboard, and ring nobody up.
        let known: BTreeSet<_> =
            counted.into_iter().chain(looked_at.map(|name| (name.to_owned(), dimension.clone()))).collect();
        assert_eq!(known.len(), 6);
        assert_eq!(alarmed(), known);
        // The dashboard shows what requests are told apart by.
        let dashboard = include_str!("frame/alarms.yaml");
        for kind in emf::REQUEST_KINDS.into_iter().filter(|kind| *kind != "none") {
            let shown = format!("\"{kind}\"]");
            assert!(dashboard.matches(&shown).count() == 3, "{shown}");
        }
        for name in emf::RECONCILE_FIGURES.into_iter().chain(emf::REQUEST_FIGURES) {
            assert!(dashboard.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}
