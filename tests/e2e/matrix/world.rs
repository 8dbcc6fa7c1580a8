//! Two platforms, what is called for, and everybody who calls.

use super::table::{CALLERS, Caller, Target};
use crate::harness::{Answer, Client, Platform, check_query, dynamodb, own_deployment, stack};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use theazo_functions::deployment::Capability;
use theazo_functions::routes::Route;
use theazo_store::{AgentTokens, Agents, OpenedSecret, now_ms};
use theazo_tenancy::{
    AgentId, CredentialKind, CredentialRecord, KeyId, Mode, Operator, Permissions, PlatformId, SessionId,
    make_random_bytes,
};
use theazo_vault::SecretValue;

/// What a target's secret holds.
const SESSIONS_VALUE: &str = "a value of the session";

/// A platform whose things are called for, and another.
pub struct World {
    pub platform: Platform,
    pub stranger: Platform,
    http: reqwest::Client,
    test: Others,
    live: Others,
    /// The session of another platform's live agent.
    strangers_live: String,
}

/// Tokens of sessions, and of an agent, that are in a target's mode, and not its own.
struct Others {
    sibling: String,
    strangers_session: String,
    other_agent: String,
}

/// A target with the credentials that belong to it.
pub struct Owned {
    pub target: Target,
    pub mode: Mode,
    exec: String,
    read: String,
    agent: String,
}

impl World {
    pub async fn make(name: &str) -> Self {
        let stranger = format!("stranger to {name}");
        let (platform, stranger) = tokio::join!(Platform::make(name), Platform::make(&stranger));
        // Of agents, another of its own platform's for test targets, and one of another platform's for live ones.
        let own = by_key(&platform, Mode::Test);
        let session = own.session("another agent's").await;
        let agent = own.boot(&session, json!({})).await;
        let sibling_agent = agent_token(&platform.id, &session, &agent).await;
        let strangers_live = stranger.client.session("another agent's").await;
        let agent = stranger.client.boot(&strangers_live, json!({})).await;
        let strangers_agent = stranger.client.steal_token(&agent).await;
        let others = async |mode, other_agent| {
            let own = by_key(&platform, mode);
            let theirs = by_key(&stranger, mode);
            let sibling = mint(&own, &own.session("sibling").await, json!({})).await;
            let strangers_session = mint(&theirs, &theirs.session("sibling").await, json!({})).await;
            Others { sibling, strangers_session, other_agent }
        };
        let (test, live) = (others(Mode::Test, sibling_agent).await, others(Mode::Live, strangers_agent).await);
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Self { platform, stranger, http, test, live, strangers_live }
    }

    /// Ends what runs.
    pub async fn end(&self, live: Option<&Target>) {
        self.stranger.client.terminate(&self.strangers_live).await;
        if let Some(target) = live {
            self.platform.client.terminate(&target.session).await;
        }
    }

    /// The platform by its test key.
    pub fn test(&self) -> Client {
        by_key(&self.platform, Mode::Test)
    }

