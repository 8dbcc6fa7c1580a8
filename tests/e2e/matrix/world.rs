//! Two platforms, what is called for, and everybody who calls.

use super::table::{CALLERS, Caller, Target};
use crate::harness::{Answer, Client, Platform, dynamodb, stack};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use theazo_functions::routes::Route;
use theazo_tenancy::{
    AgentId, CredentialKind, CredentialRecord, KeyId, Mode, Permissions, SessionId, make_agent_token, make_random_bytes,
};

/// A platform whose things are called for, and another.
pub struct World {
    pub platform: Platform,
    pub stranger: Platform,
    http: reqwest::Client,
    sibling: String,
    strangers_session: String,
}

/// A target in test mode with the credentials that belong to it.
pub struct Owned {
    pub target: Target,
    exec: String,
    read: String,
    agent: String,
}

impl World {
    pub async fn make(name: &str) -> Self {
        let stranger = format!("stranger to {name}");
        let (platform, stranger) = tokio::join!(Platform::make(name), Platform::make(&stranger));
        let mut tokens = Vec::new();
        for platform in [&platform, &stranger] {
            let test = platform.client.with_key(Some(&platform.test_key));
            tokens.push(mint(&test, &test.session("sibling").await, json!({})).await);
        }
        let strangers_session = tokens.pop().unwrap();
        let sibling = tokens.pop().unwrap();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Self { platform, stranger, http, sibling, strangers_session }
    }

    /// The platform by its test key.
    pub fn test(&self) -> Client {
        self.platform.client.with_key(Some(&self.platform.test_key))
    }

