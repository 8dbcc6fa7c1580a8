//! Forged credentials with a right checksum: what they cost the platform that they name, on every route.

use crate::allowed::wire::requests;
use crate::harness::{Answer, OwnStack, Platform, Tap, dynamodb, incoming_once, scan_everything};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use theazo_functions::deployment::Deployment;
use theazo_functions::routes::{ROUTES, Route};
use theazo_functions::serve;
use theazo_http::{Caller, Repeats, RouteInfo};
use theazo_store::{Aws, AwsEndpoints, MAX_UNPROVEN_CALLS};
use theazo_tenancy::{
    AgentId, IssuedKey, Mode, PlatformId, SessionId, make_agent_token, make_api_key, make_session_token,
};

/// More rows than one query of a filtered list goes through.
const MANY: usize = 600;
/// Rows that one read for a caller without proof goes through at most.
const MAX_UNPROVEN_ROWS: u64 = 128;
/// Where a path has a credential.
const TOKEN: &str = "TOKEN";

fn count(answer: &Answer, header: &str) -> usize {
    answer.headers[header].parse().unwrap()
}

fn trips(answer: &Answer) -> (usize, usize) {
    (count(answer, "x-theazo-round-trips"), count(answer, "x-theazo-calls"))
}

/// A platform with something of everything, and of what is listed very much.
struct Victim {
    platform: Platform,
    session: String,
    agent: String,
}

impl Victim {
    async fn make(own: &OwnStack) -> Self {
        let platform = Platform::make_on(&own.stack, "forged").await;
        let client = platform.client.with_key(Some(&platform.test_key));
        let session = client.session("user").await;
        client.set_secrets(&session, json!({ "A": "1", "B": "2" })).await;
        client.post("/v1/secrets", json!({ "C": "3" })).await.expect(204);
        let agent = client.boot(&session, json!({})).await;
        let id = platform.id.to_string();
        for (partition, prefix) in [
            (format!("{id}#test#sessions"), "ses_"),
            (format!("{id}#test#agents"), "agt_"),
            (format!("{id}#test#{session}#agents"), "agt_"),
            (format!("{id}#keys"), "key_"),
        ] {
            multiply(&own.stack.dynamodb_url(), &partition, prefix).await;
        }
        Self { platform, session, agent }
    }

    /// The route's path with ids of this platform's, and with a filter that nothing passes where there is one.
    fn path(&self, name: &str, pattern: &str) -> String {
        let mut path = pattern.replace("{userId}", "user").replace("{name}", "A").replace("{provider}", "e2b");
        path = path.replace("{token}", TOKEN).replace("{path*}", "data/a").replace("{path}", "data/a");
        for (of, id) in [("sessions", self.session.as_str()), ("agents", self.agent.as_str())] {
            path = path.replace(&format!("/{of}/{{id}}"), &format!("/{of}/{id}"));
        }
        path = path.replace("{id}", "key_00000000000000000000000000");
        assert!(!path.contains('{'), "{name}: say here what {path} stands for");
        let query = match name {
            "sessions-list" => "?status=terminated&userId=nobody",
            "agents-list" | "agents-list-of-session" => "?status=failed&compute=node",
            "audit-list" => "?secret=NOBODYS",
            "secrets-list" => "?details=true&inherited=true",
            "platform-secrets-list" => "?details=true",
            "metrics-series" => "?metric=exec.duration",
            _ => "",
        };
        path + query
    }
}

/// A call to be made with forged credentials.
struct Attempt {
    route: &'static RouteInfo,
    path: String,
    body: Option<Value>,
    /// One that names the platform, one of the same kind that names none there is, and how many rows are looked up to know
    /// whether it is good.
    forged: Vec<(IssuedKey, IssuedKey, usize)>,
}

impl Victim {
    /// One on every route that takes a credential.
    fn attempts(&self, mode: Mode) -> Vec<Attempt> {
        let (id, nowhere) = (&self.platform.id, PlatformId::make());
        let session = SessionId::parse(&self.session).unwrap();
        let agent = AgentId::parse(&self.agent).unwrap();
        let keys = || (make_api_key(id, mode), make_api_key(&nowhere, mode));
        let tokens = |platform: &PlatformId| make_session_token(platform, mode, &session);
        let of_agents = |platform: &PlatformId| make_agent_token(platform, mode, &session, &agent);
        let told = json!({ "agentId": self.agent, "sessionId": self.session, "message": "m" });
        let any = json!({ "name": "n", "environment": "test", "language": "bash", "code": ":", "path": "/data/a", "data": "" });
        let routes = ROUTES.iter().map(|route| &route.info);
        let routes = routes.filter(|route| !route.callers.contains(&Caller::Anyone));
        let attempts = routes.map(|route| {
            let is_report = route.has_credential_in_path();
            let body = match route.name {
                name if name.ends_with("secrets-set") => json!({ "D": "4" }),
                "providers-set" => json!({ "credentialRef": "C" }),
                "agents-ports-open" => json!({ "port": 3000 }),
                _ if is_report => told.clone(),
                _ => any.clone(),
            };
            let forged = if is_report {
                // An agent's token is good while its session and its agent are.
                vec![(of_agents(id), of_agents(&nowhere), 4)]
            } else {
                // Whether its platform is suspended is looked up with every credential, a session with its token.
                let (of_victim, of_nobody) = keys();
                vec![(of_victim, of_nobody, 2), (tokens(id), tokens(&nowhere), 3)]
            };
            let path = self.path(route.name, route.pattern.0);
            Attempt { route, path, body: (route.method != "GET").then_some(body), forged }
        });
        attempts.collect()
    }
}

