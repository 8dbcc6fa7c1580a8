//! The calls of the scripts: what each platform takes in turn, and what the other one does beside that.

use serde_json::{Value, json};
use theazo_functions::routes::{ROUTES, Route};
use theazo_http::Pattern;
use theazo_tenancy::{Mode, PlatformId};

/// What a platform has and can name.
#[derive(Clone)]
pub struct Things {
    pub mode: Mode,
    pub platform: PlatformId,
    pub sessions: Vec<String>,
    pub agents: Vec<String>,
    pub keys: Vec<String>,
    /// What reports of itself: only of a platform that makes calls beside another's, and of nothing that these end.
    pub reporter: Option<Reporter>,
}

/// An agent that is not among the things, and its token.
#[derive(Clone)]
pub struct Reporter {
    pub session: String,
    pub agent: String,
    pub token: String,
}

/// One call: which, and about which of the things.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub call: usize,
    pub which: usize,
    /// A variant of names and values.
    pub variant: usize,
}

pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub body: Option<Value>,
    /// An idempotency key.
    pub once: Option<String>,
    /// By the session's token rather than the key.
    pub by_token: bool,
}

/// How many of the calls that [`request`] knows both platforms make,
pub const CALLS: usize = 50;
/// and how many there are with those that only the other one makes: what some of them answer is measured, or goes on and on.
pub const ALL_CALLS: usize = 75;
/// A list of which only the first is asked for; whoever owns it asks for the next as well.
pub const FIRST_PAGE: &str = "/v1/agents?limit=1";
/// Where a path has an agent's token.
pub const AGENT_TOKEN: &str = "AGENT_TOKEN";
/// Routes that have nothing of any platform's.
const OF_NOBODY: [&str; 3] = ["health", "openapi", "docs"];

pub fn request(step: Step, things: &Things) -> Request {
    let pick = |things: &[String], absent: &str| match things.len() {
        0 => absent.to_owned(),
        len => things[step.which % len].clone(),
    };
    let session = pick(&things.sessions, "ses_00000000000000000000000000");
    let agent = pick(&things.agents, "agt_00000000000000000000000000");
    let key = pick(&things.keys, "key_00000000000000000000000000");
    let name = format!("NAME_{}", step.variant % 3);
    let user = step.variant % 3;
    // What a simulated agent goes by is a comment to one that runs.
    let (exit, is_live) = (step.variant % 2, things.mode == Mode::Live);
    let simulated = format!("# theazo:stdout {}\n# theazo:env NAME_0\n# theazo:exit {exit}", step.variant);
    let code = format!("{simulated}\necho {} $NAME_0\nexit {exit}", step.variant);
    let agent_body = |more: Value| match is_live {
        true => json!({ "provider": "e2b", "metadata": more }),
        false => json!({ "metadata": more }),
    };
    let of_session = |rest: &str| format!("/v1/sessions/{session}{rest}");
    let of_agent = |rest: &str| format!("/v1/agents/{agent}{rest}");
    let variant = step.variant;
    let (method, path, body) = match step.call {
        0 | 1 => ("POST", of_session("/secrets"), Some(json!({ &name: format!("a value {variant}") }))),
        2 => ("DELETE", of_session(&format!("/secrets/{name}")), None),
        3 => ("GET", of_session("/secrets?details=true&inherited=true"), None),
        4 => ("POST", "/v1/secrets".into(), Some(json!({ &name: format!("a shared value {variant}") }))),
        5 => ("DELETE", format!("/v1/secrets/{name}"), None),
        6 => ("GET", "/v1/secrets?details=true".into(), None),
        7..=9 | 38 => ("POST", of_session("/agents"), Some(agent_body(json!({ "k": variant.to_string() })))),
        10 | 11 => ("POST", of_agent("/exec"), Some(json!({ "language": "bash", "code": code }))),
        12 => {
            ("POST", of_agent("/files"), Some(json!({ "path": format!("/data/{user}"), "data": variant.to_string() })))
        }
        13 => ("GET", of_agent(&format!("/files/data/{user}")), None),
        14 => ("GET", of_agent("/files?dir=/data"), None),
        15 => ("POST", of_agent("/terminate"), None),
        16 => ("GET", FIRST_PAGE.into(), None),
        17 => ("GET", "/v1/agents?status=ready&limit=2".into(), None),
        18 => ("GET", of_session("/agents"), None),
        19 | 20 => ("GET", of_agent(""), None),
        21 => ("GET", of_agent("/status"), None),
        // Never fewer than run: reconciling, which is anybody's, would pause some.
        22 => ("PATCH", of_session("/limits"), Some(json!({ "maxAgents": 20 + variant }))),
        23 => ("GET", of_session("/limits"), None),
        24 => ("GET", of_session("/usage"), None),
        25 => ("POST", of_session("/terminate"), None),
        26 => ("POST", format!("/v1/sessions/by-user/user-{user}"), None),
        // In some, the second agent is one too many.
        27 => {
            let limits = if variant.is_multiple_of(2) { json!({}) } else { json!({ "maxAgents": 1 }) };
            ("POST", "/v1/sessions".into(), Some(json!({ "userId": format!("user-{user}"), "limits": limits })))
        }
        28 => ("GET", "/v1/sessions".into(), None),
        29 | 30 => ("GET", of_session(""), None),
        31 => ("POST", "/v1/api-keys".into(), Some(json!({ "name": name, "environment": "test" }))),
        32 => ("DELETE", format!("/v1/api-keys/{key}"), None),
        33 => ("GET", "/v1/api-keys".into(), None),
        // Live agents need the account that is configured.
        34 | 35 if is_live => ("GET", "/v1/providers".into(), None),
        34 => ("PUT", "/v1/providers/e2b".into(), Some(json!({ "credentialRef": name }))),
        35 => ("DELETE", "/v1/providers/e2b".into(), None),
        36 => ("GET", "/v1/providers".into(), None),
        37 => ("DELETE", of_session("/tokens"), None),
        39 => ("GET", "/v1/audit?limit=100".into(), None),
        40 | 41 => ("POST", of_agent("/pause"), None),
        42 | 43 => ("POST", of_agent("/resume"), None),
        44 => ("POST", of_agent("/restart"), None),
        45 => ("POST", of_session("/pause"), None),
        46 => ("POST", of_session("/resume"), None),
        47 => ("GET", "/v1/usage/summary".into(), None),
        48 => ("GET", of_agent("/progress"), None),
        49 => ("GET", of_agent("/secrets"), None),
        50 => ("POST", format!("/v1/api-keys/{key}/rotate"), Some(json!({}))),
        51 => ("POST", of_session("/tokens"), Some(json!({}))),
        52 | 53 => ("POST", of_agent("/checkpoints"), Some(json!({ "phase": name }))),
        54 => ("GET", of_agent("/checkpoints"), None),
        55 => ("POST", of_agent("/ports"), Some(json!({ "port": 8000 + variant }))),
        56 => ("POST", of_agent("/retry"), None),
        57..=62 => {
            let (kind, mut body) = report(step);
            let reporter = things.reporter.as_ref();
            body["agentId"] = reporter.map_or(agent, |reporter| reporter.agent.clone()).into();
            body["sessionId"] = reporter.map_or(session, |reporter| reporter.session.clone()).into();
            ("POST", format!("/a/{AGENT_TOKEN}/v1/sandbox/{kind}"), Some(body))
        }
        63 => ("GET", format!("/v1/logs?sessionId={session}"), None),
        64 => ("GET", format!("/v1/logs/stream?agentId={agent}"), None),
        65 => ("GET", of_agent("/logs/stream"), None),
        66 => ("GET", "/v1/metrics/summary".into(), None),
        67 => ("GET", "/v1/metrics?metric=agents.active".into(), None),
        68 => ("GET", format!("/v1/usage/users/user-{user}"), None),
        69 => ("GET", "/v1/usage/daily".into(), None),
        70 => ("GET", "/v1/usage/by-provider".into(), None),
        71 => ("GET", "/v1/usage/export?format=csv".into(), None),
        72 => ("GET", "/v1/whoami".into(), None),
        // Not the provider that agents of either may be at.
        73 => ("PUT", "/v1/providers/fly".into(), Some(json!({ "credentialRef": name }))),
        _ => ("DELETE", "/v1/providers/fly".into(), None),
    };
    // Both platforms use the same keys for different requests.
    let once = (method == "POST" && [0, 4, 7, 27, 31, 50, 51, 52].contains(&step.call)).then(|| format!("once-{user}"));
    let by_token = [3, 8, 10, 13, 18, 20, 21, 24, 30, 53, 55, 65].contains(&step.call);
    Request { method, path, body, once, by_token }
}

