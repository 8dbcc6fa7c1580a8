//! What one platform, session, agent or mode can learn of another: nothing.

use crate::harness::{Answer, Canary, Client, Platform, container_name, docker, sha256};
use serde_json::{Value, json};
use std::time::Duration;
use theazo_functions::routes::{ROUTES, Route};
use theazo_http::Caller;
use theazo_tenancy::{AgentId, Mode, PlatformId, SessionId, make_api_key};

/// A platform with a session, a secret and, if wanted, an agent.
struct Tenant {
    platform: Platform,
    session: String,
    agent: Option<String>,
}

impl Tenant {
    async fn make(name: &str, with_agent: bool) -> Self {
        let platform = Platform::make(name).await;
        let client = &platform.client;
        let session = client.session("same user").await;
        client.set_secrets(&session, json!({ "OWN": format!("value of {name}") })).await;
        client.post("/v1/secrets", json!({ "SHARED": format!("shared of {name}") })).await.expect(204);
        let agent = if with_agent { Some(client.boot(&session, json!({})).await) } else { None };
        Self { platform, session, agent }
    }

    fn client(&self) -> &Client {
        &self.platform.client
    }

    /// All that this tenant can see of itself, to find out whether somebody else changed anything.
    async fn state(&self) -> Vec<String> {
        let mut seen = Vec::new();
        for path in ["", "/limits", "/secrets?details=true&inherited=true", "/agents"] {
            let answer = self.client().get(&format!("/v1/sessions/{}{path}", self.session)).await;
            seen.push(answer.clone().expect(200).to_string());
        }
        if let Some(agent) = &self.agent {
            seen.push(self.client().get(&format!("/v1/agents/{agent}")).await.expect(200).to_string());
            seen.push(self.client().get(&format!("/v1/agents/{agent}/files")).await.expect(200).to_string());
        }
        seen
    }
}

/// A route's path with that session's or agent's id, and with names of things that the owner does have.
fn path(route: &Route, session: &str, agent: &str) -> String {
    let pattern = route.info.pattern.0;
    let id = if pattern.starts_with("/v1/agents/") { agent } else { session };
    let path = pattern.replace("{id}", id).replace("{name}", "OWN").replace("{path*}", "data/kept");
    path.replace("{userId}", "same%20user").replace("{provider}", "e2b")
}

/// A body that the owner's call would succeed with.
fn good_body(route: &Route) -> Option<Value> {
    match route.info.name {
        "sessions-limits-set" => Some(json!({ "maxAgents": 1 })),
        "secrets-set" => Some(json!({ "OWN": "overwritten" })),
        "agents-exec" => Some(json!({ "language": "bash", "code": "touch /data/was-here" })),
        "agents-files-write" => Some(json!({ "path": "/data/was-here", "data": "x" })),
        _ if route.info.method == "GET" || route.info.method == "DELETE" => None,
        _ => Some(json!({})),
    }
}

#[tokio::test]
async fn a_foreign_id_and_an_absent_one_give_the_same_answer_on_every_route() {
    let (owner, stranger) = tokio::join!(Tenant::make("owner", true), Tenant::make("stranger", false));
    let agent = owner.agent.as_deref().unwrap();
    owner.client().run(agent, "bash", "echo kept > /data/kept").await;
    let before = owner.state().await;
    let (absent_session, absent_agent) = (SessionId::make().to_string(), AgentId::make().to_string());
    let mut tried = 0;
    for route in ROUTES.iter().filter(|route| route.info.pattern.0.contains("{id}")) {
        let (method, name) = (route.info.method, route.info.name);
        for client in [stranger.client().clone(), owner.client().with_key(Some(&owner.platform.test_key))] {
            let body = good_body(route);
            let foreign = client.call(method, &path(route, &owner.session, agent), body.as_ref()).await;
            let absent = client.call(method, &path(route, &absent_session, &absent_agent), body.as_ref()).await;
            let odd = client.call(method, &path(route, "no-id", "no-id"), body.as_ref()).await;
            assert_eq!(foreign.status, 404, "{name}: {foreign:?}");
            assert_same(name, &foreign, &absent);
            // What cannot be an id is not even looked for; the local stack's count of round trips tells so, and nothing else.
            assert_eq!(
                (odd.status, odd.without_request_id()),
                (foreign.status, foreign.without_request_id()),
                "{name}"
            );
            // Also where the request itself is wrong: the answer tells nothing of the id.
            for bad in [json!([1]), json!({ "language": 5, "path": 5, "maxAgents": "x", "timeout": "x", "OWN": 5 })] {
                let foreign = client.call(method, &path(route, &owner.session, agent), Some(&bad)).await;
                let absent = client.call(method, &path(route, &absent_session, &absent_agent), Some(&bad)).await;
                assert!(foreign.status >= 400, "{name}: {foreign:?}");
                assert_same(name, &foreign, &absent);
            }
            tried += 1;
        }
    }
    assert!(tried >= 30, "only {tried} routes with an id were tried");
    assert_eq!(owner.state().await, before);
    assert_eq!(owner.client().run(agent, "bash", "cat kept; ls").await, "kept\nkept\n");
    // Each id does open for its owner, or all of this would say nothing.
    owner.client().get(&format!("/v1/agents/{agent}/status")).await.expect(200);
    for list in ["/v1/sessions", "/v1/agents"] {
        let listed = stranger.client().get(list).await.expect(200).to_string();
        assert!(!listed.contains(&owner.session) && !listed.contains(agent), "{listed}");
    }
    // One platform's names and cursors say nothing to another.
    owner.client().post("/v1/sessions", json!({})).await.expect(201);
    let page = owner.client().get("/v1/sessions?limit=1").await.expect(200);
    let next = format!("/v1/sessions?limit=1&cursor={}", page["cursor"].as_str().unwrap());
    owner.client().get(&next).await.expect(200);
    stranger.client().get(&next).await.expect_error(400, "invalid_request");
    owner.client().with_key(Some(&owner.platform.test_key)).get(&next).await.expect_error(400, "invalid_request");
    tokio::join!(owner.client().terminate(&owner.session), stranger.client().terminate(&stranger.session));
}

