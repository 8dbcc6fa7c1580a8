//! Ports of agents, asked for through the API and used by somebody who has nothing but the answer.

use crate::e2b::{configure, on_e2b};
use crate::fly::{on_fly, with_fly};
use crate::harness::{Client, E2B_KEY, Platform, docker, fly_emulator};
use bollard::query_parameters::ListContainersOptionsBuilder;
use serde_json::{Value, json};
use std::collections::HashMap;

/// A server of one file, in the background; tells which port it was given.
const SERVE: &str = "import http.server, os, subprocess, sys, time
code = '''import http.server, os
os.makedirs(\"/tmp/site\", exist_ok=True); os.chdir(\"/tmp/site\"); open(\"page\", \"w\").write(\"served\")
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers[\"Content-Length\"]))
        self.send_response(200); self.end_headers(); self.wfile.write(body[::-1] + str(self.headers).encode())
server = http.server.ThreadingHTTPServer((\"0.0.0.0\", 0), Handler)
open(\"/data/port.new\", \"w\").write(str(server.server_port)); os.rename(\"/data/port.new\", \"/data/port\")
server.serve_forever()'''
if os.path.exists('/data/port'): os.remove('/data/port')
subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
for _ in range(200):
    if os.path.exists('/data/port'): break
    time.sleep(0.05)
print(open('/data/port').read())";

async fn serve(client: &Client, agent: &str) -> u16 {
    client.run(agent, "python", SERVE).await.trim().parse().unwrap()
}

async fn open(client: &Client, agent: &str, port: u16) -> Value {
    client.post(&format!("/v1/agents/{agent}/ports"), json!({ "port": port })).await.expect(200)
}

/// The header that has the token, and the token.
fn token(way: &Value) -> (String, String) {
    let headers = way["headers"].as_object().unwrap();
    let (name, token) = headers.iter().find(|(name, _)| name.contains("token")).unwrap();
    (name.clone(), token.as_str().unwrap().to_owned())
}

/// The status and body that a page is answered with; nothing where no connection is taken.
async fn ask(way: &Value, headers: &Value, body: Option<&str>) -> Option<(u16, String)> {
    let url = format!("{}page", way["url"].as_str().unwrap());
    let client = reqwest::Client::new();
    let mut request = match body {
        None => client.get(url),
        Some(body) => client.post(url).body(body.to_owned()),
    };
    for (name, value) in headers.as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    let answer = request.send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.unwrap()))
}

/// All of it, as far as it is the same at every provider that has ports.
async fn circle(client: &Client, new: Value, other: &Client) {
    let session = client.session("ports").await;
    let (one, two) = tokio::join!(client.boot(&session, new.clone()), client.boot(&session, new));
    let (port, ports) = (serve(client, &one).await, format!("/v1/agents/{one}/ports"));
    let way = open(client, &one, port).await;
    assert_eq!(open(client, &one, port).await, way, "asked again it is the same");
    assert_eq!(client.post_once(&ports, json!({ "port": port }), "once").await.expect(200), way);
    let (name, secret) = token(&way);
    assert!(secret.len() >= 32 && !way["url"].as_str().unwrap().contains(&secret));
    assert_eq!(ask(&way, &way["headers"], None).await, Some((200, "served".to_owned())));
    let (status, echoed) = ask(&way, &way["headers"], Some("abc")).await.unwrap();
    assert!(status == 200 && echoed.starts_with("cba") && !echoed.contains(&secret), "{echoed}");

    // Nothing without the token, nor with that of another agent's port.
    let foreign = open(client, &two, port).await;
    assert_ne!(token(&foreign).1, secret);
    for headers in [
        without(&way["headers"], &name),
        with(&way["headers"], &name, &token(&foreign).1),
        with(&way["headers"], &name, &secret.to_uppercase()),
    ] {
        let (status, body) = ask(&way, &headers, None).await.unwrap();
        assert!(matches!(status, 401 | 403) && !body.contains("served"), "{status} {body}");
    }
    // Nobody listens there in that one.
    assert_eq!(ask(&foreign, &foreign["headers"], None).await.unwrap().0, 502);

    for (body, field) in [
        (json!({}), "port"),
        (json!({ "port": null }), "port"),
        (json!({ "port": 0 }), "port"),
        (json!({ "port": 65_536 }), "port"),
        (json!({ "port": -1 }), "port"),
        (json!({ "port": 80.5 }), "port"),
        (json!({ "port": "80" }), "port"),
    ] {
        let told = client.post(&ports, body.clone()).await.expect_error(400, "invalid_request");
        assert_eq!(told["details"]["field"], field, "{body}");
    }
    other.post(&ports, json!({ "port": port })).await.expect_error(404, "not_found");
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let user = client.with_key(minted["token"].as_str());
    assert_eq!(open(&user, &one, port).await, way);
    let reads = json!({ "permissions": ["read"] });
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), reads).await.expect(201);
    let reader = client.with_key(minted["token"].as_str());
    reader.post(&ports, json!({ "port": port })).await.expect_error(403, "forbidden");

    // What a revoked credential has opened stays open, as the README says.
    client.delete(&format!("/v1/sessions/{session}/tokens")).await.expect(204);
    user.post(&ports, json!({ "port": port })).await.expect_error(401, "unauthorized");
    assert_eq!(ask(&way, &way["headers"], None).await, Some((200, "served".to_owned())));

    // It ends with the run, and the next run has another way.
    client.post(&format!("/v1/agents/{one}/pause"), json!({})).await.expect(200);
    let told = client.post(&ports, json!({ "port": port })).await.expect_error(409, "conflict");
    assert_eq!(told["details"]["status"], "paused");
    let dead = ask(&way, &way["headers"], None).await;
    assert!(dead.as_ref().is_none_or(|(status, _)| *status == 502), "{dead:?}");
    client.post(&format!("/v1/agents/{one}/resume"), json!({})).await.expect(200);
    let port = serve(client, &one).await;
    let next = open(client, &one, port).await;
    assert_eq!(ask(&next, &next["headers"], None).await, Some((200, "served".to_owned())));
    client.post(&format!("/v1/agents/{one}/terminate"), json!({})).await.expect(200);
    let dead = ask(&next, &next["headers"], None).await;
    assert!(dead.as_ref().is_none_or(|(status, _)| *status == 502), "{dead:?}");
    client.post(&ports, json!({ "port": port })).await.expect_error(409, "conflict");
    client.terminate(&session).await;

    let logs = client.get(&format!("/v1/logs?agentId={one}&limit=100")).await;
    assert!(!logs.text.contains(&secret) && !logs.text.contains(&token(&next).1));
    let logs = logs.expect(200);
    let said: Vec<&Value> =
        logs["data"].as_array().unwrap().iter().filter(|log| log["metadata"]["event"] == "agent.port").collect();
    assert!(said.len() >= 4 && said.iter().all(|log| log["metadata"]["port"].is_number()), "{logs}");
}

