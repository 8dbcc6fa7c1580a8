//! The template as CloudFormation reads it, by tools that we did not write: SAM's translator, its linter, and checkov.
//!
//! The figures come from a script in Python, because the translator is a Python package: it transforms the template
//! offline, resolves every reference and compares functions, paths and roles with what is given to it here.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests are named as sentences and may panic")]

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

fn known() -> Value {
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
        "permissions": permissions,
        "variables": variables(),
        "figures": figures(),
    })
}

/// What the script says of a template.
fn check(sam: &Path, template: &Path) -> Value {
    let given = std::env::temp_dir().join(format!("theazo-routes-{}.json", rand_name()));
    std::fs::write(&given, known().to_string()).unwrap();
    let mut command = Command::new(sam.with_file_name("python3"));
    command.arg(repository().join("tests/deploy/check_template.py")).arg(template).arg(&given);
    let said = run(command);
    let _ = std::fs::remove_file(&given);
    serde_json::from_str(said.trim()).unwrap()
}

fn rand_name() -> String {
    format!("{}-{:?}", std::process::id(), std::thread::current().id()).replace(['(', ')'], "")
}

#[test]
fn the_template_and_the_route_table_agree_route_by_route_and_permission_by_permission() {
    let Some(sam) = tool("sam") else { return };
    let counted = check(&sam, &repository().join("infra/template.yaml"));
    assert_eq!(counted["faults"], json!([]));
    assert_eq!(counted["functions"].as_u64().unwrap(), (ROUTES.len() + SCHEDULED.len()) as u64);
}

/// Faults that are put into a template together: what stands there, what is put in its place the first time, and what must
/// be said of it. None hides another.
const FAULTS: &[(&str, &str, &str)] = &[
    ("!Sub '${DataTable.Arn}_*'", "!Sub '${DataTabel.Arn}_*'", "DataTabel, which does not exist"),
    ("Action: dynamodb:GetItem", "Action: dynamodb:*", "Role is granted dynamodb:*"),
    ("'*#names'", "'*'", "is granted other than recorded: ['data']"),
    ("Path: /v1/whoami", "Path: /v1/whoamI", "/v1/whoamI') is only in the gateway"),
    ("FunctionName: !Sub '${Deployment}_whoami'", "FunctionName: theazo-whoami", "WhoamiFunction is not named after"),
    ("RoleName: !Sub '${Deployment}_whoami'", "RoleName: !Sub '${Deployment}-whoami'", "whoami's role is called"),
    ("MetricNamespace: !Sub 'Theazo/${Deployment}'", "MetricNamespace: Theazo", "counts for every deployment"),
    ("ResponseTransferMode: RESPONSE_STREAM", "ResponseTransferMode: STREAM", "streams in the table is True"),
    ("Role: !GetAtt HealthRole.Arn", "Role: !GetAtt UpkeepRole.Arn", "health has another function's role"),
    ("THEAZO_E2B_API_URL:", "THEAZO_E2B_URL:", "THEAZO_E2B_API_URL is only in the functions"),
    ("DeletionPolicy: Retain", "DeletionPolicy: Delete", "DataTable would be deleted with its stack"),
    ("      OpenApiVersion: 3.0.1\n", "", "makes a second stage, Stage"),
    (
        "kms:EncryptionContext:theazo:purpose: root-key\n                    kms:EncryptionContext:theazo:deployment: !Ref Deployment\n              - Sid: Log",
        "kms:EncryptionContext:theazo:purpose: any\n              - Sid: Log",
        "Decrypt is not bound to the encryption context",
    ),
    (
        "kms:EncryptionContext:theazo:purpose: root-key\n                    kms:EncryptionContext:theazo:deployment: !Ref Deployment\n              - Sid: LookAtKey",
        "kms:EncryptionContext:theazo:purpose: any\n              - Sid: LookAtKey",
        "the operator may use the key for something else",
    ),
    (
        "Sid: OpenRootKeys\n            Effect: Allow\n            Principal: {AWS: !Sub 'arn:${AWS::Partition}:iam::${AWS::AccountId}:root'}",
        "Sid: OpenRootKeys\n            Effect: Allow\n            Principal: {AWS: '*'}",
        "the key's OpenRootKeys is for",
    ),
    ("role/${Deployment}_upkeep'\n", "role/${Deployment}_*'\n", "the key's OpenRootKeys is not for just the roles"),
    ("- kms:DescribeKey\n", "- kms:Decrypt\n", "who administers the key may use it"),
    ("\"route\":\"$context.resourcePath\"", "\"route\":\"$context.path\"", "the access log says something else"),
    ("!Ref StageBurst", "1", "the stage's throttles or logs differ"),
    (
        "\"code\":\"rate_limited\",\"message\":\"Too many requests.\",\"details\":{\"retryAfter\":1}",
        "\"code\":\"limited\"",
        "the gateway's THROTTLED is not an error of ours",
    ),
    ("AttributeName: ttl", "AttributeName: expires", "DataTable: expiry"),
    (
        "MetricName: ReadThrottleEvents",
        "MetricName: ThrottledRequests",
        "ThrottledRequests by ['TableName'], of which there is none",
    ),
    (
        "MetricName: KmsErrors\n      Statistic",
        "MetricName: KeyErrors\n      Statistic",
        "looks at KeyErrors, which nothing counts so",
    ),
    ("\"${Deployment}_agents-list\"], ", "\"${Deployment}_agents\"], ", "does not show every function's Errors"),
    ("ReservedConcurrentExecutions: 1", "ReservedConcurrentExecutions: 2", "reconcile has a concurrency of 2"),
    ("Timeout: 120", "Timeout: 60", "reconcile is cut off after 60 s"),
    ("!If [HasPrices, !Ref PricesJson", "!If [HasPrice, !Ref PricesJson", "condition:HasPrice, which does not exist"),
];

#[test]
fn faults_that_are_put_into_the_template_are_found_each_for_what_it_is() {
    let Some(sam) = tool("sam") else { return };
    let mut bad = std::fs::read_to_string(repository().join("infra/template.yaml")).unwrap();
    for (from, to, _) in FAULTS {
        assert!(bad.contains(from), "the template has no {from}");
        bad = bad.replacen(from, to, 1);
    }
    let path = std::env::temp_dir().join(format!("theazo-fault-{}.yaml", rand_name()));
    std::fs::write(&path, bad).unwrap();
    let counted = check(&sam, &path);
    let _ = std::fs::remove_file(path);
    let found: Vec<&str> = counted["faults"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for (_, to, said) in FAULTS {
        assert!(found.iter().any(|fault| fault.contains(said)), "{to} was not found: {found:#?}");
    }
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