/// Copies a partition's first row until it has [`MANY`].
async fn multiply(url: &str, partition: &str, prefix: &str) {
    let query = json!({
        "TableName": "theazo", "Limit": 1, "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": { ":pk": { "S": partition } },
    });
    let row = dynamodb(url, "Query", query).await["Items"][0].clone();
    assert!(row.is_object(), "{partition} is empty");
    let copies: Vec<Value> = (0..MANY)
        .map(|index| {
            let id = format!("{prefix}{index:026}");
            let mut copy = row.clone();
            copy["sk"] = json!({ "S": id });
            copy["id"] = json!({ "S": id });
            if copy.get("hash").is_some() {
                copy["hash"] = json!({ "S": format!("{index:064x}") });
            }
            json!({ "PutRequest": { "Item": copy } })
        })
        .collect();
    for batch in copies.chunks(25) {
        dynamodb(url, "BatchWriteItem", json!({ "RequestItems": { "theazo": batch } })).await;
    }
}

#[tokio::test]
async fn a_forged_credential_costs_one_round_of_few_reads_and_no_write_on_every_route_whatever_the_platform_has() {
    // Nobody else writes to its tables.
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let url = own.stack.dynamodb_url();
    let victim = Victim::make(&own).await;
    own.stack.deployment().log_queue().flushed().await;
    let before = scan_everything(&url).await.pages;
    let client = &victim.platform.client;
    let mut lists = Vec::new();
    for Attempt { route, path, body, forged } in victim.attempts(Mode::Test) {
        let is_report = route.has_credential_in_path();
        for (of_victim, of_nobody, lookup) in &forged {
            let call = async |token: &IssuedKey| {
                let path = path.replace(TOKEN, &token.text);
                let key = (!is_report).then_some(token.text.as_str());
                let client = client.with_key(key);
                let client = if route.repeats == Repeats::Once { client.once("once") } else { client };
                client.call(route.method, &path, body.as_ref()).await
            };
            let answer = call(of_victim).await;
            let (sequential, calls) = trips(&answer);
            assert_eq!(answer.status, 401, "{}: {answer:?}", route.name);
            assert_eq!(sequential, 1, "{}", route.name);
            assert!(calls <= lookup + MAX_UNPROVEN_CALLS, "{}: {calls} calls", route.name);
            // Neither cost nor answer tells whether the platform exists.
            let absent = call(of_nobody).await;
            assert_eq!(trips(&absent), (sequential, calls), "{}", route.name);
            assert_eq!(absent.without_request_id(), answer.without_request_id());
        }
        if route.method == "GET" && route.streams {
            // Where browsers put it.
            let token = forged[0].0.text.as_str();
            let answer = client.with_key(None).get(&format!("{path}?token={token}")).await;
            assert_eq!(answer.status, 401, "{}: {answer:?}", route.name);
            assert!(trips(&answer).1 <= forged[0].2 + MAX_UNPROVEN_CALLS, "{}", route.name);
        } else if route.method == "GET" {
            lists.push((route.name, path));
        }
    }
    own.stack.deployment().log_queue().flushed().await;
    assert!(scan_everything(&url).await.pages == before, "a forged credential had something written");
    let mut cut = Vec::new();
    for (name, path) in lists {
        let good = client.with_key(Some(&victim.platform.test_key)).get(&path).await;
        let key = make_api_key(&victim.platform.id, Mode::Test);
        let forged = client.with_key(Some(&key.text)).get(&path).await;
        if trips(&good).1 > trips(&forged).1 {
            cut.push(name);
        }
    }
    for list in ["sessions-list", "agents-list", "agents-list-of-session"] {
        assert!(cut.contains(&list), "{list} has nothing that a forged credential is kept from: {cut:?}");
    }
    assert!(scan_everything(&url).await.pages != before, "a good credential has something written");
    own.stop().await;
}

