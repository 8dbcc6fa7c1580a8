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
