//! The template as CloudFormation reads it, by tools that we did not write: SAM's translator, its linter, and checkov.
//!
//! The figures come from a script in Python, because the translator is a Python package: it transforms the template
//! offline, resolves every reference and compares functions, paths and roles with what is given to it here.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests are named as sentences and may panic")]

mod faults;
mod guide;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use theazo_deploy::{Permissions, repository};
use theazo_functions::deployment::{CapabilityName, VARIABLES};
use theazo_functions::emf::{RECONCILE, RECONCILE_FIGURES, REQUEST, REQUEST_FIGURES, REQUEST_KINDS};
use theazo_functions::routes::ROUTES;
use theazo_functions::schedule::SCHEDULED;
use theazo_http::StreamLimits;

/// What is deployed: the one for each account and region, the other for each deployment.
const TEMPLATES: [&str; 2] = ["infra/account.yaml", "infra/template.yaml"];

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

/// The variables that a function reads its deployment from, but for those of a local Docker engine.
fn variables() -> BTreeSet<&'static str> {
    VARIABLES.into_iter().collect()
}

/// What functions write for CloudWatch by themselves, and what each is told apart by.
fn figures() -> Vec<Value> {
    let of_runs =
        RECONCILE_FIGURES.map(|metric| json!({ "metric": metric, "by": [[RECONCILE.name, RECONCILE.value]] }));
    let by = REQUEST_KINDS.map(|kind| json!([REQUEST, kind]));
    let of_requests = REQUEST_FIGURES.map(|metric| json!({ "metric": metric, "by": by }));
    of_runs.into_iter().chain(of_requests).collect()
}

/// As many sandboxes without an owner as a run removes in one account.
fn max_orphans() -> u64 {
    let source = include_str!("../../../../functions/reconcile/orphans.rs");
    let mut found =
        source.lines().filter_map(|line| line.strip_prefix("const MAX_ORPHANS: usize = ")?.strip_suffix(';'));
    found.next().unwrap().parse().unwrap()
}

fn known(guide: &str) -> Value {
    let permissions = Permissions::read(&repository().join("infra/permissions.json")).unwrap();
    let routes: Vec<Value> = ROUTES
        .iter()
        .map(|route| {
            let path = route.info.pattern.0.replace("*}", "+}");
            json!({
                "name": route.info.name,
                "method": route.info.method,
                "path": path,
                "streams": route.info.streams,
                "authenticates": route.info.authenticates(),
                "sandboxes": route.capabilities.contains(&CapabilityName::Sandboxes),
            })
        })
        .collect();
    json!({
        "routes": routes,
        "scheduled": SCHEDULED.iter().map(|function| function.name).collect::<Vec<_>>(),
        "scheduledWithSandboxes": SCHEDULED.iter().filter(|function| function.sandboxes).map(|function| function.name).collect::<Vec<_>>(),
        "permissions": permissions,
        "variables": variables(),
        "figures": figures(),
        "max_orphans": max_orphans(),
        "guide": guide,
    })
}

/// What the script says of a template and of the guide to it.
fn check(sam: &Path, template: &Path, guide: &str) -> Value {
    let given = std::env::temp_dir().join(format!("theazo-routes-{}.json", rand_name()));
    std::fs::write(&given, known(guide).to_string()).unwrap();
    let mut command = Command::new(sam.with_file_name("python3"));
    command.arg(repository().join("tests/deploy/check_template.py")).arg(template).arg(&given);
    let said = run(command);
    let _ = std::fs::remove_file(&given);
    serde_json::from_str(said.trim()).unwrap()
}

/// That each fault of a list is among those that the script found, by what is said of it.
fn assert_found<'a>(counted: &Value, faults: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) {
    let found: Vec<&str> = counted["faults"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for (from, to, said) in faults {
        assert!(found.iter().any(|fault| fault.contains(said)), "{from:?} as {to:?} was not found: {found:#?}");
    }
}

