//! What goes over the wire to the table, the key service and the Docker engine: a secret's value is on none of them,
//! except towards the sandbox that it is for; an API key or token is on none at all. The same while each of them fails
//! in every way (`faults`).

mod e2b;
mod faults;
mod fly;
mod intents;
mod life;

use crate::harness::{
    Canary, CapturedLog, Client, Platform, Tap, Wire, check_query, container_name, docker, docker_engine,
    incoming_once, sha256, stack,
};
use bytes::Bytes;
use memchr::memmem;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use theazo_functions::deployment::{Deployment, DeploymentConfig, DockerEngine};
use theazo_functions::routes::ROUTES;
use theazo_functions::serve;
use theazo_http::{LogFormat, StreamLimits};
use theazo_providers::docker::Endpoint;
use theazo_store::{Aws, AwsEndpoints};
use theazo_tenancy::PlatformId;
use tracing::instrument::WithSubscriber;

/// A deployment whose every connection is tapped.
struct Tapped {
    deployment: Deployment,
    table: Tap,
    kms: Tap,
    engine: Tap,
    platform: PlatformId,
    key: String,
    /// The same platform without taps.
    client: Client,
    canary: Canary,
    /// API keys and tokens that must be nowhere.
    credentials: Vec<Canary>,
    log: CapturedLog,
}

/// A call.
struct Request<'a> {
    key: &'a str,
    once: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    body: Value,
}

fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().unwrap()
}

impl Tapped {
    async fn start(name: &str) -> Self {
        let platform = Platform::make(name).await;
        let stack = stack();
        let table = Tap::tcp(address(&stack.dynamodb_url())).await;
        let kms = Tap::tcp(address(&stack.kms_url())).await;
        let Endpoint::Unix(socket) = &docker_engine().endpoint else { panic!("the engine is this machine's") };
        let ours = std::env::temp_dir().join(format!("theazo-e2e-tap-{}-{name}.sock", std::process::id()));
        let engine = Tap::unix(socket, ours.clone()).await;
        let docker = DockerEngine { endpoint: Endpoint::Unix(ours), image: docker_engine().image.clone() };
        // Streams are read to their ends here, which therefore come soon.
        let streams = StreamLimits { lifetime: Duration::from_millis(200), ..StreamLimits::default() };
        let config = DeploymentConfig { docker: Some(docker), streams, ..stack.deployment().config().clone() };
        let deployment = through(&table, &kms, config);
        let (platform, key, client) = (platform.id, platform.live_key, platform.client);
        let credentials = vec![Canary::of_credential(&key)];
        Self {
            deployment,
            table,
            kms,
            engine,
            platform,
            key,
            client,
            canary: Canary::make(),
            credentials,
            log: CapturedLog::default(),
        }
    }

    /// Forgets every key and connection, as a function does that starts anew.
    fn renew(&mut self) {
        self.deployment = through(&self.table, &self.kms, self.deployment.config().clone());
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.ask(Request { key: &self.key, once: None, method, path, body }).await
    }

