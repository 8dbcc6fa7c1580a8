//! Forged credentials with a right checksum: what they cost the platform that they name, on every route.

use crate::harness::{Answer, OwnStack, Platform, dynamodb, scan_everything};
use serde_json::{Value, json};
use std::time::Duration;
use theazo_functions::routes::ROUTES;
use theazo_http::{Caller, Repeats};
use theazo_store::MAX_UNPROVEN_CALLS;
use theazo_tenancy::{
    AgentId, IssuedKey, Mode, PlatformId, SessionId, make_agent_token, make_api_key, make_session_token,
};

/// More rows than one query of a filtered list goes through.
const MANY: usize = 600;
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
            _ => "",
        };
        path + query
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
    let (own, _) = OwnStack::start_with(None, |config| config.reconcile_every = Duration::from_secs(3_600)).await;
    let url = own.stack.dynamodb_url();
    let victim = Victim::make(&own).await;
    own.stack.deployment().log_queue().flushed().await;
    let before = scan_everything(&url).await.pages;
    let (client, id) = (&victim.platform.client, &victim.platform.id);
    let nowhere = PlatformId::make();
    let session = SessionId::parse(&victim.session).unwrap();
    let forged = [
        // Whether its platform is suspended is looked up with every credential.
        (make_api_key(id, Mode::Test), make_api_key(&nowhere, Mode::Test), 2),
        // A token's own validity depends on its session's row as well.
        (make_session_token(id, Mode::Test, &session), make_session_token(&nowhere, Mode::Test, &session), 3),
    ];
    let agent = AgentId::parse(&victim.agent).unwrap();
    let agents = |platform: &PlatformId| make_agent_token(platform, Mode::Test, &session, &agent);
    // And an agent's on the agent's.
    let in_path = [(agents(id), agents(&nowhere), 4)];
    let body_of_report = json!({ "agentId": victim.agent, "sessionId": victim.session, "message": "m" });
    let body =
        json!({ "name": "n", "environment": "test", "language": "bash", "code": ":", "path": "/data/a", "data": "" });
    let mut lists = Vec::new();
    let routes = ROUTES.iter().map(|route| &route.info);
    for route in routes.filter(|route| !route.callers.contains(&Caller::Anyone)) {
        let is_report = route.has_credential_in_path();
        let forged: &[(IssuedKey, IssuedKey, usize)] = if is_report { &in_path } else { &forged };
        let path = victim.path(route.name, route.pattern.0);
        let body = match route.name {
            name if name.ends_with("secrets-set") => json!({ "D": "4" }),
            "providers-set" => json!({ "credentialRef": "C" }),
            _ if is_report => body_of_report.clone(),
            _ => body.clone(),
        };
        let body = (route.method != "GET").then_some(&body);
        for (of_victim, of_nobody, lookup) in forged {
            let call = async |token: &IssuedKey| {
                let path = path.replace(TOKEN, &token.text);
                let key = (!is_report).then_some(token.text.as_str());
                let client = client.with_key(key);
                let client = if route.repeats == Repeats::Once { client.once("once") } else { client };
                client.call(route.method, &path, body).await
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
        let forged = client.with_key(Some(&forged[0].0.text)).get(&path).await;
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
