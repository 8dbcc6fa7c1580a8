//! What goes over the wire to the table, the key service and the Docker engine: a secret's value is on none of them,
//! except towards the sandbox that it is for. The same while each of them fails in every way.

use crate::harness::{Break, Canary, Platform, Tap, container_name, docker, docker_engine, sha256, stack};
use bytes::Bytes;
use memchr::memmem;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use theazo_functions::deployment::{Deployment, DeploymentConfig, DockerEngine};
use theazo_functions::routes::ROUTES;
use theazo_functions::{Incoming, serve};
use theazo_http::{LogFormat, make_subscriber};
use theazo_providers::docker::Endpoint;
use theazo_store::{Aws, AwsEndpoints};
use tracing::instrument::WithSubscriber;

/// A deployment whose every connection is tapped.
struct Tapped {
    deployment: Deployment,
    table: Tap,
    kms: Tap,
    engine: Tap,
    key: String,
    canary: Canary,
    log: Log,
}

/// Log lines, all there are.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
        let Endpoint::Unix(socket) = &docker_engine().endpoint;
        let ours = std::env::temp_dir().join(format!("theazo-e2e-tap-{}-{name}.sock", std::process::id()));
        let engine = Tap::unix(socket, ours.clone()).await;
        let aws = Aws::local(&AwsEndpoints { dynamodb: table.url(), kms: Some(kms.url()) });
        let docker = DockerEngine { endpoint: Endpoint::Unix(ours), image: docker_engine().image.clone() };
        let config = DeploymentConfig { docker: Some(docker), ..stack.deployment().config().clone() };
        let deployment = Deployment::new(&aws, config).unwrap();
        Self { deployment, table, kms, engine, key: platform.live_key, canary: Canary::make(), log: Log::default() }
    }

    /// A call, at the finest log level, whose answer must not have the value.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (path_only, query) = path.split_once('?').unwrap_or((path, ""));
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {}", self.key).parse().unwrap());
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let incoming = Incoming {
            method: method.parse().unwrap(),
            source_ip: None,
            raw_path: path_only.to_owned(),
            raw_query: query.to_owned(),
            headers,
            body,
        };
        let log = self.log.clone();
        let subscriber = make_subscriber(LogFormat::Json, "trace".parse().unwrap(), move || log.clone());
        let (response, _) = serve(&self.deployment, ROUTES, incoming).with_subscriber(subscriber).await;
        let status = response.status().as_u16();
        self.canary.is_not_in(&format!("the answer {status} of {method}"), response.body());
        (status, serde_json::from_slice(response.body()).unwrap_or(Value::Null))
    }

    /// Fails if the value is where it must not be; gives the execs on whose connections it was sent.
    fn search(&self) -> Vec<String> {
        for (service, tap) in [("the table", &self.table), ("the key service", &self.kms)] {
            for wire in tap.wires() {
                self.canary.is_not_in(&format!("what was sent to {service}"), &wire.sent);
                self.canary.is_not_in(&format!("what {service} sent"), &wire.received);
            }
        }
        self.canary.is_not_in("the log", self.log.0.lock().unwrap().as_slice());
        let mut execs = Vec::new();
        for wire in self.engine.wires() {
            // A connection that carries a stream carries nothing after it: what was sent before the stream is requests.
            let (requests, stream, exec) = split_stream(&wire.sent);
            self.canary.is_not_in("what was asked of the engine", requests);
            if self.canary.find_in(stream).is_some() {
                execs.push(exec.expect("only a stream can carry it"));
            }
        }
        execs
    }
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
async fn a_secrets_value_is_on_no_wire_except_towards_its_own_sandbox() {
    let tapped = Tapped::start("wires").await;
    let value = tapped.canary.value().to_owned();
    let (status, session) = tapped.call("POST", "/v1/sessions", json!({ "userId": "u" })).await;
    assert_eq!(status, 201);
    let session = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    let secrets = json!({ "TOKEN": value, "OTHER": { "value": value, "mask": false } });
    assert_eq!(tapped.call("POST", &format!("{session}/secrets"), secrets).await.0, 204);
    let (status, agent) = tapped.call("POST", &format!("{session}/agents"), Value::Null).await;
    assert_eq!(status, 201, "{agent}");
    let agent = agent["id"].as_str().unwrap().to_owned();
    let digest = json!({ "language": "bash", "code": "printf %s \"$TOKEN\" | sha256sum | head -c 64" });
    let (_, ran) = tapped.call("POST", &format!("/v1/agents/{agent}/exec"), digest).await;
    assert_eq!(ran["stdout"], sha256(&value), "{ran}");
    for path in [format!("{session}/secrets?details=true"), format!("/v1/agents/{agent}"), "/v1/audit".into()] {
        assert_eq!(tapped.call("GET", &path, Value::Null).await.0, 200, "{path}");
    }

    let execs = tapped.search();
    assert!(!execs.is_empty(), "the tap must have seen the delivery");
    let docker = docker().await;
    let own = docker.inspect_container(&container_name(&agent), None).await.unwrap().id;
    for exec in execs {
        let inspected = docker.inspect_exec(&exec).await.unwrap();
        assert_eq!(inspected.container_id, own, "the value was sent to another container");
    }
    assert_eq!(tapped.call("POST", &format!("{session}/terminate"), Value::Null).await.0, 200);
    tapped.search();
    assert!(tapped.kms.wires().iter().any(|wire| memmem::find(&wire.sent, b"TrentService.Decrypt").is_some()));
    let log = tapped.log.0.lock().unwrap();
    assert!(memmem::find(&log, b"answered").is_some(), "the log was not captured");
}