    /// A call, at the finest log level, whose answer must have neither the value nor a credential.
    async fn ask(&self, request: Request<'_>) -> (u16, Value) {
        let (method, path) = (request.method.to_owned(), request.path.to_owned());
        let (status, body) = self.ask_unsearched(request).await;
        let place = format!("the answer {status} of {method} {path}");
        self.is_not_in(&place, &body);
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn ask_unsearched(&self, request: Request<'_>) -> (u16, Bytes) {
        let Request { key, once, method, path, body } = request;
        let incoming = incoming_once(method, path, Some(key), once, &body);
        let subscriber = self.log.subscriber(LogFormat::Json, "trace");
        let (response, _) = serve(&self.deployment, ROUTES, incoming).with_subscriber(subscriber).await;
        let (status, body) = (response.status().as_u16(), response.into_body().collect().await);
        check_query(method, path, status, &String::from_utf8_lossy(&body));
        (status, body)
    }

    /// A call that makes a credential and shows it in that field. From then on the credential must be nowhere.
    async fn make_credential(&mut self, path: &str, body: Value, field: &str) -> String {
        let request = Request { key: &self.key, once: None, method: "POST", path, body };
        let (status, body) = self.ask_unsearched(request).await;
        assert_eq!(status, 201, "{path}");
        let text = serde_json::from_slice::<Value>(&body).unwrap()[field].as_str().unwrap().to_owned();
        self.credentials.push(Canary::of_credential(&text));
        text
    }

    fn is_not_in(&self, place: &str, bytes: &[u8]) {
        self.canary.is_not_in(place, bytes);
        self.credentials.iter().for_each(|credential| credential.is_not_in(place, bytes));
    }

    /// Fails if the value or a credential is where it must not be; gives the execs on whose connections the value was
    /// sent. `printed` says whether an agent may have printed it to the engine.
    fn search(&self, printed: bool) -> Vec<String> {
        for (service, tap) in [("the table", &self.table), ("the key service", &self.kms)] {
            for wire in tap.wires() {
                self.is_not_in(&format!("what was sent to {service}"), &wire.sent);
                self.is_not_in(&format!("what {service} sent"), &wire.received);
            }
        }
        self.is_not_in("the log", &self.log.bytes());
        self.engine.wires().iter().filter_map(|wire| self.search_engine(wire, printed)).collect()
    }

    /// Fails if a platform's credential for its provider, which is sent past all of these, is on one of them.
    fn search_for(&self, credential: &Canary) {
        for (service, tap) in [("the table", &self.table), ("the key service", &self.kms), ("Docker", &self.engine)] {
            for wire in tap.wires() {
                credential.is_not_in(&format!("what was sent to {service}"), &wire.sent);
                credential.is_not_in(&format!("what {service} sent"), &wire.received);
            }
        }
        credential.is_not_in("the log", self.log.bytes());
    }

    fn search_engine(&self, wire: &Wire, printed: bool) -> Option<String> {
        // A connection that carries a stream carries nothing after it: what was sent before the stream is requests.
        let (requests, stream, exec) = split_stream(&wire.sent);
        self.is_not_in("what was asked of the engine", requests);
        if !printed {
            self.is_not_in("what the engine sent", &wire.received);
        }
        for credential in &self.credentials {
            credential.is_not_in("what was sent to a sandbox", stream);
            credential.is_not_in("what the engine sent", &wire.received);
        }
        self.canary.find_in(stream).map(|_| exec.expect("only a stream can carry it"))
    }
}

fn through(table: &Tap, kms: &Tap, config: DeploymentConfig) -> Deployment {
    let aws = Aws::local(&AwsEndpoints { dynamodb: table.url(), kms: Some(kms.url()) });
    Deployment::new(&aws, config)
}

/// Requests, the stream that follows the last one, and the exec it belongs to.
fn split_stream(sent: &[u8]) -> (&[u8], &[u8], Option<String>) {
    let Some(start) = memmem::rfind(sent, b"/start HTTP/1.1") else { return (sent, &[], None) };
    let id = sent[..start].rsplit(|byte| *byte == b'/').next().unwrap();
    let head = memmem::find(&sent[start..], b"\r\n\r\n").map_or(sent.len(), |end| start + end + 4);
    let length = String::from_utf8_lossy(&sent[start..head]).to_lowercase();
    let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
    let body_end = (head + length.unwrap_or(0)).min(sent.len());
    (&sent[..body_end], &sent[body_end..], Some(String::from_utf8_lossy(id).into_owned()))
}

#[tokio::test]
async fn a_secrets_value_is_on_no_wire_except_towards_its_own_sandbox_and_a_credential_on_none() {
    let mut tapped = Tapped::start("wires").await;
    let value = tapped.canary.value().to_owned();
    let (status, session) = tapped.call("POST", "/v1/sessions", json!({ "userId": "u" })).await;
    assert_eq!(status, 201);
    let session = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    let secrets = json!({ "TOKEN": value, "OTHER": { "value": value, "mask": false } });
    assert_eq!(tapped.call("POST", &format!("{session}/secrets"), secrets).await.0, 204);
    let (status, agent) = tapped.call("POST", &format!("{session}/agents"), Value::Null).await;
    assert_eq!(status, 201, "{agent}");
    let agent = agent["id"].as_str().unwrap().to_owned();

    let new = json!({ "name": "n", "environment": "live" });
    let made = tapped.make_credential("/v1/api-keys", new, "key").await;
    let (_, listed) = tapped.call("GET", "/v1/api-keys", Value::Null).await;
    let id = listed["data"].as_array().unwrap().iter().find(|key| key["name"] == "n").unwrap()["id"].clone();
    let rotate = format!("/v1/api-keys/{}/rotate", id.as_str().unwrap());
    let rotated = tapped.make_credential(&rotate, json!({ "overlap": "1h" }), "key").await;
    let token = tapped.make_credential(&format!("{session}/tokens"), json!({}), "token").await;
    let digest = json!({ "language": "bash", "code": "printf %s \"$TOKEN\" | sha256sum | head -c 64" });
    let exec = format!("/v1/agents/{agent}/exec");
    for key in [&tapped.key, &made, &rotated, &token] {
        let request = Request { key, once: None, method: "POST", path: &exec, body: digest.clone() };
        let (_, ran) = tapped.ask(request).await;
        assert_eq!(ran["stdout"], sha256(&value), "{ran}");
        for path in [format!("{session}/secrets?details=true"), format!("/v1/agents/{agent}"), "/v1/whoami".into()] {
            let request = Request { key, once: None, method: "GET", path: &path, body: Value::Null };
            assert_eq!(tapped.ask(request).await.0, 200, "{path}");
        }
    }
    assert_eq!(tapped.call("GET", "/v1/audit", Value::Null).await.0, 200);

    let execs = tapped.search(false);
    assert!(!execs.is_empty(), "the tap must have seen the delivery");
    let docker = docker().await;
    let own = docker.inspect_container(&container_name(&agent), None).await.unwrap().id;
    for exec in execs {
        let inspected = docker.inspect_exec(&exec).await.unwrap();
        assert_eq!(inspected.container_id, own, "the value was sent to another container");
    }
    assert_eq!(tapped.call("POST", &format!("{session}/terminate"), Value::Null).await.0, 200);
    tapped.search(false);
    assert!(tapped.kms.wires().iter().any(|wire| memmem::find(&wire.sent, b"TrentService.Decrypt").is_some()));
    let log = tapped.log.bytes();
    assert!(memmem::find(&log, b"answered").is_some(), "the log was not captured");
}
