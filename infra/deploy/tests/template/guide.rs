//! The operations guide: that it has what an operator looks for. Its alarms, its pictures of the dashboard, its outputs
//! and its costs are held against the template in `tests/deploy`, its commands in `infra/admin`.

use crate::{assert_found, check, tool, with_faults};
use theazo_deploy::repository;

/// The guide, `infra/README.md`.
pub(crate) fn text() -> String {
    std::fs::read_to_string(repository().join("infra/README.md")).unwrap()
}

#[test]
fn the_guide_has_a_section_for_whatever_an_operator_does() {
    let guide = text();
    let sections: Vec<&str> = guide.split("\n## ").skip(1).collect();
    let headings: Vec<&str> = sections.iter().filter_map(|section| section.lines().next()).collect();
    let expected = [
        "Deploying from a clean clone",
        "The first root key and the first platform",
        "A domain of your own",
        "Rotating",
        "Restoring",
        "The alarms",
        "The dashboard",
        "What it costs",
    ];
    assert_eq!(headings, expected);
    for section in sections {
        assert!(section.lines().skip(1).any(|line| !line.trim().is_empty()), "nothing is said under {section}");
    }
}

#[test]
fn a_guide_that_tells_of_other_outputs_alarms_pictures_or_costs_than_there_are_is_found() {
    let Some(sam) = tool("sam") else { return };
    let faults = [
        ("`OperatorRoleArn`,", "`OperatorRole`,", "the output OperatorRole is only in the guide"),
        ("the output `DomainTarget`", "the output", "the output DomainTarget is only in the template"),
        ("| `upkeep-errors` |", "| `upkeep` |", "the guide's alarms are others: ['upkeep', 'upkeep-errors']"),
        ("| `Data table` |", "| `Tables` |", "the guide explains other pictures than the dashboard has"),
        (
            "13 alarms (27 in all)",
            "10 alarms (20 in all)",
            "the guide's costs do not say: each metric of the 13 alarms",
        ),
        ("up to 25 metrics", "up to 20 metrics", "the guide's costs do not say: each of up to 25 metrics"),
    ];
    let counted = check(&sam, &repository().join("infra/template.yaml"), &with_faults(&text(), &faults));
    assert_found(&counted, faults);
}

/// What an expression like `2 M x 0.15 / M` comes to, in dollars; bytes are counted in GB, and so is what a GB costs.
fn reckoned(expression: &str) -> f64 {
    let (mut result, mut divides) = (1.0, false);
    for word in expression.split_whitespace() {
        let factor = match word {
            "x" => {
                divides = false;
                continue;
            }
            "/" => {
                divides = true;
                continue;
            }
            "M" => 1e6,
            "KB" => 1e-6,
            "GB" | "s" => 1.0,
            number => number.parse().unwrap_or_else(|_| panic!("{expression}: {number}")),
        };
        result = if divides { result / factor } else { result * factor };
    }
    result
}

#[test]
fn each_cost_in_the_guide_is_what_its_reckoning_comes_to_and_so_is_their_sum() {
    let guide = text();
    let section = guide.split("\n## ").find(|section| section.starts_with("What it costs")).unwrap();
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let &[part, reckoning, cost] = cells.as_slice() else { return None };
        cost.parse::<f64>().ok().map(|cost| (part, reckoned(reckoning), cost))
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 6, "{rows:?}");
    for (part, comes_to, said) in &rows {
        assert!((comes_to - said).abs() < 0.005_1, "{part}: {comes_to}, not {said}");
    }
    let sum: f64 = rows.iter().map(|(_, comes_to, _)| comes_to).sum();
    assert!(section.contains(&format!("About {sum:.0} USD per million requests")), "{sum}");
    let gateway = rows.iter().find(|(part, ..)| part.starts_with("API Gateway")).unwrap().1;
    assert!(section.contains("of which the gateway is six tenths"));
    assert_eq!((gateway / sum * 10.0).round(), 6.0, "the gateway's part: {gateway} of {sum}");
}
