//! Two instances of the same functions over one table: nothing that one of them remembers lets in what the other has ended,
//! and what they count they count together.

use crate::harness::{Client, Platform, Process, check_query, incoming, stack};
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_functions::deployment::{Deployment, DeploymentConfig};
use theazo_functions::routes::ROUTES;
use theazo_functions::serve;
use theazo_http::format_time;
use theazo_store::{Aws, AwsEndpoints, RateLimits, now_ms};

/// An instance with clients and memory of its own, as Lambda starts them.
struct Instance(Deployment);

impl Instance {
    fn start(rate_limits: RateLimits) -> Self {
        Self::start_with(rate_limits, stack().kms_url())
    }

    fn start_with(rate_limits: RateLimits, kms: String) -> Self {
        let stack = stack();
        let aws = Aws::local(&AwsEndpoints { dynamodb: stack.dynamodb_url(), kms: Some(kms) });
        let config = DeploymentConfig { rate_limits, docker: None, ..stack.deployment().config().clone() };
        Self(Deployment::new(&aws, config))
    }

    async fn call(&self, method: &str, path: &str, key: &str, body: Value) -> http::Response<Bytes> {
        let incoming = incoming(method, path, Some(key), &body);
        let (parts, body) = serve(&self.0, ROUTES, incoming).await.0.into_parts();
        let body = body.collect().await;
        check_query(method, path, parts.status.as_u16(), &String::from_utf8_lossy(&body));
        http::Response::from_parts(parts, body)
    }

    async fn whoami(&self, key: &str) -> u16 {
        self.call("GET", "/v1/whoami", key, Value::Null).await.status().as_u16()
    }

    /// A call that must succeed.
    async fn done(&self, method: &str, path: &str, key: &str, body: Value) -> Value {
        let answer = self.call(method, path, key, body).await;
        assert!(answer.status().is_success(), "{method} {path}: {answer:?}");
        serde_json::from_slice(answer.body()).unwrap_or_default()
    }
}

#[tokio::test]
async fn what_one_instance_revokes_no_other_accepts_for_a_moment_longer() {
    let platform = Platform::make("two instances").await;
    let key = platform.live_key.as_str();
    let [one, two] = [(); 2].map(|()| Instance::start(RateLimits::default()));
    let session = one.done("POST", "/v1/sessions", key, json!({})).await;
    let session = session["id"].as_str().unwrap();
    let tokens = format!("/v1/sessions/{session}/tokens");
    for round in 0..3 {
        let spare = one.done("POST", "/v1/api-keys", key, json!({ "name": "spare", "environment": "live" })).await;
        let (id, text) = (spare["id"].as_str().unwrap(), spare["key"].as_str().unwrap());
        let token = one.done("POST", &tokens, text, json!({})).await;
        let token = token["token"].as_str().unwrap();
        // Both instances have served both, just now.
        for instance in [&one, &two] {
            assert_eq!((instance.whoami(text).await, instance.whoami(token).await), (200, 200), "{round}");
        }
        one.done("DELETE", &format!("/v1/api-keys/{id}"), key, Value::Null).await;
        assert_eq!((two.whoami(text).await, one.whoami(text).await), (401, 401), "{round}");
        // As the README says: a token that a key has minted is ended by itself.
        assert_eq!(two.whoami(token).await, 200);
        one.done("DELETE", &tokens, key, Value::Null).await;
        assert_eq!((two.whoami(token).await, one.whoami(token).await), (401, 401), "{round}");
    }
    let token = one.done("POST", &tokens, key, json!({})).await;
    let token = token["token"].as_str().unwrap();
    assert_eq!(two.whoami(token).await, 200);
    one.done("POST", &format!("/v1/sessions/{session}/terminate"), key, Value::Null).await;
    assert_eq!(two.whoami(token).await, 401);
}

