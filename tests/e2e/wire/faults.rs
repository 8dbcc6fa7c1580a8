//! Every endpoint while the table, the key service or the engine fails, from each of the requests on that the endpoint
//! makes of it: broken connections, and answers that are well-formed failures, whose words have the value in them.

use super::{Request, Tapped};
use crate::harness::{Break, Canary, Tap, fail_agent};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::{Value, json};
use theazo_functions::routes::{ROUTES, Route};
use theazo_http::Repeats;
use theazo_tenancy::Mode;

/// Where the failures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Table,
    Kms,
    Engine,
}

/// Of the requests that an endpoint makes of a service, those that are the first to fail: a boot makes some twenty.
const FIRST_FAILING: [usize; 6] = [0, 1, 2, 4, 7, 12];

/// A platform with a session, an agent where that is needed, and the value in both its vaults.
struct Bed {
    tapped: Tapped,
    service: Service,
    session: String,
    agent: Option<String>,
    /// The agent's token.
    token: String,
    /// Sessions with agents that were made for one call each.
    made: Vec<String>,
    round: usize,
    /// For each call that failed with 5xx, the service that had failed it.
    failed: Vec<Service>,
}

impl Service {
    fn tap(self, tapped: &Tapped) -> &Tap {
        match self {
            Self::Table => &tapped.table,
            Self::Kms => &tapped.kms,
            Self::Engine => &tapped.engine,
        }
    }

    /// Every kind of failure. The service's own words repeat the value, as if it had got hold of it.
    fn breaks(self, value: &str) -> Vec<Break> {
        let told = |status: u16, kind: &str| {
            let (code, message) = (format!("com.amazonaws#{kind}"), format!("{kind}: {value}"));
            Break::Answer(status, json!({ "__type": code, "message": message, "Message": message }).to_string())
        };
        let (throttled, denied) = if self == Self::Engine { (429, 403) } else { (400, 400) };
        vec![
            told(500, "InternalServerError"),
            Break::AtOnce,
            told(throttled, "ThrottlingException"),
            Break::Nonsense,
            told(denied, "AccessDeniedException"),
            Break::AfterBytes(60),
            Break::AfterBytes(400),
        ]
    }
}

impl Bed {
    async fn make(name: &str, with_agent: bool) -> Self {
        let tapped = Tapped::start(name).await;
        let session = tapped.client.session("u").await;
        let service = Service::Table;
        let mut bed = Self {
            tapped,
            service,
            session,
            agent: None,
            token: String::new(),
            made: Vec::new(),
            round: 0,
            failed: Vec::new(),
        };
        let value = bed.tapped.canary.value().to_owned();
        bed.tapped.client.set_secrets(&bed.session, bed.secrets()).await;
        let of_platform = json!({ "SHARED": value, "CREDENTIAL": value });
        bed.tapped.client.post("/v1/secrets", of_platform).await.expect(204);
        if with_agent {
            bed.boot().await;
        }
        bed
    }

    fn secrets(&self) -> Value {
        let value = self.tapped.canary.value();
        json!({ "TOKEN": value, "OTHER": { "value": value, "mask": false }, "GONE": value })
    }

    async fn boot(&mut self) {
        let agent = self.tapped.client.boot(&self.session, json!({})).await;
        let kept = json!({ "path": "/data/kept", "data": "kept" });
        self.tapped.client.post(&format!("/v1/agents/{agent}/files"), kept).await.expect(204);
        self.token = self.tapped.client.steal_token(&agent).await;
        self.tapped.credentials.push(Canary::of_credential(&self.token));
        self.agent = Some(agent);
    }

    /// Brings a ready agent to where a route has something to do with it.
    async fn bring_to_state(&self, name: &str, agent: &str) {
        let (client, path) = (&self.tapped.client, |what: &str| format!("/v1/agents/{agent}/{what}"));
        match name {
            "agents-resume" => {
                client.call("POST", &path("pause"), None).await.expect(200);
            }
            "agents-retry" => {
                client.post(&path("checkpoints"), json!({})).await.expect(201);
                fail_agent(&self.tapped.platform, Mode::Live, agent).await;
            }
            _ => {}
        }
    }