#[tokio::test]
async fn a_secrets_value_gets_nowhere_while_the_table_the_key_service_or_the_engine_fails() {
    let mut tapped = Tapped::start("faults").await;
    let value = tapped.canary.value().to_owned();
    let (_, session) = tapped.call("POST", "/v1/sessions", json!({ "userId": "u" })).await;
    let session = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    let secrets = json!({ "TOKEN": value, "OTHER": { "value": value, "mask": false } });
    assert_eq!(tapped.call("POST", &format!("{session}/secrets"), secrets.clone()).await.0, 204);
    let (_, agent) = tapped.call("POST", &format!("{session}/agents"), Value::Null).await;
    let agent = agent["id"].as_str().unwrap().to_owned();
    let print = json!({ "language": "bash", "code": "echo \"$TOKEN\"; echo \"$TOKEN\" >&2" });

    let mut failed = 0;
    for service in 0..3 {
        for how in [Break::AtOnce, Break::AfterBytes(0), Break::AfterBytes(60), Break::AfterBytes(400), Break::Nonsense]
        {
            // The key service is asked only by a deployment that has no key in memory.
            let aws = Aws::local(&AwsEndpoints { dynamodb: tapped.table.url(), kms: Some(tapped.kms.url()) });
            tapped.deployment = Deployment::new(&aws, tapped.deployment.config().clone()).unwrap();
            let tap = [&tapped.table, &tapped.kms, &tapped.engine][service];
            tap.set(how);
            for (method, path, body) in [
                ("POST", format!("{session}/secrets"), secrets.clone()),
                ("POST", format!("{session}/agents"), Value::Null),
                ("POST", format!("/v1/agents/{agent}/exec"), print.clone()),
                ("GET", format!("{session}/secrets?details=true"), Value::Null),
            ] {
                failed += usize::from(tapped.call(method, &path, body).await.0 >= 500);
            }
            tap.set(Break::Never);
        }
    }
    assert!(failed >= 15, "only {failed} calls failed");
    tapped.search();
    let (status, ran) = tapped.call("POST", &format!("/v1/agents/{agent}/exec"), print).await;
    assert!(status == 200 || status == 502 || status == 409, "{ran}");
    assert_eq!(tapped.call("POST", &format!("{session}/terminate"), Value::Null).await.0, 200);
    tapped.search();
}