#[tokio::test]
async fn a_key_ends_when_it_was_said_to_on_every_instance() {
    let platform = Platform::make("expiring").await;
    let key = platform.live_key.as_str();
    let [one, two] = [(); 2].map(|()| Instance::start(RateLimits::default()));
    let end_ms = now_ms() + 1500;
    let body = json!({ "name": "short", "environment": "live", "expiresAt": format_time(end_ms) });
    let made = one.done("POST", "/v1/api-keys", key, body).await;
    assert_eq!(made["expiresAt"], format_time(end_ms));
    let text = made["key"].as_str().unwrap();
    let who = two.done("GET", "/v1/whoami", text, Value::Null).await;
    assert_eq!(who["expiresAt"], format_time(end_ms));
    tokio::time::sleep(Duration::from_millis(u64::try_from(end_ms - now_ms()).unwrap() + 10)).await;
    assert_eq!((one.whoami(text).await, two.whoami(text).await), (401, 401));
}

#[tokio::test]
async fn instances_share_a_limit_and_say_when_to_come_back() {
    let platform = Platform::make("rates").await;
    let key = platform.live_key.as_str();
    let instances = [(); 2].map(|()| Instance::start(RateLimits { key: 5, token: 2, agent: 2 }));
    let mut refused = None;
    for _ in 0..50 {
        let burst = (0..12).map(|request| instances[request % 2].call("GET", "/v1/sessions", key, Value::Null));
        let answers = join_all(burst).await;
        assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status().as_u16())));
        refused = answers.into_iter().find(|answer| answer.status() == 429);
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let body: Value = serde_json::from_slice(refused.body()).unwrap();
    assert_eq!((&body["error"]["code"], &body["error"]["details"]["retryAfter"]), (&json!("rate_limited"), &json!(1)));
    // As it said.
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(instances[0].whoami(key).await, 200);
    // One that is not good is not told that it is too fast.
    let forged = theazo_tenancy::make_api_key(&platform.id, theazo_tenancy::Mode::Live);
    for request in 0..12 {
        assert_eq!(instances[request % 2].whoami(&forged.text).await, 401);
    }
}

#[tokio::test]
async fn the_limits_of_the_local_stack_come_from_its_environment() {
    let name = format!("theazo-e2e-process-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
    let variables = [("THEAZO_KEY_REQUESTS_PER_SECOND", "2"), ("THEAZO_TOKEN_REQUESTS_PER_SECOND", "1")];
    let process = Process::start_with(std::env::temp_dir().join(name), &variables).await;
    let client = process.client();
    let too_fast = async |client: &Client| {
        for _ in 0..50 {
            let answers = join_all((0..8).map(|_| client.get("/v1/whoami"))).await;
            if answers.iter().any(|answer| answer.status == 429) {
                return true;
            }
        }
        false
    };
    assert!(too_fast(&client).await, "the key");
    tokio::time::sleep(Duration::from_millis(1050)).await;
    let session = client.session("u").await;
    let token = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    assert!(too_fast(&client.with_key(token["token"].as_str())).await, "the token");
}

#[tokio::test]
async fn an_agent_that_is_refused_anyway_has_no_value_opened_for_it() {
    let platform = Platform::make("refused early").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let (full, over) = (client.session("full").await, client.session("over").await);
    for session in [&full, &over] {
        client.set_secrets(session, json!({ "A": "1" })).await;
    }
    let limits = json!({ "maxAgents": 1 });
    client.call("PATCH", &format!("/v1/sessions/{full}/limits"), Some(&limits)).await.expect(200);
    let agent = client.boot(&full, json!({})).await;
    client.terminate(&over).await;

    // Nobody answers in the key service's place, so that whatever opens a value fails.
    let instance = Instance::start_with(RateLimits::default(), "http://127.0.0.1:1".to_owned());
    let create = async |session: &str| {
        let path = format!("/v1/sessions/{session}/agents");
        instance.call("POST", &path, &platform.test_key, json!({})).await.status().as_u16()
    };
    assert_eq!((create(&full).await, create(&over).await), (402, 409));
    client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
    assert_eq!(create(&full).await, 500, "a value would have been opened");
}