    /// Ends what was made for one call, so that its sandboxes do not pile up.
    async fn end_made(&mut self) {
        for session in std::mem::take(&mut self.made) {
            self.tapped.client.terminate(&session).await;
        }
    }

    /// A good call of a route, with everything there that it needs.
    async fn prepare(&mut self, route: &Route) -> (String, Value) {
        self.round += 1;
        let name = route.info.name;
        let client = &self.tapped.client;
        let mut id = self.session.clone();
        if needs_agent(route) {
            let current = self.agent.clone().expect("an agent was booted");
            let status = client.get(&format!("/v1/agents/{current}")).await.expect(200)["status"].clone();
            if status != "ready" {
                self.boot().await;
            }
            id = self.agent.clone().unwrap_or_default();
            self.bring_to_state(name, &id).await;
        } else if route.info.pattern.0.starts_with("/v1/api-keys/{id}") {
            let new = json!({ "name": "n", "environment": "test" });
            id = client.post("/v1/api-keys", new).await.expect(201)["id"].as_str().unwrap().to_owned();
        } else if route.info.method == "POST" && route.info.pattern.0.starts_with("/v1/sessions/{id}/") && !is_own(name)
        {
            // What it does to a session must not stand in the way of the next call.
            id = client.post("/v1/sessions", json!({})).await.expect(201)["id"].as_str().unwrap().to_owned();
            client.set_secrets(&id, self.secrets()).await;
            if acts_on_agents_of_session(route) {
                client.boot(&id, json!({})).await;
                if name == "sessions-resume" {
                    client.post(&format!("/v1/sessions/{id}/pause"), json!({})).await.expect(200);
                }
                self.made.push(id.clone());
            }
        } else if name == "secrets-delete" {
            client.set_secrets(&id, self.secrets()).await;
        } else if name == "platform-secrets-delete" {
            client.post("/v1/secrets", json!({ "GONE": self.tapped.canary.value() })).await.expect(204);
        } else if name == "providers-list" {
            // How those are that are configured is asked of them, with their credentials.
            let credential = json!({ "credentialRef": "CREDENTIAL" });
            client.call("PUT", "/v1/providers/e2b", Some(&credential)).await.expect(200);
        }
        let path = [
            ("{id}", id.as_str()),
            ("{name}", "GONE"),
            ("{path*}", "data/kept"),
            ("{provider}", "e2b"),
            ("{token}", self.token.as_str()),
        ];
        let path = path.iter().fold(route.info.pattern.0.to_owned(), |path, (name, good)| path.replace(name, good));
        let body = match name {
            "secrets-set" | "platform-secrets-set" => self.secrets(),
            "api-keys-create" => json!({ "name": "n", "environment": "test" }),
            "sessions-limits-set" => json!({ "maxAgents": 90 }),
            "providers-set" => json!({ "credentialRef": "CREDENTIAL" }),
            "agents-files-write" => json!({ "path": "/data/kept", "data": "kept" }),
            "agents-ports-open" => json!({ "port": 3000 }),
            // Another text each time: a call that failed is answered again for a while.
            "agents-exec" => {
                let code = format!("echo \"$TOKEN\"; echo \"$TOKEN\" >&2 # {}", self.round);
                json!({ "language": "bash", "code": code })
            }
            _ if route.info.has_credential_in_path() => {
                let value = self.tapped.canary.value();
                json!({
                    "agentId": self.agent, "sessionId": self.session, "message": value, "model": value, "name": value,
                    "output": value, "percentage": 5, "inputTokens": 1, "outputTokens": 2,
                })
            }
            _ if route.info.method == "GET" => Value::Null,
            _ => json!({}),
        };
        let query = if name == "metrics-series" { "?metric=error_rate" } else { "" };
        (path.replace("{userId}", "u") + query, body)
    }