#[track_caller]
fn assert_same(route: &str, one: &Answer, other: &Answer) {
    assert_eq!((one.status, one.without_request_id()), (other.status, other.without_request_id()), "{route}");
    let headers = |answer: &Answer| {
        let own = ["x-request-id", "date"];
        answer.headers.clone().into_iter().filter(|(name, _)| !own.contains(&name.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(headers(one), headers(other), "{route}");
}

/// Makes a call with that `Authorization` header, or none.
async fn call_with(base: &str, method: &str, path: &str, authorization: Option<&str>, body: &str) -> Answer {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = reqwest::Client::new().request(method, format!("{base}{path}")).body(body.to_owned());
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let headers = answer.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    Answer { status, headers, text: answer.text().await.unwrap() }
}

#[tokio::test]
async fn every_bad_credential_gets_one_answer_on_every_route_before_anything_else_is_said() {
    let (tenant, other) = tokio::join!(Tenant::make("credentials", false), Platform::make("other credentials"));
    let base = tenant.client().base();
    let good = tenant.platform.live_key.as_str();
    let mut wrong_checksum = good.to_owned();
    let last = wrong_checksum.pop().unwrap();
    wrong_checksum.push(if last == '0' { '1' } else { '0' });
    let swapped = good.replace("th_live_", "th_test_");
    let unknown = [
        make_api_key(&tenant.platform.id, Mode::Live).text,
        make_api_key(&tenant.platform.id, Mode::Test).text,
        make_api_key(&other.id, Mode::Live).text,
        make_api_key(&PlatformId::make(), Mode::Live).text,
    ];
    let mut bad: Vec<Option<String>> = vec![
        None,
        Some(String::new()),
        Some("Bearer".into()),
        Some("Bearer ".into()),
        Some("Bearer x".into()),
        Some("Bearer th_live_".into()),
        Some(good.into()),
        Some(format!("Basic {good}")),
        Some(format!("Token {good}")),
        Some(format!("Bearer {wrong_checksum}")),
        Some(format!("Bearer {swapped}")),
        Some(format!("Bearer {good}x")),
        Some(format!("Bearer {good}, Bearer {good}")),
        Some(format!("Bearer {}", good.to_uppercase())),
        Some(format!("Bearer {}", sha256(good))),
    ];
    bad.extend(unknown.iter().map(|key| Some(format!("Bearer {}", key.as_str()))));

    let mut one_answer: Option<String> = None;
    let absent = (SessionId::make().to_string(), AgentId::make().to_string());
    for route in ROUTES {
        let (method, name) = (route.info.method, route.info.name);
        let own = path(route, &tenant.session, &absent.1);
        if route.info.callers.contains(&Caller::Anyone) {
            assert_eq!(call_with(base, method, &own, None, "").await.status, 200, "{name}");
            continue;
        }
        for (index, credential) in bad.iter().enumerate() {
            // Every credential meets the owner's good request; the requests that are wrong themselves take turns.
            let good_body = good_body(route).map(|body| body.to_string()).unwrap_or_default();
            let odd = match index % 3 {
                0 => (path(route, &absent.0, &absent.1), "{".to_owned()),
                1 => {
                    (path(route, "no-id", "no-id") + "?limit=x&cursor=x&status=x&offset=x&details=x", "[1]".to_owned())
                }
                _ => (own.clone() + "?limit=%ff", "{\"language\": 5, \"timeout\": [], \"A\": null}".to_owned()),
            };
            for (path, body) in [(own.clone(), good_body), odd] {
                let answer = call_with(base, method, &path, credential.as_deref(), &body).await;
                assert_eq!(answer.status, 401, "{name} {path}, bad credential {index}: {answer:?}");
                let told = answer.without_request_id();
                assert_eq!(&told, one_answer.get_or_insert_with(|| told.clone()), "{name} {path} {index}");
            }
        }
        let known = call_with(base, "GET", "/v1/whoami", Some(&format!("bearer {good}")), "").await;
        assert_eq!(known.status, 200, "the good key must stay good");
    }
    let error: Value = serde_json::from_str(&one_answer.unwrap()).unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["details"]), (&json!("unauthorized"), &json!({})));
    assert_eq!(tenant.client().get(&format!("/v1/sessions/{}", tenant.session)).await.expect(200)["status"], "active");
    tenant.client().terminate(&tenant.session).await;
}

#[tokio::test]
async fn live_and_test_keys_of_one_platform_do_not_see_each_others_data() {
    let tenant = Tenant::make("modes", true).await;
    let live = tenant.client();
    let test = live.with_key(Some(&tenant.platform.test_key));
    assert_eq!(test.get("/v1/whoami").await.expect(200)["environment"], "test");
    for list in ["/v1/sessions", "/v1/agents"] {
        assert_eq!(test.get(list).await.expect(200)["data"], json!([]), "{list}");
        assert_ne!(live.get(list).await.expect(200)["data"], json!([]), "{list}");
    }
    assert_eq!(test.get("/v1/secrets").await.expect(200), json!([]));

    let session = test.session("same user").await;
    assert_ne!(session, tenant.session);
    test.set_secrets(&session, json!({ "TEST_ONLY": "x" })).await;
    test.post("/v1/secrets", json!({ "TEST_SHARED": "x" })).await.expect(204);
    let names = |answer: Answer| answer.expect(200);
    assert_eq!(
        names(test.get(&format!("/v1/sessions/{session}/secrets?inherited=true")).await),
        json!(["TEST_ONLY", "TEST_SHARED"])
    );
    let own = format!("/v1/sessions/{}/secrets?inherited=true", tenant.session);
    assert_eq!(names(live.get(&own).await), json!(["OWN", "SHARED"]));
    live.get(&format!("/v1/sessions/{session}")).await.expect_error(404, "not_found");
    live.get(&format!("/v1/sessions/{session}/secrets")).await.expect_error(404, "not_found");
    live.delete("/v1/secrets/TEST_SHARED").await.expect_error(404, "not_found");
    test.delete("/v1/secrets/SHARED").await.expect_error(404, "not_found");
    let listed = live.get("/v1/sessions").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);

    test.terminate(&session).await;
    assert_eq!(live.get(&format!("/v1/sessions/{}", tenant.session)).await.expect(200)["status"], "active");
    live.terminate(&tenant.session).await;
}