#[tokio::test]
async fn each_partition_of_a_platforms_is_read_at_most_once_for_a_forged_key_and_never_far() {
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let victim = Victim::make(&own).await;
    let (mut furthest, mut blind) = (BTreeMap::new(), BTreeSet::new());
    let modes = [Mode::Test, Mode::Live].into_iter();
    for (mode, attempt) in modes.flat_map(|mode| victim.attempts(mode).into_iter().map(move |attempt| (mode, attempt)))
    {
        let Attempt { route, path, body, forged } = attempt;
        for (token, ..) in &forged {
            let path = path.replace(TOKEN, &token.text);
            let key = (!route.has_credential_in_path()).then_some(token.text.as_str());
            let mut asked: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for Read { partition, rows } in reads(&own, route.name, &path, key, body.as_ref()).await {
                if partition.starts_with(victim.platform.id.as_str()) {
                    asked.entry(partition).or_default().push(rows);
                }
            }
            let standing = format!("{}#standing", victim.platform.id);
            assert_eq!(asked.remove(&standing), Some(vec![1]), "{}: whether it is suspended", route.name);
            // A token is good while its session, and its agent, are: of those the one row is looked up with it.
            let is_key = token.text.starts_with(&format!("th_{}_", mode.as_str()));
            let (id, mode) = (&victim.platform.id, mode.as_str());
            let looked_up = [format!("{id}#{mode}#sessions"), format!("{id}#{mode}#{}#agents", victim.session)];
            if is_key && asked.is_empty() {
                blind.insert(route.name);
            }
            for (partition, reads) in asked {
                let once_more = !is_key && looked_up.contains(&partition) && reads == [1, 1];
                assert!(reads.len() == 1 || once_more, "{}: {partition} {reads:?}", route.name);
                let most = furthest.entry(route.name).or_default();
                *most = reads.into_iter().max().unwrap_or(0).max(*most);
            }
        }
    }
    assert!(furthest.values().all(|rows| *rows <= MAX_UNPROVEN_ROWS), "{furthest:?}");
    assert_eq!(furthest["agents-list"], MAX_UNPROVEN_ROWS, "it sees how far a list goes");
    // What only changes something, or follows it, reads when there is proof.
    let expected = [
        "api-keys-create",
        "api-keys-delete",
        "api-keys-rotate",
        "logs-stream",
        "providers-set",
        "sessions-create",
        "sessions-pause",
        "sessions-resume",
        "sessions-terminate",
        "sessions-tokens-delete",
        "whoami",
    ];
    assert_eq!(blind, BTreeSet::from(expected), "which do not read ahead");
    own.stop().await;
}

/// What one call asks the table for. The update by which a credential is counted is one of the credential's own partition.
async fn reads(own: &OwnStack, name: &str, path: &str, key: Option<&str>, body: Option<&Value>) -> Vec<Read> {
    let route: &'static Route = ROUTES.iter().find(|route| route.info.name == name).unwrap();
    let tap = Tap::tcp(own.stack.dynamodb_url().trim_start_matches("http://").parse().unwrap()).await;
    let aws = Aws::local(&AwsEndpoints { dynamodb: tap.url(), kms: Some(own.stack.kms_url()) });
    let deployment = Deployment::new(&aws, own.stack.deployment().config().clone());
    let once = (route.info.repeats == Repeats::Once).then_some("once");
    let incoming = incoming_once(route.info.method, path, key, once, body.unwrap_or(&Value::Null));
    let (response, _) = serve(&deployment, &[route], incoming).await;
    assert_eq!(response.status(), 401, "{path}");
    deployment.log_queue().flushed().await;
    let requests: Vec<_> = tap.wires().iter().flat_map(|wire| requests(&wire.sent)).collect();
    requests.into_iter().flat_map(|(operation, body)| Read::of(&operation, &body)).collect()
}

/// A read of a partition, and through how many rows it may go.
struct Read {
    partition: String,
    rows: u64,
}

impl Read {
    fn of(operation: &str, body: &Value) -> Vec<Self> {
        let text = |value: &Value| value["S"].as_str().unwrap().to_owned();
        match operation.strip_prefix("DynamoDB_20120810.").unwrap() {
            "GetItem" | "UpdateItem" => vec![Self { partition: text(&body["Key"]["pk"]), rows: 1 }],
            "Query" => {
                let partition = text(&body["ExpressionAttributeValues"][":pk"]);
                vec![Self { partition, rows: body["Limit"].as_u64().unwrap_or(u64::MAX) }]
            }
            "BatchGetItem" => {
                let keys = body["RequestItems"]["theazo"]["Keys"].as_array().unwrap();
                let mut rows = BTreeMap::new();
                keys.iter().for_each(|key| *rows.entry(text(&key["pk"])).or_default() += 1);
                rows.into_iter().map(|(partition, rows)| Self { partition, rows }).collect()
            }
            other => panic!("{other} for a caller without proof: {body}"),
        }
    }
}