/// A text with faults in it: each replaces what stands there the first time.
fn with_faults(text: &str, faults: &[(&str, &str, &str)]) -> String {
    faults.iter().fold(text.to_owned(), |bad, (from, to, _)| {
        assert!(bad.contains(from), "there is no {from}");
        bad.replacen(from, to, 1)
    })
}

fn rand_name() -> String {
    format!("{}-{:?}", std::process::id(), std::thread::current().id()).replace(['(', ')'], "")
}

#[test]
fn the_template_and_the_route_table_agree_route_by_route_and_permission_by_permission() {
    let Some(sam) = tool("sam") else { return };
    let counted = check(&sam, &repository().join("infra/template.yaml"), &guide::text());
    assert_eq!(counted["faults"], json!([]));
    assert_eq!(counted["functions"].as_u64().unwrap(), (ROUTES.len() + SCHEDULED.len()) as u64);
}

#[test]
fn building_and_deploying_as_the_readme_says_find_the_template_and_its_parameters() {
    let Some(sam) = tool("sam") else { return };
    let mut command = Command::new(sam.with_file_name("python3"));
    command.arg(repository().join("tests/deploy/check_samconfig.py")).arg(repository());
    assert_eq!(run(command).trim(), "[]");
}

#[test]
fn sams_linter_finds_nothing() {
    let Some(sam) = tool("sam") else { return };
    for template in TEMPLATES {
        let mut command = Command::new(&sam);
        command.args(["validate", "--lint", "--template"]).arg(repository().join(template));
        command.env("AWS_ACCESS_KEY_ID", "none").env("AWS_SECRET_ACCESS_KEY", "none");
        assert!(run(command).contains("is a valid SAM Template"), "{template}");
    }
}

/// checkov with the checks that are not skipped, of these files.
fn checkov(program: &Path, files: &[PathBuf]) -> Command {
    let mut command = Command::new(program);
    command.args(["--framework", "cloudformation", "--skip-download", "--compact", "--quiet", "--config-file"]);
    command.arg(repository().join("tests/deploy/checkov.yaml"));
    for file in files {
        command.arg("--file").arg(file);
    }
    command
}

#[test]
fn checkov_finds_nothing_that_has_no_reason() {
    let Some(program) = tool("checkov") else { return };
    run(checkov(&program, &TEMPLATES.map(|template| repository().join(template))));
}

/// What is skipped for one resource, or for all, is easily skipped for more than was meant.
#[test]
fn checkov_looks_at_what_roles_grant_and_at_whom_the_key_is_for() {
    let Some(program) = tool("checkov") else { return };
    let template = std::fs::read_to_string(repository().join("infra/template.yaml")).unwrap();
    let (role, key) = (resource(&template, "HealthRole"), resource(&template, "RootWrappingKey"));
    let granted = "Action: [logs:CreateLogStream, logs:PutLogEvents]\n                Resource: !GetAtt HealthLog.Arn";
    let trusted = "Principal: {AWS: !Sub 'arn:${AWS::Partition}:iam::${AWS::AccountId}:root'}";
    assert!(role.contains(granted) && key.contains(trusted), "{role}\n{key}");
    let role = role
        .replace(granted, "Action: [iam:CreateUser, kms:PutKeyPolicy, s3:PutObject]\n                Resource: '*'");
    let key = key.replace(trusted, "Principal: {AWS: '*'}");
    let path = std::env::temp_dir().join(format!("theazo-checkov-{}.yaml", rand_name()));
    let bad = format!(
        "AWSTemplateFormatVersion: '2010-09-09'\nResources:\n  HealthRole:\n{role}\n  RootWrappingKey:\n{key}\n"
    );
    std::fs::write(&path, bad).unwrap();
    let output = checkov(&program, std::slice::from_ref(&path)).output().unwrap();
    let _ = std::fs::remove_file(path);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    for check in ["CKV_AWS_33:", "CKV_AWS_109:", "CKV_AWS_111:"] {
        assert!(said.contains(check), "{check} is not among: {said}");
    }
}

