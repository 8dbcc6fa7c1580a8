//! The template as CloudFormation reads it, by tools that we did not write: SAM's translator, its linter, and checkov.
//!
//! The figures come from a script in Python, because the translator is a Python package: it transforms the template
//! offline, resolves every reference and compares functions, paths and roles with what is given to it here.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests are named as sentences and may panic")]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use theazo_deploy::{Permissions, repository};
use theazo_functions::deployment::{CapabilityName, VARIABLES};
use theazo_functions::routes::ROUTES;
use theazo_functions::schedule::SCHEDULED;

/// A program from where `THEAZO_IAC` says, or from the path. `None` is a skip, which says so; where nothing may be skipped,
/// it is a failure.
fn tool(name: &str) -> Option<PathBuf> {
    let places = std::env::var_os("THEAZO_IAC").into_iter().chain(std::env::var_os("PATH"));
    let found = places
        .flat_map(|places| std::env::split_paths(&places).collect::<Vec<_>>())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        let decides = std::env::var_os("THEAZO_CI").is_some_and(|value| value == "1");
        assert!(!decides, "{name} is not installed, and THEAZO_CI=1 lets nothing be skipped");
        let _ = writeln!(std::io::stderr(), "skipped: {name} is not installed (`pip install aws-sam-cli checkov`)");
    }
    found
}

fn run(mut command: Command) -> String {
    command.env("SAM_CLI_TELEMETRY", "0").env("AWS_DEFAULT_REGION", "us-east-1");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The functions that may use the key: those with a capability that seals or opens. What works on sandboxes opens the
/// credential of the platform's account at their provider.
fn sealing() -> Vec<&'static str> {
    const OPENING: [CapabilityName; 5] = [
        CapabilityName::SecretSealer,
        CapabilityName::SecretOpener,
        CapabilityName::AgentCopies,
        CapabilityName::ProviderCredentials,
        CapabilityName::Sandboxes,
    ];
    let routes = ROUTES.iter().filter(|route| route.capabilities.iter().any(|capability| OPENING.contains(capability)));
    routes.map(|route| route.info.name).collect()
}

/// The variables that a function reads its deployment from, but for those of a local Docker engine.
fn variables() -> BTreeSet<&'static str> {
    VARIABLES.into_iter().collect()
}

fn known() -> Value {
    let permissions = Permissions::read(&repository().join("infra/permissions.json")).unwrap();
    let routes: Vec<Value> = ROUTES
        .iter()
        .map(|route| {
            let path = route.info.pattern.0.replace("*}", "+}");
            json!({ "name": route.info.name, "method": route.info.method, "path": path, "streams": route.info.streams })
        })
        .collect();
    json!({
        "routes": routes,
        "scheduled": SCHEDULED.iter().map(|function| function.name).collect::<Vec<_>>(),
        "permissions": permissions,
        "sealing": sealing(),
        "variables": variables(),
    })
}

#[test]
fn the_template_and_the_route_table_agree_route_by_route_and_permission_by_permission() {
    let Some(sam) = tool("sam") else { return };
    let python = sam.with_file_name("python3");
    let given = std::env::temp_dir().join(format!("theazo-routes-{}.json", std::process::id()));
    std::fs::write(&given, known().to_string()).unwrap();
    let mut command = Command::new(python);
    command.arg(repository().join("tests/deploy/check_template.py"));
    command.arg(repository().join("infra/template.yaml")).arg(&given);
    let counted = run(command);
    let _ = std::fs::remove_file(&given);
    let counted: Value = serde_json::from_str(counted.trim()).unwrap();
    assert_eq!(counted["faults"], 0);
    assert_eq!(counted["functions"].as_u64().unwrap(), (ROUTES.len() + SCHEDULED.len()) as u64);
}

#[test]
fn faults_that_are_put_into_the_template_are_found() {
    let Some(sam) = tool("sam") else { return };
    let given = std::env::temp_dir().join(format!("theazo-faults-{}.json", std::process::id()));
    std::fs::write(&given, known().to_string()).unwrap();
    let good = std::fs::read_to_string(repository().join("infra/template.yaml")).unwrap();
    for (what, from, to) in [
        ("a reference to nothing", "!GetAtt DataTable.Arn", "!GetAtt DataTabel.Arn"),
        ("a wider action", "dynamodb:GetItem", "dynamodb:*"),
        ("a wider key pattern", "'*#names'", "'*'"),
        ("another path", "Path: /v1/whoami", "Path: /v1/whoamI"),
        ("a name that two deployments would share", "'${Deployment}-whoami'", "'theazo-whoami'"),
        ("a metric of all deployments", "MetricNamespace: !Sub 'Theazo/${Deployment}'", "MetricNamespace: Theazo"),
        ("a stream that does not stream", "ResponseTransferMode: RESPONSE_STREAM", "ResponseTransferMode: STREAM"),
        ("another function's role", "Role: !GetAtt HealthRole.Arn", "Role: !GetAtt UpkeepRole.Arn"),
        ("a missing variable", "THEAZO_KMS_KEY_ARN:", "THEAZO_KMS_KEY:"),
        ("a table that goes with its stack", "DeletionPolicy: Retain", "DeletionPolicy: Delete"),
    ] {
        assert!(good.contains(from), "{what}: the template has no {from}");
        let bad = std::env::temp_dir().join(format!("theazo-fault-{}.yaml", std::process::id()));
        std::fs::write(&bad, good.replacen(from, to, 1)).unwrap();
        let mut command = Command::new(sam.with_file_name("python3"));
        command.arg(repository().join("tests/deploy/check_template.py")).arg(&bad).arg(&given);
        assert!(!command.output().unwrap().status.success(), "{what} was not found");
        let _ = std::fs::remove_file(bad);
    }
    let _ = std::fs::remove_file(given);
}

#[test]
fn sams_linter_finds_nothing() {
    let Some(sam) = tool("sam") else { return };
    let mut command = Command::new(sam);
    command.args(["validate", "--lint", "--template"]).arg(repository().join("infra/template.yaml"));
    command.env("AWS_ACCESS_KEY_ID", "none").env("AWS_SECRET_ACCESS_KEY", "none");
    assert!(run(command).contains("is a valid SAM Template"));
}

#[test]
fn checkov_finds_nothing_that_has_no_reason() {
    let Some(checkov) = tool("checkov") else { return };
    let mut command = Command::new(checkov);
    command.args(["--framework", "cloudformation", "--skip-download", "--compact", "--quiet", "--config-file"]);
    command.arg(repository().join("tests/deploy/checkov.yaml")).arg("--file");
    command.arg(repository().join("infra/template.yaml"));
    run(command);
}