    /// A session with everything that a path or a body can name.
    pub async fn target(&self, mode: Mode) -> Target {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let client = by_key(&self.platform, mode);
        let prefix = mode.as_str().to_uppercase();
        let user = format!("user-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let session = client.session(&user).await;
        let key = client.post("/v1/api-keys", json!({ "name": "spare", "environment": mode.as_str() })).await;
        let key = key.expect(201);
        // It has done something, which shows in the audit trail.
        let spare = client.with_key(Some(key["key"].as_str().unwrap()));
        // Names that are nowhere else, so that those of the other mode are none of this one's.
        let secret = format!("{prefix}_OWN");
        spare.set_secrets(&session, json!({ &secret: SESSIONS_VALUE })).await;
        let key = key["id"].as_str().unwrap().to_owned();
        let (shared, credential) = (format!("{prefix}_SHARED"), format!("{prefix}_CREDENTIAL"));
        client.post("/v1/secrets", json!({ &shared: "a shared value", &credential: "a credential" })).await.expect(204);
        let config = match mode {
            Mode::Live => json!({ "organization": "agents", "image": "agents:1" }),
            Mode::Test => json!({}),
        };
        let body = json!({ "credentialRef": credential, "config": config });
        // The other mode has another one, so that the name of one names nothing in the other.
        let provider = if mode == Mode::Live { "fly" } else { "e2b" };
        client.call("PUT", &format!("/v1/providers/{provider}"), Some(&body)).await.expect(200);
        let agent = client.boot(&session, json!({ "secrets": [secret] })).await;
        let file = json!({ "path": "/data/kept", "data": "kept" });
        client.post(&format!("/v1/agents/{agent}/files"), file).await.expect(204);
        let provider = provider.to_owned();
        let config = config.to_string();
        Target { session, agent, key, secret, shared, credential, provider, config, user }
    }

    /// A target with its credentials.
    pub async fn owned(&self, mode: Mode) -> Owned {
        let (client, target) = (by_key(&self.platform, mode), self.target(mode).await);
        let exec = mint(&client, &target.session, json!({})).await;
        let read = mint(&client, &target.session, json!({ "permissions": ["read"] })).await;
        let agent = match mode {
            Mode::Test => agent_token(&self.platform.id, &target.session, &target.agent).await,
            Mode::Live => client.steal_token(&target.agent).await,
        };
        Owned { target, mode, exec, read, agent }
    }

    /// The credential with which that caller calls for that target.
    pub fn credential<'a>(&'a self, caller: Caller, owned: &'a Owned) -> &'a str {
        let others = if owned.mode == Mode::Live { &self.live } else { &self.test };
        match caller {
            Caller::Own => key(&self.platform, owned.mode),
            Caller::TestOnLive => &self.platform.test_key,
            Caller::LiveOnTest => &self.platform.live_key,
            Caller::Stranger => key(&self.stranger, owned.mode),
            Caller::Exec => &owned.exec,
            Caller::Read => &owned.read,
            Caller::Sibling => &others.sibling,
            Caller::StrangersSession => &others.strangers_session,
            Caller::Agent => &owned.agent,
            Caller::OtherAgent => &others.other_agent,
        }
    }

    /// Everything that the owners can see, to find out whether somebody else changed anything.
    pub async fn state(&self, [live, test]: [&Target; 2]) -> Vec<String> {
        let mut seen = Vec::new();
        for (client, target) in [(self.platform.client.clone(), live), (self.test(), test)] {
            let (session, agent) = (&target.session, &target.agent);
            for path in [
                format!("/v1/sessions/{session}"),
                format!("/v1/sessions/{session}/limits"),
                format!("/v1/sessions/{session}/secrets?details=true&inherited=true"),
                format!("/v1/sessions/{session}/agents"),
                format!("/v1/agents/{agent}"),
                format!("/v1/agents/{agent}/files"),
                "/v1/secrets".to_owned(),
            ] {
                seen.push(client.get(&path).await.expect(200).to_string());
            }
            // Whether a provider answers is not for anybody to change, and changes by itself.
            let mut providers = client.get("/v1/providers").await.expect(200);
            for provider in providers["data"].as_array_mut().unwrap() {
                provider.as_object_mut().unwrap().remove("health").unwrap();
            }
            seen.push(providers.to_string());
        }
        seen
    }

    /// Calls a route with that `Authorization` header, or none. Where credentials are a part of the path, what the header
    /// would hold stands there.
    pub async fn ask(&self, route: &Route, path: &str, authorization: Option<&str>, body: Option<String>) -> Answer {
        let in_path = route.info.has_credential_in_path();
        let path = match in_path {
            true => path.replace("{token}", &segment(authorization.unwrap_or_default())),
            false => path.to_owned(),
        };
        for _ in 0..20 {
            let method = reqwest::Method::from_bytes(route.info.method.as_bytes()).unwrap();
            let mut request = self.http.request(method, format!("{}{path}", self.platform.client.base()));
            if let Some(authorization) = authorization.filter(|_| !in_path) {
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
            let text = match route.info.streams && status < 300 {
                true => beginning(answer).await,
                false => answer.text().await.unwrap(),
            };
            check_query(route.info.method, &path, status, &text);
            return Answer { status, headers, text };
        }
        panic!("{path}: always rate limited");
    }

    /// Calls a route with a good credential.
    pub async fn ask_with(&self, route: &Route, path: &str, credential: &str, body: Option<&Value>) -> Answer {
        self.ask(route, path, Some(&format!("Bearer {credential}")), body.map(Value::to_string)).await
    }
}

fn key(platform: &Platform, mode: Mode) -> &str {
    if mode == Mode::Live { &platform.live_key } else { &platform.test_key }
}

/// A platform by its key of that mode.
fn by_key(platform: &Platform, mode: Mode) -> Client {
    platform.client.with_key(Some(key(platform, mode)))
}

/// What a stream gives of what there is already.
async fn beginning(mut answer: reqwest::Response) -> String {
    let mut text = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(Duration::from_millis(500), answer.chunk()).await {
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text).unwrap()
}

/// What a header holds, as a part of a path.
fn segment(authorization: &str) -> String {
    let credential = authorization.strip_prefix("Bearer ").unwrap_or(authorization);
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    let text: String = credential.bytes().map(byte).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Another token of a test agent that has booted, in place of its own, which only its sandbox knows.
#[expect(clippy::disallowed_methods, reason = "what a sandbox is handed, a test makes")]
pub async fn agent_token(platform: &PlatformId, session: &str, agent: &str) -> String {
    let (session, agent) = (SessionId::parse(session).unwrap(), AgentId::parse(agent).unwrap());
    let (deployment, scope) = (&own_deployment(), Operator::assume().tenant(platform, Mode::Test));
    let booted = Agents::of(deployment).get(&scope, &agent).await.unwrap().unwrap();
    let tokens = AgentTokens::of(deployment);
    let token = tokens.make(&scope, &booted).unwrap();
    let own = token.values();
    let text = String::from_utf8(own[1].value.expose().to_vec()).unwrap();
    let value = || SecretValue::from_text(SESSIONS_VALUE.into());
    let opened = booted.secrets.iter().map(|secret| OpenedSecret { booted: secret.clone(), value: value() });
    let opened: Vec<OpenedSecret> = opened.chain(own).collect();
    let sealed = tokens.seal(&scope, &agent, &token, &opened, now_ms() + 3_600_000).unwrap();
    tokens.keep(Some(sealed)).await.unwrap();

    let record = CredentialRecord {
        hash: Sha256::digest(text.as_bytes()).into(),
        id: KeyId::make(),
        kind: CredentialKind::Agent(session.clone(), agent.clone()),
        platform: platform.clone(),
        mode: Mode::Test,
        expires_at_ms: None,
        cursor_key: make_random_bytes(),
        permissions: Permissions { exec: true },
        epoch: 0,
    };
    let mac = deployment.config().credential_key.as_ref().unwrap().seal(&record);
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
    text
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
