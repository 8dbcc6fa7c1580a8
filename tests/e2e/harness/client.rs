//! A client as any backend would write one: a base URL, a key, JSON. What it is answered must be as the API describes it.

use super::contract::{self, Exchange};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Calls the API with one credential.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    /// The `Idempotency-Key` of its calls.
    once: Option<String>,
    /// Whether its bodies may say more than is described.
    says_more: bool,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub text: String,
}

impl Answer {
    /// The sequential round trips that it took.
    pub fn round_trips(&self) -> u32 {
        self.headers["x-theazo-round-trips"].parse().unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The body as JSON, if the answer has that status; panics with the whole answer otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// The error's code, if the answer has that status.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(body["error"]["code"], code, "{body}");
        assert_eq!(body["error"]["requestId"], body["requestId"], "{body}");
        body["error"].clone()
    }

    /// The body without what differs from request to request.
    pub fn without_request_id(&self) -> String {
        let id = self.headers.get("x-request-id").expect("every answer has a request id");
        self.text.replace(id, "req_")
    }
}

impl Client {
    /// A client for `http://host:port`, with a key or without.
    pub fn new(base: impl Into<String>, key: Option<&str>) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(120)).build().unwrap();
        Self { http, base: base.into(), key: key.map(str::to_owned), once: None, says_more: false }
    }

    /// The same client with another credential.
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// The same client, whose calls are to be done once under that key.
    pub fn once(&self, key: &str) -> Self {
        Self { once: Some(key.to_owned()), ..self.clone() }
    }

    /// The same client, which also says what no route takes, to see that it is ignored.
    pub fn saying_more(&self) -> Self {
        Self { says_more: true, ..self.clone() }
    }

    /// The same client for another server.
    pub fn with_base(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    /// Begins a GET whose body is read as it comes.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = self.http.get(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        contract::check_query("GET", path, answer.status().as_u16(), "");
        answer
    }

    /// Posts for an answer that comes while it goes on.
    pub async fn open_post(&self, path: &str, body: &Value) -> reqwest::Response {
        let mut request = self.http.post(format!("{}{path}", self.base)).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        request.send().await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Its credential.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// `http://host:port`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Makes a call. `path` is sent as it is, so that encodings can be tested.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let bytes = body.map(|body| body.to_string().into_bytes());
        self.try_call(method, path, bytes).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Makes a call that may fail to reach anyone.
    pub async fn try_call(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Answer, reqwest::Error> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(once) = &self.once {
            request = request.header("Idempotency-Key", once);
        }
        if let Some(body) = body.clone() {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let headers = answer.headers().iter();
        let headers: BTreeMap<String, String> =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        let text = answer.text().await?;
        contract::check(&Exchange {
            method: method.as_str(),
            path,
            body: body.as_deref().filter(|_| !self.says_more),
            status,
            content_type: headers.get("content-type").map(String::as_str),
            answer: &text,
        });
        Ok(Answer { status, headers, text })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(&body)).await
    }

    /// A POST that is to be done once under that key.
    pub async fn post_once(&self, path: &str, body: Value, key: &str) -> Answer {
        self.once(key).post(path, body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, None).await
    }

    /// The id of the session of a user.
    pub async fn session(&self, user: &str) -> String {
        let answer = self.call("POST", &format!("/v1/sessions/by-user/{user}"), None).await;
        answer.expect(200)["id"].as_str().unwrap().to_owned()
    }

    /// Sets secrets of a session.
    pub async fn set_secrets(&self, session: &str, secrets: Value) {
        self.post(&format!("/v1/sessions/{session}/secrets"), secrets).await.expect(204);
    }

    /// Boots an agent and gives its id.
    pub async fn boot(&self, session: &str, body: Value) -> String {
        let agent = self.post(&format!("/v1/sessions/{session}/agents"), body).await.expect(201);
        assert_eq!(agent["status"], "ready");
        agent["id"].as_str().unwrap().to_owned()
    }

    /// Runs code and gives its standard output; panics unless it exits with 0.
    pub async fn run(&self, agent: &str, language: &str, code: &str) -> String {
        let body = json!({ "language": language, "code": code });
        let ran = self.post(&format!("/v1/agents/{agent}/exec"), body).await.expect(200);
        assert_eq!(ran["exitCode"], 0, "{ran}");
        ran["stdout"].as_str().unwrap().to_owned()
    }

    /// Length and SHA-256 of every variable of an agent, by name.
    pub async fn environment(&self, agent: &str) -> BTreeMap<String, (usize, String)> {
        let code = "import os, json, hashlib\n\
            print(json.dumps({k: [len(v.encode()), hashlib.sha256(v.encode()).hexdigest()] for k, v in os.environ.items()}))";
        serde_json::from_str(&self.run(agent, "python", code).await).unwrap()
    }

    /// The agent's token, as somebody who can run code in it takes it away: printed as no masking recognises it.
    pub async fn steal_token(&self, agent: &str) -> String {
        let printed = self.run(agent, "python", "import os; print(os.environ['THEAZO_ENDPOINT'][::-1])").await;
        let endpoint: String = printed.trim().chars().rev().collect();
        let (_, token) = endpoint.split_once("/a/").expect("the address has the token");
        token.to_owned()
    }

    /// Ends a session and everything in it.
    pub async fn terminate(&self, session: &str) {
        self.insist("POST", &format!("/v1/sessions/{session}/terminate"), None).await.expect(200);
    }

    /// Makes a call that may be repeated, and repeats it where the answer says that trying again may help: an engine that
    /// many tests use has not made it in time.
    pub async fn insist(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut answer = self.call(method, path, body).await;
        for _ in 0..3 {
            if answer.status != 502 || !answer.text.contains("\"retryable\":true") {
                break;
            }
            answer = self.call(method, path, body).await;
        }
        answer
    }
}