/// A resource of the template, up to the next one.
fn resource(template: &str, name: &str) -> String {
    let head = format!("  {name}:");
    let mut lines = template.lines().skip_while(|line| *line != head);
    assert!(lines.next().is_some(), "there is no {name}");
    let rest = lines.take_while(|line| line.starts_with("   ") || line.is_empty());
    rest.collect::<Vec<_>>().join("\n")
}

#[test]
fn streams_end_by_themselves_before_lambda_or_the_gateway_end_them_and_are_never_silent_for_as_long_as_the_gateway_waits()
 {
    let template = std::fs::read_to_string(repository().join("infra/template.yaml")).unwrap();
    let limits = StreamLimits::default();
    assert_eq!((limits.lifetime, limits.heartbeat), (Duration::from_secs(14 * 60), Duration::from_secs(10)));
    assert_eq!(limits.silence, Duration::from_secs(240), "as the contract says");
    let mut streaming = 0;
    for route in ROUTES {
        let words = route.info.name.split('-').map(|word| {
            let (first, rest) = word.split_at(1);
            format!("{}{rest}", first.to_uppercase())
        });
        let function = resource(&template, &format!("{}Function", words.collect::<String>()));
        let number = |name: &str| {
            let mut found = function.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            let number = found.next().map(|text| text.parse::<u64>().unwrap());
            assert!(found.next().is_none(), "{function}");
            number
        };
        let is_streamed = function.lines().any(|line| line.trim() == "ResponseTransferMode: RESPONSE_STREAM");
        assert_eq!(is_streamed, route.info.streams, "{}", route.info.name);
        if !route.info.streams {
            continue;
        }
        streaming += 1;
        // What is left is for the stream's last words, and for a reader who is slow to take them.
        let until = [number("Timeout").map(Duration::from_secs), number("TimeoutInMillis").map(Duration::from_millis)];
        for until in until.map(|until| until.expect("it has a limit of its own")) {
            assert!(limits.lifetime + limits.slow_reader < until, "{}: {until:?}", route.info.name);
        }
    }
    assert_eq!(streaming, 3);
    // A regional API gives a stream up after five silent minutes; one at the edge would after 30 seconds, which executions
    // may be silent for.
    assert!(resource(&template, "Api").contains("EndpointConfiguration: {Type: REGIONAL}"));
    let gateway = Duration::from_secs(5 * 60);
    assert!(limits.heartbeat < gateway && limits.silence < gateway);
}

#[test]
fn reconciling_runs_every_minute_and_the_web_firewall_blocks_addresses_that_ask_too_much() {
    let template = std::fs::read_to_string(repository().join("infra/template.yaml")).unwrap();
    // Limits are held within two minutes: one to the next run, one for it.
    let reconciling = resource(&template, "ReconcileFunction");
    assert!(reconciling.contains("Schedule: rate(1 minute)"), "{reconciling}");
    assert_eq!(template.matches("Schedule: rate(").count(), SCHEDULED.len());
    let api = resource(&template, "Api");
    for part in ["ThrottlingRateLimit: !Ref StageRequestsPerSecond", "ThrottlingBurstLimit: !Ref StageBurst"] {
        assert!(api.contains(part), "{part}: {api}");
    }
    // It costs by itself, so who has other means does without.
    assert!(template.contains("  HasFirewall: !Not [!Equals [!Ref RequestsPerAddress, 0]]\n"));
    for optional in ["Firewall", "FirewallOnApi"] {
        assert!(resource(&template, optional).contains("Condition: HasFirewall"), "{optional}");
    }
    let firewall = resource(&template, "Firewall");
    for part in
        ["Scope: REGIONAL", "Block:", "ResponseCode: 429", "AggregateKeyType: IP", "Limit: !Ref RequestsPerAddress"]
    {
        assert!(firewall.contains(part), "{part}: {firewall}");
    }
    let attached = resource(&template, "FirewallOnApi");
    assert!(attached.contains("WebACLArn: !GetAtt Firewall.Arn") && attached.contains("/stages/live"), "{attached}");
}
