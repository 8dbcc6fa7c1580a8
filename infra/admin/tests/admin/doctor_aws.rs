//! What `doctor` finds wrong with tables on AWS, one thing at a time. The tables are the local stack's; what the embedded
//! engine does not know of is answered in its place.

use crate::asked::pass_on;
use crate::local::{Local, command, output, stderr};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use theazo_functions::deployment::OF_PROVIDERS;
use theazo_http::format_time;

/// A table's figures that `doctor` judges, as a deployment's have them.
#[derive(Clone)]
struct Figures {
    status: &'static str,
    expiry: Option<(&'static str, &'static str)>,
    protected: bool,
    recoverable: &'static str,
}

const GOOD: Figures =
    Figures { status: "ACTIVE", expiry: Some(("ENABLED", "ttl")), protected: true, recoverable: "ENABLED" };

/// What the service says now: of the table, of the ledger, and by its clock.
#[derive(Clone)]
struct Said {
    table: Figures,
    ledger: Figures,
    clock: Clock,
}

/// What its `Date` says.
#[derive(Clone)]
enum Clock {
    /// What it is, less so many seconds.
    Behind(u64),
    Nonsense,
}

/// In front of a stack's table. Answers what `doctor` asks about tables by DynamoDB's reference
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_Operations.html>), and passes on all else.
struct DynamoDb {
    url: String,
    said: Arc<Mutex<Said>>,
}

impl DynamoDb {
    async fn start(behind: String) -> Self {
        let said = Arc::new(Mutex::new(Said { table: GOOD, ledger: GOOD, clock: Clock::Behind(0) }));
        let known = said.clone();
        let http = reqwest::Client::new();
        let answer = move |headers: HeaderMap, body: Bytes| {
            let (now, behind, http) = (known.lock().unwrap().clone(), behind.clone(), http.clone());
            async move {
                let target = headers["x-amz-target"].to_str().unwrap().to_owned();
                let operation = target.split_once('.').unwrap().1;
                let asked: Value = serde_json::from_slice(&body).unwrap();
                let name = asked["TableName"].as_str().unwrap_or_default();
                let figures = if name.ends_with("-ledger") { &now.ledger } else { &now.table };
                let told = match operation {
                    "DescribeTable" => Some(json!({ "Table": {
                        "TableName": name,
                        "TableStatus": figures.status,
                        "DeletionProtectionEnabled": figures.protected,
                    } })),
                    "DescribeTimeToLive" => Some(match figures.expiry {
                        None => json!({}),
                        Some((status, attribute)) => json!({ "TimeToLiveDescription": {
                            "TimeToLiveStatus": status,
                            "AttributeName": attribute,
                        } }),
                    }),
                    "DescribeContinuousBackups" => Some(json!({ "ContinuousBackupsDescription": {
                        "ContinuousBackupsStatus": "ENABLED",
                        "PointInTimeRecoveryDescription": { "PointInTimeRecoveryStatus": figures.recoverable },
                    } })),
                    _ => None,
                };
                match told {
                    Some(told) => Response::builder()
                        .header("content-type", "application/x-amz-json-1.0")
                        .header("date", now.clock.date())
                        .body(Body::from(told.to_string()))
                        .unwrap(),
                    None => pass_on(&http, &behind, &headers, body).await,
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Self { url, said }
    }

    /// What `doctor` finds that is not good, and its exit status.
    async fn looked_at(&self, local: &Local, said: Said) -> (Option<i32>, Vec<(String, String)>) {
        *self.said.lock().unwrap() = said;
        let mut command = command(&["doctor", "--aws", "--json"]);
        // As on an operator's machine: what the functions are told, and the region and credentials of a profile.
        let variables = std::fs::read_to_string(local.folder.join("lambda.env")).unwrap();
        command.envs(variables.lines().map(|line| line.split_once('=').unwrap()));
        command.env("AWS_ENDPOINT_URL_DYNAMODB", &self.url);
        command.envs(OF_PROVIDERS.iter().filter(|name| !variables.contains(*name)).map(|name| (name, "")));
        let output = output(command).await;
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let lines = found.as_array().unwrap().iter().filter(|line| line["verdict"] != "good");
        (output.status.code(), lines.map(|line| (text(&line["what"]), text(&line["verdict"]))).collect())
    }
}

impl Clock {
    fn date(&self) -> String {
        let Self::Behind(seconds) = self else { return "some time ago".into() };
        let at = SystemTime::now() - Duration::from_secs(*seconds);
        httpdate(at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }
}

/// As in HTTP's `Date` (<https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7>).
fn httpdate(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let day = DAYS[usize::try_from(seconds / 86_400 % 7).unwrap()];
    // 2026-11-27T08:00:00.000Z
    let text = format_time(i64::try_from(seconds * 1000).unwrap());
    let [year, month, date, hour, minute, second] =
        text.split(['-', 'T', ':', '.']).take(6).collect::<Vec<_>>().try_into().unwrap();
    let month = MONTHS[month.parse::<usize>().unwrap() - 1];
    let second = second.trim_end_matches('Z');
    format!("{day}, {date} {month} {year} {hour}:{minute}:{second} GMT")
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_each_thing_that_is_wrong_with_tables_on_aws_and_the_clock_and_nothing_else() {
    let local = Local::start().await;
    let dynamodb = DynamoDb::start(local.endpoint().to_owned()).await;
    // What is there to be looked at only with more of the command line, or on other stacks.
    let unknown = |more: &[&str]| {
        let usual = ["providers", "roles and resources"];
        more.iter().chain(&usual).map(|what| ((*what).to_owned(), "unknown".to_owned())).collect::<Vec<_>>()
    };
    let good = || Said { table: GOOD, ledger: GOOD, clock: Clock::Behind(0) };
    assert_eq!(dynamodb.looked_at(&local, good()).await, (Some(0), unknown(&[])));

    let of_table = |table| Said { table, ..good() };
    let of_ledger = |ledger| Said { ledger, ..good() };
    for (what, said) in [
        ("table theazo", of_table(Figures { status: "ARCHIVED", ..GOOD })),
        ("table theazo-ledger", of_ledger(Figures { status: "CREATING", ..GOOD })),
        ("expiry of theazo", of_table(Figures { expiry: Some(("DISABLED", "ttl")), ..GOOD })),
        ("expiry of theazo", of_table(Figures { expiry: Some(("ENABLED", "expires")), ..GOOD })),
        ("expiry of theazo-ledger", of_ledger(Figures { expiry: None, ..GOOD })),
        ("protection of theazo", of_table(Figures { protected: false, ..GOOD })),
        ("protection of theazo-ledger", of_ledger(Figures { protected: false, ..GOOD })),
        ("backups of theazo", of_table(Figures { recoverable: "DISABLED", ..GOOD })),
        ("backups of theazo-ledger", of_ledger(Figures { recoverable: "DISABLED", ..GOOD })),
        ("clock", Said { clock: Clock::Behind(60), ..good() }),
    ] {
        let (code, mut found) = dynamodb.looked_at(&local, said).await;
        found.retain(|(_, verdict)| verdict != "unknown");
        assert_eq!((code, found), (Some(1), vec![(what.to_owned(), "bad".to_owned())]), "{what}");
    }
    let timeless = Said { clock: Clock::Nonsense, ..good() };
    assert_eq!(dynamodb.looked_at(&local, timeless).await, (Some(0), unknown(&["clock"])));
    local.stop().await;
}
