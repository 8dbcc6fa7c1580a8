//! What alarms count of the functions' logs: lines that say the same in every function add up in one metric. Figures that
//! functions write for CloudWatch by themselves (`theazo_functions::emf`) are none of these.

use crate::permissions::{Permissions, Service};
use std::fmt::Write;

/// A metric, and the messages of the lines that it counts.
struct Counted {
    metric: &'static str,
    messages: &'static [&'static str],
}

const STORE_ERRORS: Counted =
    Counted { metric: "StoreErrors", messages: &["the store failed", "log entries are lost"] };
const KMS_ERRORS: Counted = Counted { metric: "KmsErrors", messages: &["the key service refused"] };

/// The metric filters on a function's log group, as YAML at the indentation of a resource.
pub(crate) fn filters(function: &str, resource_name: &str, permissions: &Permissions) -> String {
    let mut out = String::new();
    for counted in of(function, permissions) {
        let Counted { metric, messages } = counted;
        let terms: Vec<_> = messages.iter().map(|message| format!("($.message = \"{message}\")")).collect();
        let _ = writeln!(out, "{resource_name}{metric}:\n  Type: AWS::Logs::MetricFilter\n  Properties:");
        let _ = writeln!(out, "    LogGroupName: !Ref {resource_name}Log");
        let _ = writeln!(out, "    FilterPattern: '{{ {} }}'", terms.join(" || "));
        let _ = writeln!(out, "    MetricTransformations:\n      - MetricNamespace: !Sub 'Theazo/${{Deployment}}'");
        let _ = writeln!(out, "        MetricName: {metric}\n        MetricValue: '1'");
    }
    out
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
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use theazo_functions::emf;

    #[test]
    fn every_line_that_is_counted_is_one_that_is_written() {
        let sources = [
            include_str!("../../../shared/http/src/error.rs"),
            include_str!("../../../shared/store/src/logs/writer.rs"),
            include_str!("../../../shared/store/src/root_keys/rows.rs"),
        ];
        for message in [STORE_ERRORS, KMS_ERRORS].iter().flat_map(|counted| counted.messages) {
            assert!(sources.iter().any(|source| source.contains(&format!("\"{message}\")"))), "{message}");
        }
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
        let counted = [STORE_ERRORS, KMS_ERRORS].map(|counted| (counted.metric.to_owned(), None));
        let dimension = Some((emf::RECONCILE.name.to_owned(), emf::RECONCILE.value.to_owned()));
        let written = emf::RECONCILE_FIGURES.map(|name| (name.to_owned(), dimension.clone()));
        let known: BTreeSet<_> = counted.into_iter().chain(written).collect();
        let alarmed = alarmed();
        assert!(alarmed.len() >= 3 && alarmed.is_subset(&known), "{alarmed:?} of {known:?}");
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