fn without(headers: &Value, name: &str) -> Value {
    let mut headers = headers.clone();
    headers.as_object_mut().unwrap().remove(name);
    headers
}

fn with(headers: &Value, name: &str, value: &str) -> Value {
    let mut headers = headers.clone();
    headers[name] = value.into();
    headers
}

#[tokio::test]
async fn a_port_of_an_agent_on_the_engine_is_reached_with_its_token_alone_and_nothing_is_left_of_it() {
    let (platform, other) = tokio::join!(Platform::make("ports docker"), Platform::make("ports docker other"));
    circle(&platform.client, json!({}), &other.client).await;
    let filters = HashMap::from([("label".to_owned(), vec![format!("theazo.platform={}", platform.id)])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    assert_eq!(docker().await.list_containers(Some(options)).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_port_of_an_agent_on_e2b_is_reached_with_its_token_alone() {
    let (platform, other) = tokio::join!(Platform::make("ports e2b"), Platform::make("ports e2b other"));
    configure(&platform.client, E2B_KEY).await;
    circle(&platform.client, on_e2b(), &other.client).await;
}

#[tokio::test]
async fn a_port_of_an_agent_on_fly_is_reached_with_its_token_alone() {
    let (platform, other) = tokio::join!(with_fly("ports fly"), Platform::make("ports fly other"));
    circle(&platform.client, on_fly(), &other.client).await;
    // No call to Fly was another than Fly describes, for what ports need as well.
    assert_eq!(fly_emulator().controls.violations(), [""; 0]);
}

#[tokio::test]
async fn a_port_of_the_machines_own_is_refused_on_fly() {
    let platform = with_fly("ports fly own").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_fly()).await;
    for own in [7443, 80] {
        let refused = client.post(&format!("/v1/agents/{agent}/ports"), json!({ "port": own })).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], "port");
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn an_agent_that_has_as_many_open_ports_as_it_may_have_is_refused_another() {
    let platform = Platform::make("ports limit").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    for port in 3000..3008 {
        open(client, &agent, port).await;
    }
    let refused = client.post(&format!("/v1/agents/{agent}/ports"), json!({ "port": 3008 })).await;
    let told = refused.expect_error(409, "conflict");
    assert_eq!(told["details"], json!({ "limit": "ports", "max": 8 }));
    open(client, &agent, 3007).await;
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_test_agents_port_is_told_in_the_same_shape_and_leads_nowhere() {
    let platform = Platform::make("ports test").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let way = open(&client, &agent, 3000).await;
    assert_eq!(way, open(&client, &agent, 3000).await);
    let url = format!("https://3000-{}.ports.simulated.invalid/", agent.replace('_', "-"));
    assert_eq!((way["url"].as_str().unwrap(), token(&way).0.as_str()), (url.as_str(), "theazo-port-token"));
    assert_ne!(token(&way), token(&open(&client, &agent, 3001).await));
    client.terminate(&session).await;
    client.post(&format!("/v1/agents/{agent}/ports"), json!({ "port": 3000 })).await.expect_error(409, "conflict");
}