/// What an agent tells of itself.
fn report(step: Step) -> (&'static str, Value) {
    let (at, message) = ("2026-01-02T03:04:05Z", format!("a report {}", step.variant));
    match step.call {
        57 | 58 => ("log", json!({ "level": "info", "message": message, "timestamp": at })),
        59 => ("model", json!({ "model": "m", "inputTokens": 7, "outputTokens": 5, "cost": 0.25, "timestamp": at })),
        60 => {
            let times = json!({ "startTime": at, "endTime": at, "durationMs": 0 });
            let mut span = json!({ "name": message, "status": "ok" });
            span.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
            ("span", span)
        }
        61 => ("progress", json!({ "percentage": 40, "message": message, "timestamp": at })),
        _ => ("complete", json!({ "output": { "n": step.variant }, "artifacts": [], "timestamp": at })),
    }
}

/// The route of a request.
fn route(request: &Request) -> &'static Route {
    let path = request.path.split('?').next().unwrap();
    let candidates = ROUTES.iter().copied().filter(|route| route.info.method == request.method);
    let candidates: Vec<&'static Route> = candidates.collect();
    let best = Pattern::best(&candidates, |route| route.info.pattern, path);
    best.unwrap_or_else(|| panic!("{} {path} is no route", request.method)).0
}

#[test]
fn between_them_the_platforms_call_every_route_that_has_something_of_a_platforms() {
    let id = |kind: &str| vec![format!("{kind}_{}", "0".repeat(26))];
    let things = |mode| Things {
        mode,
        platform: PlatformId::make(),
        sessions: id("ses"),
        agents: id("agt"),
        keys: id("key"),
        reporter: None,
    };
    for mode in [Mode::Test, Mode::Live] {
        let things = things(mode);
        let call = |call| route(&request(Step { call, which: 0, variant: 0 }, &things)).info.name;
        let called: Vec<&str> = (0..ALL_CALLS).map(call).collect();
        let names = ROUTES.iter().map(|route| route.info.name);
        let left_out: Vec<&str> = names.filter(|name| !called.contains(name) && !OF_NOBODY.contains(name)).collect();
        assert_eq!(left_out, Vec::<&str>::new(), "{mode:?}");
    }
}