/// Takes one connection on a port of the agent and tells what came over it.
const LISTEN: &str = "
import socket
s = socket.create_server(('0.0.0.0', 8123))
s.settimeout(100)
open('/data/listening', 'w').close()
c, _ = s.accept()
print(c.recv(99).decode(), end='')
";
const CONNECT: &str = "
import socket, sys
for address in sys.stdin.read().split():
    try:
        socket.create_connection((address, 8123), timeout=4).sendall(b'hello')
        print('connected', end='')
    except OSError:
        print('failed', end=' ')
";

#[tokio::test]
async fn agents_of_two_sessions_share_neither_files_nor_environment_nor_network() {
    let client = Platform::make("two sessions").await.client;
    let (one, two) = (client.session("one").await, client.session("two").await);
    let secrets = [Canary::make(), Canary::make()];
    client.set_secrets(&one, json!({ "OF_ONE": secrets[0].value() })).await;
    client.set_secrets(&two, json!({ "OF_TWO": secrets[1].value() })).await;
    let (listener, caller) = tokio::join!(client.boot(&one, json!({})), client.boot(&two, json!({})));

    let (seen_by_one, seen_by_two) = (client.environment(&listener).await, client.environment(&caller).await);
    assert_eq!(
        (&seen_by_one["OF_ONE"].1, &seen_by_two["OF_TWO"].1),
        (&sha256(secrets[0].value()), &sha256(secrets[1].value()))
    );
    assert!(!seen_by_one.contains_key("OF_TWO") && !seen_by_two.contains_key("OF_ONE"));

    client
        .run(&listener, "bash", "echo one > /data/file; echo one > /tmp/file; echo one > /dev/shm/file || true")
        .await;
    assert_eq!(
        client.run(&caller, "bash", "cat /data/file /tmp/file /dev/shm/file 2>/dev/null | wc -c").await.trim(),
        "0"
    );
    client.get(&format!("/v1/agents/{caller}/files/data/file")).await.expect_error(404, "not_found");
    client.get(&format!("/v1/agents/{listener}/files/data/file")).await.expect(200);
    // Nor are the other's processes seen.
    assert_eq!(
        client.run(&caller, "bash", "cat /proc/[0-9]*/environ 2>/dev/null | grep -c OF_ONE || true").await.trim(),
        "0"
    );

    let docker = docker().await;
    let inspected = docker.inspect_container(&container_name(&listener), None).await.unwrap();
    let networks = inspected.network_settings.unwrap().networks.unwrap();
    let addresses: Vec<String> = networks.values().filter_map(|network| network.ip_address.clone()).collect();
    assert_eq!(addresses.len(), 1, "an agent has one network");
    let body = json!({ "language": "python", "code": LISTEN });
    let path = format!("/v1/agents/{listener}/exec");
    let listening = client.post(&path, body);
    let connecting = async {
        wait_for_file(&client, &listener, "data/listening").await;
        // Its address, and its names, which an engine's own resolver might know.
        let name = container_name(&listener);
        let targets = format!("{} {name} agent.{name}", addresses[0]);
        let foreign = connect(&client, &caller, &targets).await;
        let own = connect(&client, &listener, &addresses[0]).await;
        (foreign, own)
    };
    let (listened, (foreign, own)) = tokio::join!(listening, connecting);
    assert_eq!(foreign, "failed failed failed ");
    // The listener was there to be reached.
    assert_eq!((own.as_str(), &listened.expect(200)["stdout"]), ("connected", &json!("hello")));
    client.terminate(&one).await;
    client.terminate(&two).await;
}

