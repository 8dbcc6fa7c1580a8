//! What `doctor` looks at, by the command.

use crate::local::{Local, output, stderr, stdout};
use axum::Router;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Output;
use std::sync::{Arc, Mutex};

fn verdict(found: &Value, what: &str) -> Value {
    line(found, what)["verdict"].clone()
}

fn line<'f>(found: &'f Value, what: &str) -> &'f Value {
    let lines = found.as_array().unwrap();
    lines.iter().find(|line| line["what"] == what).unwrap_or_else(|| panic!("{what}: {found}"))
}

#[tokio::test]
async fn doctor_has_a_line_for_each_thing_and_fails_when_one_is_wrong() {
    let local = Local::start().await;
    let folder = local.data_dir();
    let found = local.json(&["doctor", "--data-dir", folder]).await;
    for what in ["table theazo", "expiry of theazo", "table theazo-ledger", "clock", "root key", "rotation"] {
        assert_eq!(verdict(&found, what), "good", "{found}");
    }
    assert_eq!(verdict(&found, "backups of theazo"), "unknown");

    // A ledger that is gone, and a root key that does not open.
    local.dynamodb("DeleteTable", json!({ "TableName": "theazo-ledger" })).await;
    let key = json!({ "pk": { "S": "root" }, "sk": { "S": "active" } });
    local.dynamodb("DeleteItem", json!({ "TableName": "theazo", "Key": key })).await;
    let output = local.admin(&["doctor", "--data-dir", folder, "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((verdict(&found, "tables"), verdict(&found, "root key")), ("bad".into(), "bad".into()), "{found}");
    assert!(stderr(&output).contains("not as it should be"), "{}", stderr(&output));
    local.stop().await;
}

/// By action, what is answered one after the other: status and body. The last stays.
type Answers = Arc<Mutex<BTreeMap<&'static str, Vec<(u16, String)>>>>;

/// Answers as CloudFormation does by its reference
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_Operations.html>).
struct CloudFormation {
    url: String,
    answers: Answers,
}

impl CloudFormation {
    async fn start() -> Self {
        let answers = Answers::default();
        let known = answers.clone();
        let answer = move |body: String| {
            let action = body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or_default().to_owned();
            let (status, text) = {
                let mut known = known.lock().unwrap();
                match known.get_mut(action.as_str()) {
                    Some(answers) if answers.len() > 1 => answers.remove(0),
                    Some(answers) => answers[0].clone(),
                    // Whoever asks shows it; and not everybody who finds this port is `doctor`.
                    None => (400, format!("{action} is not expected")),
                }
            };
            async move { (StatusCode::from_u16(status).unwrap(), text) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Self { url, answers }
    }

    fn answers(&self, action: &'static str, results: &[&str]) {
        let answer = |result: &&str| {
            let namespace = "http://cloudformation.amazonaws.com/doc/2010-05-15/";
            let result = format!("<{action}Result>{result}</{action}Result>");
            (200, format!("<{action}Response xmlns=\"{namespace}\">{result}</{action}Response>"))
        };
        self.answers.lock().unwrap().insert(action, results.iter().map(answer).collect());
    }

    fn refuses(&self, action: &'static str, message: &str) {
        let error = format!("<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{message}</Message></Error>");
        let body = format!("<ErrorResponse>{error}</ErrorResponse>");
        self.answers.lock().unwrap().insert(action, vec![(403, body)]);
    }

    /// Whether `doctor` finds all well, and what it finds.
    async fn looked_at(&self, local: &Local) -> (bool, Value) {
        let output = self.run(local, &["--json"]).await;
        let found = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        (output.status.success(), found)
    }

    async fn run(&self, local: &Local, more: &[&str]) -> Output {
        let args = ["doctor", "--data-dir", local.data_dir(), "--stack", "theazo-dev"];
        let mut command = local.command(&[&args, more].concat());
        command
            .env("AWS_ENDPOINT_URL_CLOUDFORMATION", &self.url)
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local");
        output(command).await
    }
}

const STATUS: &str = "<StackId>s</StackId><StackDriftDetectionId>d</StackDriftDetectionId>\
                      <Timestamp>2026-11-26T00:00:00Z</Timestamp>";

fn drifted(id: &str, kind: &str) -> String {
    format!(
        "<member><StackId>s</StackId><LogicalResourceId>{id}</LogicalResourceId><ResourceType>{kind}</ResourceType>\
         <StackResourceDriftStatus>MODIFIED</StackResourceDriftStatus><Timestamp>2026-11-26T00:00:00Z</Timestamp></member>"
    )
}

#[tokio::test]
async fn doctor_compares_a_stacks_template_roles_and_resources_with_what_they_should_be() {
    let local = Local::start().await;
    let template = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../template.yaml")).unwrap();
    let digest = theazo_deploy::digest_of(&template).unwrap();
    let of_stack = ["template of theazo-dev", "roles of theazo-dev", "resources of theazo-dev"];
    let aws = CloudFormation::start().await;
    let metadata = |digest: &str| format!("<Metadata>{{\"Theazo\":{{\"TemplateDigest\":\"{digest}\"}}}}</Metadata>");
    aws.answers("GetTemplateSummary", &[&metadata(digest)]);
    aws.answers("DetectStackDrift", &["<StackDriftDetectionId>d</StackDriftDetectionId>"]);
    let status = |word: &str| format!("{STATUS}<DetectionStatus>{word}</DetectionStatus>");
    let (under_way, complete) = (status("DETECTION_IN_PROGRESS"), status("DETECTION_COMPLETE"));
    aws.answers("DescribeStackDriftDetectionStatus", &[&under_way, &complete]);
    aws.answers("DescribeStackResourceDrifts", &["<StackResourceDrifts/>"]);
    let (is_well, found) = aws.looked_at(&local).await;
    assert!(is_well, "{found}");
    for what in of_stack {
        assert_eq!(verdict(&found, what), "good", "{found}");
    }

    // People are told that it goes on, and see each line as it is found.
    aws.answers("DescribeStackDriftDetectionStatus", &[&under_way, &complete]);
    let output = aws.run(&local, &[]).await;
    assert!(stderr(&output).contains("CloudFormation compares theazo-dev"), "{}", stderr(&output));
    let lines: Vec<_> = stdout(&output).lines().collect();
    assert!(lines[0].starts_with("LOOKED AT ") && lines[1].starts_with("table theazo "), "{lines:?}");
    assert_eq!(lines.len(), found.as_array().unwrap().len() + 1, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("roles of theazo-dev ") && line.contains(" good ")), "{lines:?}");

    // Another template, and a role and a table that somebody changed by hand, on two pages.
    aws.answers("GetTemplateSummary", &[&metadata(&"0".repeat(64))]);
    let page = |members: &str, next: &str| format!("<StackResourceDrifts>{members}</StackResourceDrifts>{next}");
    let first = page(&drifted("AgentsExecRole", "AWS::IAM::Role"), "<NextToken>n</NextToken>");
    let second = page(&drifted("DataTable", "AWS::DynamoDB::Table"), "");
    aws.answers("DescribeStackResourceDrifts", &[&first, &second]);
    let (is_well, found) = aws.looked_at(&local).await;
    assert!(!is_well);
    for (what, named) in of_stack.into_iter().zip(["another one", "AgentsExecRole", "DataTable"]) {
        assert_eq!(verdict(&found, what), "bad", "{found}");
        assert!(line(&found, what)["detail"].as_str().unwrap().contains(named), "{found}");
    }

    // What could not be compared is not taken for good, and what is refused is told by its reason.
    aws.answers("GetTemplateSummary", &[&metadata(digest)]);
    let reason = "<DetectionStatusReason>a resource could not be read</DetectionStatusReason>";
    aws.answers("DescribeStackDriftDetectionStatus", &[&(status("DETECTION_FAILED") + reason)]);
    aws.answers("DescribeStackResourceDrifts", &["<StackResourceDrifts/>"]);
    let (is_well, found) = aws.looked_at(&local).await;
    assert!(is_well, "{found}");
    for what in ["roles of theazo-dev", "resources of theazo-dev"] {
        assert_eq!(verdict(&found, what), "unknown", "{found}");
        assert!(line(&found, what)["detail"].as_str().unwrap().contains("could not be read"), "{found}");
    }
    aws.refuses("DetectStackDrift", "not authorized to perform cloudformation:DetectStackDrift");
    let (is_well, found) = aws.looked_at(&local).await;
    assert!(!is_well);
    let told = line(&found, "resources of theazo-dev")["detail"].as_str().unwrap();
    assert!(told.contains("cloudformation:DetectStackDrift"), "{told}");
    local.stop().await;
}
