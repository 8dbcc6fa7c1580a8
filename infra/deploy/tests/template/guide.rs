//! The operations guide: that it has what an operator looks for. Its alarms, its pictures of the dashboard, its outputs and its
//! costs are held against the template in `tests/deploy`, its commands in `infra/admin`.

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