    /// A call by somebody who every other time also has the value in the key of a request that is to be done once.
    async fn call(&self, route: &Route, path: &str, body: Value) -> (u16, Value) {
        let once = route.info.method == "POST" && route.info.repeats != Repeats::Again && self.round.is_multiple_of(2);
        self.call_once(route, path, body, once).await
    }

    async fn call_once(&self, route: &Route, path: &str, body: Value, once: bool) -> (u16, Value) {
        let key = format!("{}-{}", URL_SAFE_NO_PAD.encode(self.tapped.canary.value()), self.round);
        let once = once.then_some(key.as_str());
        let request = Request { key: &self.tapped.key, once, method: route.info.method, path, body };
        if ["api-keys-create", "api-keys-rotate", "sessions-tokens-create"].contains(&route.info.name) {
            // It makes a credential, which its answer shows, and nothing else but what was sent with it.
            let (status, body) = self.tapped.ask_unsearched(request).await;
            self.tapped.canary.is_not_in(route.info.name, &body);
            return (status, Value::Null);
        }
        self.tapped.ask(request).await
    }

    /// Has a route fail at each of its requests to the service.
    async fn fail(&mut self, route: &Route, turn: usize) {
        let (path, body) = self.prepare(route).await;
        self.tapped.renew();
        if route.info.repeats == Repeats::Again {
            let (status, answer) = self.call_once(route, &path, body.clone(), true).await;
            assert_eq!(status, 422, "{} refuses such keys: {answer}", route.info.name);
        }
        self.service.tap(&self.tapped).mend();
        let (status, answer) = self.call(route, &path, body).await;
        let requests = self.service.tap(&self.tapped).requests();
        let place = format!("{} asks {:?} {requests} times: {status} {answer}", route.info.name, self.service);
        assert!((200..300).contains(&status) && (requests > 0 || !asks(route, self.service)), "{place}");
        self.end_made().await;
        let breaks = self.service.breaks(self.tapped.canary.value());
        for (number, spared) in FIRST_FAILING.into_iter().enumerate().filter(|(_, spared)| *spared < requests) {
            // All kinds where a value is at hand; else some at each request, which are others at the next. A boot is slow.
            let kinds = match number {
                0 if carries_values(route) => breaks.len(),
                _ if boots(route) => 1,
                _ => 2,
            };
            for how in breaks.iter().cycle().skip(turn + 2 * number).take(kinds) {
                let (path, body) = self.prepare(route).await;
                self.tapped.renew();
                self.service.tap(&self.tapped).fail_after(spared, how.clone());
                let (status, _) = self.call(route, &path, body).await;
                let place = format!("{} with {how:?} of {:?} after {spared}", route.info.name, self.service);
                if self.service == Service::Table && spared == 0 && !matches!(how, Break::AfterBytes(_)) {
                    assert!(status >= 500, "{status}: {place}");
                }
                if status >= 500 {
                    self.failed.push(self.service);
                }
                self.service.tap(&self.tapped).mend();
                self.search(&place, route);
                self.end_made().await;
            }
        }
        if needs_agent(route) && boots(route) {
            // What was interrupted may be half done in it, such as a pause, and refuse what comes next.
            let agent = self.agent.take().expect("the call was of an agent");
            let _ = self.tapped.client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await;
            self.boot().await;
        }
    }

    /// Searches what there is since the last search, and forgets it.
    fn search(&self, place: &str, route: &Route) {
        let log = self.tapped.log.take();
        self.tapped.is_not_in(&format!("the log of {place}"), &log);
        for tap in [&self.tapped.table, &self.tapped.kms] {
            for wire in tap.take_ended() {
                self.tapped.is_not_in(place, &wire.sent);
                self.tapped.is_not_in(place, &wire.received);
            }
        }
        for wire in self.tapped.engine.take_ended() {
            self.tapped.search_engine(&wire, route.info.name == "agents-exec");
        }
    }
}

fn needs_agent(route: &Route) -> bool {
    route.info.pattern.0.starts_with("/v1/agents/{id}") || route.info.has_credential_in_path()
}

fn carries_values(route: &Route) -> bool {
    ["secrets-set", "platform-secrets-set", "agents-create", "agents-exec", "providers-set"].contains(&route.info.name)
}