async fn connect(client: &Client, agent: &str, targets: &str) -> String {
    let body = json!({ "language": "python", "code": CONNECT, "stdin": targets });
    let ran = client.post(&format!("/v1/agents/{agent}/exec"), body).await.expect(200);
    ran["stdout"].as_str().unwrap().to_owned()
}

async fn wait_for_file(client: &Client, agent: &str, path: &str) {
    for _ in 0..300 {
        if client.get(&format!("/v1/agents/{agent}/files/{path}")).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{path} never came");
}

#[tokio::test]
async fn the_delivered_environment_cannot_be_read_through_the_file_routes() {
    let client = Platform::make("environment files").await.client;
    let session = client.session("u").await;
    let secret = Canary::make();
    client.set_secrets(&session, json!({ "TOKEN": secret.value() })).await;
    let agent = client.boot(&session, json!({})).await;
    // It is there, for the agent's own programs; a path that leads nowhere would prove nothing.
    let there = "import hashlib, os\n\
        for path in ['/run/agent/env', '/data/file', '/data/dir/env', '/data/relative', '/data/self', '/data/own']:\n\
        \x20   assert os.environ['TOKEN'].encode() in open(path, 'rb').read(), path";
    client
        .run(
            &agent,
            "bash",
            "ln -s /run/agent/env file; ln -s /run/agent dir; ln -s ../run/agent/env relative; \
             ln -s /proc/self/environ self; ln -s ../proc/self/environ own; ln -s /proc/self/fd fds; ln -s / root",
        )
        .await;
    client.run(&agent, "python", there).await;
    let files = format!("/v1/agents/{agent}/files");
    for path in [
        "run/agent/env",
        "%2Frun%2Fagent%2Fenv",
        "proc/self/environ",
        "proc/1/environ",
        "data/..%2Frun%2Fagent%2Fenv",
        "tmp%2F..%2Frun%2Fagent%2Fenv",
        "data/file",
        "data/dir/env",
        "data/relative",
        "data/self",
        "data/own",
        "data/fds/0",
        "data/root/run/agent/env",
    ] {
        for query in ["", "?encoding=base64", "?offset=1&length=64"] {
            let answer = client.get(&format!("{files}/{path}{query}")).await;
            secret.is_not_in(path, &answer.text);
            assert_eq!(answer.expect_error(400, "invalid_request")["details"]["field"], "path", "{path}");
        }
        let body = json!({ "path": path.replace("%2F", "/"), "data": "TOKEN=changed\0", "append": true });
        let written = client.post(&files, body).await.expect_error(400, "invalid_request");
        assert_eq!(written["details"]["field"], "path", "{path}");
    }
    for dir in ["/run/agent", "/run", "/proc/self", "/data/dir", "/data/fds", "/data/root"] {
        let answer = client.get(&format!("{files}?dir={dir}")).await;
        assert_eq!(answer.expect_error(400, "invalid_request")["details"]["field"], "dir", "{dir}");
    }
    assert_eq!(client.environment(&agent).await["TOKEN"].1, sha256(secret.value()));
    client.terminate(&session).await;
}
