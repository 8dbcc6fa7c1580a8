//! What alarms count of the functions' logs: lines that say the same in every function add up in one metric.

use crate::permissions::{Permissions, Service};
use std::fmt::Write;
use theazo_functions::schedule::RECONCILE;

/// A metric, the messages of the lines that it counts, and what each line counts for.
struct Counted {
    metric: &'static str,
    messages: &'static [&'static str],
    value: &'static str,
}

const STORE_ERRORS: Counted =
    Counted { metric: "StoreErrors", messages: &["the store failed", "log entries are lost"], value: "1" };
const KMS_ERRORS: Counted = Counted { metric: "KmsErrors", messages: &["the key service refused"], value: "1" };
const ORPHANS: Counted = Counted { metric: "Orphans", messages: &["orphans were removed"], value: "$.orphans" };

/// The metric filters on a function's log group, as YAML at the indentation of a resource.
pub(crate) fn filters(function: &str, resource_name: &str, permissions: &Permissions) -> String {
    let mut out = String::new();
    for counted in of(function, permissions) {
        let Counted { metric, messages, value } = counted;
        let terms: Vec<_> = messages.iter().map(|message| format!("($.message = \"{message}\")")).collect();
        let _ = writeln!(out, "{resource_name}{metric}:\n  Type: AWS::Logs::MetricFilter\n  Properties:");
        let _ = writeln!(out, "    LogGroupName: !Ref {resource_name}Log");
        let _ = writeln!(out, "    FilterPattern: '{{ {} }}'", terms.join(" || "));
        let _ = writeln!(out, "    MetricTransformations:\n      - MetricNamespace: !Sub 'Theazo/${{Deployment}}'");
        let _ = writeln!(out, "        MetricName: {metric}\n        MetricValue: '{value}'");
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
    if function == RECONCILE.name {
        counted.push(&ORPHANS);
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_that_is_counted_is_one_that_is_written() {
        let sources = [
            include_str!("../../../shared/http/src/error.rs"),
            include_str!("../../../shared/store/src/logs/writer.rs"),
            include_str!("../../../shared/store/src/root_keys/rows.rs"),
            include_str!("../../../functions/reconcile.rs"),
        ];
        for message in [STORE_ERRORS, KMS_ERRORS, ORPHANS].iter().flat_map(|counted| counted.messages) {
            assert!(sources.iter().any(|source| source.contains(&format!("\"{message}\")"))), "{message}");
        }
        assert!(sources[3].contains("orphans = outcome.orphans"));
    }
}