    /// A session with everything that a path or a body can name.
    pub async fn target(&self, mode: Mode) -> Target {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let client = if mode == Mode::Live { self.platform.client.clone() } else { self.test() };
        let prefix = mode.as_str().to_uppercase();
        let user = format!("user-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let session = client.session(&user).await;
        client.set_secrets(&session, json!({ "OWN": "a value of the session" })).await;
        let (shared, credential) = (format!("{prefix}_SHARED"), format!("{prefix}_CREDENTIAL"));
        client.post("/v1/secrets", json!({ &shared: "a shared value", &credential: "a credential" })).await.expect(204);
        let body = json!({ "credentialRef": credential });
        client.call("PUT", "/v1/providers/e2b", Some(&body)).await.expect(200);
        let agent = client.boot(&session, json!({ "secrets": ["OWN"] })).await;
        let file = json!({ "path": "/data/kept", "data": "kept" });
        client.post(&format!("/v1/agents/{agent}/files"), file).await.expect(204);
        let key = client.post("/v1/api-keys", json!({ "name": "spare", "environment": mode.as_str() })).await;
        let key = key.expect(201)["id"].as_str().unwrap().to_owned();
        let (secret, provider) = ("OWN".to_owned(), "e2b".to_owned());
        Target { session, agent, key, secret, shared, credential, provider, user }
    }

    /// A target in test mode with its credentials.
    pub async fn owned(&self) -> Owned {
        let (test, target) = (self.test(), self.target(Mode::Test).await);
        let exec = mint(&test, &target.session, json!({})).await;
        let read = mint(&test, &target.session, json!({ "permissions": ["read"] })).await;
        let agent = self.agent_token(&target).await;
        Owned { target, exec, read, agent }
    }

    /// The credential with which that caller calls for that target.
    pub fn credential<'a>(&'a self, caller: Caller, owned: &'a Owned) -> &'a str {
        match caller {
            Caller::Own | Caller::TestOnLive => &self.platform.test_key,
            Caller::LiveOnTest => &self.platform.live_key,
            Caller::Stranger => &self.stranger.test_key,
            Caller::Exec => &owned.exec,
            Caller::Read => &owned.read,
            Caller::Sibling => &self.sibling,
            Caller::StrangersSession => &self.strangers_session,
            Caller::Agent => &owned.agent,
        }
    }

    /// Everything that the owners can see, to find out whether somebody else changed anything.
    pub async fn state(&self, targets: [(&Client, &Target); 2]) -> Vec<String> {
        let mut seen = Vec::new();
        for (client, target) in targets {
            let (session, agent) = (&target.session, &target.agent);
            for path in [
                format!("/v1/sessions/{session}"),
                format!("/v1/sessions/{session}/limits"),
                format!("/v1/sessions/{session}/secrets?details=true&inherited=true"),
                format!("/v1/sessions/{session}/agents"),
                format!("/v1/agents/{agent}"),
                format!("/v1/agents/{agent}/files"),
            ] {
                seen.push(client.get(&path).await.expect(200).to_string());
            }
        }
        seen
    }

    /// Calls a route with that `Authorization` header, or none.
    pub async fn ask(&self, route: &Route, path: &str, authorization: Option<&str>, body: Option<String>) -> Answer {
        for _ in 0..20 {
            let method = reqwest::Method::from_bytes(route.info.method.as_bytes()).unwrap();
            let mut request = self.http.request(method, format!("{}{path}", self.platform.client.base()));
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            let answer = request.body(body.clone().unwrap_or_default()).send().await.unwrap();
            let status = answer.status().as_u16();
            if status == 429 {
                // These calls come faster than any end user's.
                tokio::time::sleep(Duration::from_millis(300)).await;
                continue;
            }
            let headers = answer.headers().iter();
            let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
            // A stream that has begun says all that is of interest here.
            let text = if route.info.streams && status < 300 { String::new() } else { answer.text().await.unwrap() };
            return Answer { status, headers, text };
        }
        panic!("{path}: always rate limited");
    }

    /// Calls a route with a good credential.
    pub async fn ask_with(&self, route: &Route, path: &str, credential: &str, body: Option<&Value>) -> Answer {
        self.ask(route, path, Some(&format!("Bearer {credential}")), body.map(Value::to_string)).await
    }

    /// The token of the target's agent, put into the table as booting puts it there.
    async fn agent_token(&self, target: &Target) -> String {
        let platform = &self.platform.id;
        let (session, agent) = (SessionId::parse(&target.session).unwrap(), AgentId::parse(&target.agent).unwrap());
        let issued = make_agent_token(platform, Mode::Test, &session, &agent);
        let record = CredentialRecord {
            hash: issued.hash,
            id: KeyId::make(),
            kind: CredentialKind::Agent(session.clone(), agent.clone()),
            platform: platform.clone(),
            mode: Mode::Test,
            expires_at_ms: None,
            cursor_key: make_random_bytes(),
            permissions: Permissions { exec: true },
            epoch: 0,
        };
        let mac = stack().deployment().config().credential_key.seal(&record);
        let (id, hash, url) = (&record.id, hex::encode(record.hash), stack().dynamodb_url());
        let row = json!({
            "pk": { "S": format!("credential#{hash}") }, "sk": { "S": "credential" },
            "id": { "S": id.as_str() }, "kind": { "S": "agent" }, "hash": { "S": hash }, "epoch": { "N": "0" },
            "platform": { "S": platform.as_str() }, "mode": { "S": "test" }, "may_exec": { "BOOL": true },
            "session": { "S": session.as_str() }, "agent": { "S": agent.as_str() },
            "cursor_key": { "S": hex::encode(record.cursor_key) }, "mac": { "S": hex::encode(mac) },
        });
        dynamodb(&url, "PutItem", json!({ "TableName": "theazo", "Item": row })).await;
        for partition in [format!("{platform}#test#agents"), format!("{platform}#test#{session}#agents")] {
            let update = json!({
                "TableName": "theazo", "Key": { "pk": { "S": partition }, "sk": { "S": agent.as_str() } },
                "UpdateExpression": "SET #t = :id", "ConditionExpression": "attribute_exists(pk)",
                "ExpressionAttributeNames": { "#t": "token" }, "ExpressionAttributeValues": { ":id": { "S": id.as_str() } },
            });
            dynamodb(&url, "UpdateItem", update).await;
        }
        issued.text.to_string()
    }
}

/// A session's token.
pub async fn mint(client: &Client, session: &str, body: Value) -> String {
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), body).await.expect(201);
    minted["token"].as_str().unwrap().to_owned()
}

/// The callers whose cell of that line is a success, or those whose cell is not.
pub fn callers(statuses: [u16; CALLERS.len()], succeed: bool) -> impl Iterator<Item = (Caller, u16)> {
    CALLERS.into_iter().zip(statuses).filter(move |(_, status)| (*status < 300) == succeed)
}
