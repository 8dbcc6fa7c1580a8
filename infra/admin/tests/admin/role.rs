//! The role that a deployment gives its operator, against what the command line asks for.

use crate::local::{Local, stderr, text};
use serde_json::json;
use std::collections::BTreeSet;
use theazo_deploy::{Permissions, Service, repository};

/// The actions of the operator's role, by the template.
pub fn operators_role() -> BTreeSet<String> {
    let template = std::fs::read_to_string(repository().join("infra/template.yaml")).unwrap();
    let role = template.split("\n  OperatorRole:\n").nth(1).unwrap();
    let role = role.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let words = role.flat_map(|line| line.split(|letter: char| !(letter.is_alphanumeric() || letter == ':')));
    let of_services = ["dynamodb:", "kms:", "secretsmanager:"];
    // A condition's key has a colon more.
    let is_action = |word: &&str| word.matches(':').count() == 1 && of_services.iter().any(|of| word.starts_with(of));
    words.filter(is_action).filter(|word| !word.ends_with(':')).map(str::to_owned).collect()
}

/// What `reconcile now` may ask for: it is the function of that name, at another time.
fn of_reconcile() -> BTreeSet<String> {
    let record = Permissions::read(&repository().join("infra/permissions.json")).unwrap();
    let services = [(Service::Data, "dynamodb"), (Service::Ledger, "dynamodb"), (Service::Kms, "kms")];
    let actions = services.iter().flat_map(|(service, name)| {
        record.of("reconcile", *service).map(move |(action, _)| format!("{name}:{action}")).collect::<Vec<_>>()
    });
    actions.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_role_allows_what_the_command_line_asks_for_and_nothing_else() {
    let local = Local::start().await;
    let made = local.json(&["platform", "create", "acme"]).await;
    let (id, key) = (text(&made["id"]), &made["liveKey"]);
    local.done(key, "POST", "/secrets", Some(json!({ "A": "a" }))).await;
    local.done(key, "POST", "/sessions", Some(json!({}))).await;
    let folder = local.data_dir();
    for command in [
        &["doctor"][..],
        &["reconcile", "now"],
        &["root-key", "rotate", "--cache-seconds", "1"],
        &["platform", "rotate-key", id],
        &["platform", "delete", id, "--yes"],
        &["restore", "replay-deletions", "--ledger", "theazo-ledger", "--dry-run"],
    ] {
        // What it finds is another test's.
        let output = local.admin(&[command, &["--data-dir", folder]].concat()).await;
        assert_ne!(output.status.code(), Some(2), "{command:?}: {}", stderr(&output));
    }
    let mut asked = local.asked.actions();
    asked.extend(of_reconcile());
    // The guide has the operator ask for it, for the variable that commands read.
    asked.insert("secretsmanager:GetSecretValue".into());
    assert_eq!(operators_role(), asked);
    local.stop().await;
}