/// Whether it may act on the one session that the bed has.
fn is_own(name: &str) -> bool {
    ["secrets-set", "agents-create"].contains(&name)
}

/// Whether it pauses, resumes or ends the agents of a session, of which there must be one then.
fn acts_on_agents_of_session(route: &Route) -> bool {
    ["sessions-pause", "sessions-resume", "sessions-terminate"].contains(&route.info.name)
}

/// Whether each of its calls takes a boot, its own or that of the agent that it ends or pauses.
fn boots(route: &Route) -> bool {
    let names = [
        "agents-create",
        "agents-pause",
        "agents-resume",
        "agents-restart",
        "agents-retry",
        "agents-checkpoints-create",
        "agents-terminate",
    ];
    names.contains(&route.info.name) || acts_on_agents_of_session(route)
}

/// Whether a good call of it asks a service for something, so that there is something to fail.
fn asks(route: &Route, service: Service) -> bool {
    let has_keys = ["secrets-set", "platform-secrets-set", "agents-create", "agents-exec", "agents-restart"];
    let has_keys = has_keys.iter().chain(&["agents-resume", "agents-retry", "sessions-resume", "providers-list"]);
    let has_files =
        ["agents-exec", "agents-files-write", "agents-files-read", "agents-files-list", "agents-ports-open"];
    match service {
        // What anybody may read is in no table.
        Service::Table => !["health", "openapi", "docs"].contains(&route.info.name),
        Service::Kms => has_keys.into_iter().any(|name| *name == route.info.name),
        Service::Engine => boots(route) || has_files.contains(&route.info.name) || route.info.name == "providers-list",
    }
}

/// Every route, in parts that can be looked at side by side.
fn parts() -> Vec<(String, Vec<&'static Route>)> {
    let (alone, others): (Vec<&Route>, Vec<&Route>) =
        ROUTES.iter().copied().partition(|route| ["agents-create", "agents-exec"].contains(&route.info.name));
    let (of_agents, others): (Vec<&Route>, Vec<&Route>) = others.into_iter().partition(|route| needs_agent(route));
    let (of_session, others): (Vec<&Route>, Vec<&Route>) = others.into_iter().partition(|route| boots(route));
    let (slow, quick): (Vec<&Route>, Vec<&Route>) = of_agents.into_iter().partition(|route| boots(route));
    let mut parts: Vec<Vec<&Route>> = alone.into_iter().map(|route| vec![route]).collect();
    parts.extend(slow.chunks(3).map(<[_]>::to_vec));
    parts.extend([quick, of_session]);
    parts.extend(others.chunks(6).map(<[_]>::to_vec));
    parts.into_iter().enumerate().map(|(number, routes)| (format!("faults-{number}"), routes)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secrets_value_gets_nowhere_while_the_table_the_key_service_or_the_engine_fails_under_any_endpoint() {
    let parts = parts();
    assert_eq!(parts.iter().map(|(_, routes)| routes.len()).sum::<usize>(), ROUTES.len());
    // Side by side, because most of the time goes by waiting for the SDK to try again; few of the parts boot agents.
    let failing = parts.iter().map(|(name, routes)| async move {
        let with_agent = routes.iter().any(|route| needs_agent(route));
        let mut bed = Bed::make(name, with_agent).await;
        for service in [Service::Table, Service::Kms, Service::Engine] {
            bed.service = service;
            for (turn, route) in routes.iter().enumerate() {
                bed.fail(route, turn).await;
            }
        }
        let Bed { tapped, session, failed, .. } = bed;
        tapped.search(true);
        tapped.client.terminate(&session).await;
        failed
    });
    let failed: Vec<Service> = join_all(failing).await.into_iter().flatten().collect();
    for (service, least) in [(Service::Table, 60), (Service::Kms, 15), (Service::Engine, 25)] {
        let count = failed.iter().filter(|of| **of == service).count();
        assert!(count >= least, "only {count} calls failed for want of {service:?}");
    }
}
