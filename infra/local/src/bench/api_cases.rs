//! A good call of each endpoint, for measuring it again and again.

/// A call, and what it needs. `$session` and `$agent` are there from the beginning; `$work` is a session for whatever begins
/// and ends; `$new` is the first id that an answer of this call's gave; `$count` is another number each time. Where the path
/// has `$token`, that is the token of another agent each time, which is `$reporter` in the session `$work`.
pub(super) struct Case {
    /// The route's name.
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) body: &'static str,
    /// Method, path and body of calls before it, which are not measured.
    pub(super) before: &'static [Call],
    /// And after it.
    pub(super) after: &'static [Call],
    /// What is answered, besides success, when another caller has done the same at the same time.
    pub(super) beaten: Option<u16>,
}

type Call = (&'static str, &'static str, &'static str);

const fn get(name: &'static str, path: &'static str) -> Case {
    call(name, path, "")
}

const fn call(name: &'static str, path: &'static str, body: &'static str) -> Case {
    Case { name, path, body, before: &[], after: &[], beaten: None }
}

const fn with(before: &'static [Call], case: Case, after: &'static [Call]) -> Case {
    Case { before, after, ..case }
}

const fn in_turns(beaten: u16, case: Case) -> Case {
    Case { beaten: Some(beaten), ..case }
}

/// What an agent reports.
const fn report(name: &'static str, path: &'static str, body: &'static str) -> Case {
    with(&[], call(name, path, body), &[END_REPORTER])
}

const BOOT: Call = ("POST", "/v1/sessions/$work/agents", "");
const PAUSE: Call = ("POST", "/v1/agents/$new/pause", "");
const END: Call = ("POST", "/v1/agents/$new/terminate", "");
const END_REPORTER: Call = ("POST", "/v1/agents/$reporter/terminate", "");
const CHECKPOINT: Call = ("POST", "/v1/agents/$new/checkpoints", "");
const LOSE: Call = ("POST", "/v1/agents/$new/exec", r##"{"language": "bash", "code": "# theazo:lose"}"##);
const SESSION: Call = ("POST", "/v1/sessions", "{}");
const PAUSE_SESSION: Call = ("POST", "/v1/sessions/$new/pause", "");
const KEY: &str = r#"{"name": "bench", "environment": "test"}"#;
const MAKE_KEY: Call = ("POST", "/v1/api-keys", KEY);
const END_KEY: Call = ("DELETE", "/v1/api-keys/$new", "");
const SECRET: &str = r#"{"BENCH_$count": "a value of some bytes"}"#;
const SET_SECRET: Call = ("POST", "/v1/sessions/$work/secrets", SECRET);
const END_SECRET: Call = ("DELETE", "/v1/sessions/$work/secrets/BENCH_$count", "");
const SET_SHARED: Call = ("POST", "/v1/secrets", SECRET);
const END_SHARED: Call = ("DELETE", "/v1/secrets/BENCH_$count", "");
const SET_PROVIDER: Call = ("PUT", "/v1/providers/e2b", PROVIDER);
const PROVIDER: &str = r#"{"credentialRef": "SHARED"}"#;
const LOG: &str = r#"{"sessionId": "$work", "agentId": "$reporter", "message": "one line of some length"}"#;
const MODEL: &str =
    r#"{"sessionId": "$work", "agentId": "$reporter", "model": "m", "inputTokens": 100, "outputTokens": 20}"#;
const SPAN: &str = r#"{"sessionId": "$work", "agentId": "$reporter", "name": "search", "durationMs": 12}"#;
const PROGRESS: &str = r#"{"sessionId": "$work", "agentId": "$reporter", "percentage": 40}"#;
const COMPLETE: &str = r#"{"sessionId": "$work", "agentId": "$reporter", "output": "done"}"#;
const EXEC: &str = r##"{"language": "bash", "code": "# theazo:stdout x"}"##;

/// One for each route, in the order of the table of routes.
pub(super) static CASES: &[Case] = &[
    get("health", "/health"),
    get("openapi", "/v1/openapi.json"),
    get("docs", "/docs"),
    get("whoami", "/v1/whoami"),
    with(&[], call("api-keys-create", "/v1/api-keys", KEY), &[END_KEY]),
    get("api-keys-list", "/v1/api-keys"),
    with(&[MAKE_KEY], call("api-keys-rotate", "/v1/api-keys/$new/rotate", r#"{"overlap": 0}"#), &[]),
    with(&[MAKE_KEY], call("api-keys-delete", "/v1/api-keys/$new", ""), &[]),
    call("sessions-create", "/v1/sessions", "{}"),
    call("sessions-by-user", "/v1/sessions/by-user/user-5", ""),
    get("sessions-list", "/v1/sessions"),
    get("sessions-get", "/v1/sessions/$session"),
    get("sessions-limits-get", "/v1/sessions/$session/limits"),
    call("sessions-limits-set", "/v1/sessions/$session/limits", r#"{"maxAgents": 1000}"#),
    get("sessions-usage", "/v1/sessions/$session/usage"),
    call("sessions-tokens-create", "/v1/sessions/$session/tokens", ""),
    with(&[SESSION], call("sessions-tokens-delete", "/v1/sessions/$new/tokens", ""), &[]),
    with(&[SESSION], call("sessions-pause", "/v1/sessions/$new/pause", ""), &[]),
    with(&[SESSION, PAUSE_SESSION], call("sessions-resume", "/v1/sessions/$new/resume", ""), &[]),
    with(&[SESSION], call("sessions-terminate", "/v1/sessions/$new/terminate", ""), &[]),
    with(&[], call("secrets-set", "/v1/sessions/$work/secrets", SECRET), &[END_SECRET]),
    get("secrets-list", "/v1/sessions/$session/secrets"),
    with(&[SET_SECRET], call("secrets-delete", "/v1/sessions/$work/secrets/BENCH_$count", ""), &[]),
    with(&[], call("platform-secrets-set", "/v1/secrets", SECRET), &[END_SHARED]),
    get("platform-secrets-list", "/v1/secrets"),
    with(&[SET_SHARED], call("platform-secrets-delete", "/v1/secrets/BENCH_$count", ""), &[]),
    with(&[], call("agents-create", "/v1/sessions/$work/agents", ""), &[END]),
    get("agents-list-of-session", "/v1/sessions/$session/agents"),
    get("agents-list", "/v1/agents"),
    get("agents-get", "/v1/agents/$agent"),
    get("agents-status", "/v1/agents/$agent/status"),
    call("agents-exec", "/v1/agents/$agent/exec", EXEC),
    call("agents-files-write", "/v1/agents/$agent/files", r#"{"path": "/data/written", "data": "0123456789"}"#),
    get("agents-files-list", "/v1/agents/$agent/files?dir=/data"),
    get("agents-files-read", "/v1/agents/$agent/files/data/kept"),
    get("agents-secrets-list", "/v1/agents/$agent/secrets"),
    get("agents-progress", "/v1/agents/$agent/progress"),
    with(&[BOOT], call("agents-checkpoints-create", "/v1/agents/$new/checkpoints", ""), &[END]),
    get("agents-checkpoints-list", "/v1/agents/$agent/checkpoints"),
    call("agents-ports-open", "/v1/agents/$agent/ports", r#"{"port": 3000}"#),
    with(&[BOOT], call("agents-pause", "/v1/agents/$new/pause", ""), &[END]),
    with(&[BOOT, PAUSE], call("agents-resume", "/v1/agents/$new/resume", ""), &[END]),
    with(&[BOOT], call("agents-restart", "/v1/agents/$new/restart", ""), &[END]),
    with(&[BOOT], call("agents-terminate", "/v1/agents/$new/terminate", ""), &[]),
    with(&[BOOT, CHECKPOINT, LOSE], call("agents-retry", "/v1/agents/$new/retry", ""), &[END]),
    get("agents-logs-stream", "/v1/agents/$agent/logs/stream"),
    get("providers-list", "/v1/providers"),
    in_turns(409, call("providers-set", "/v1/providers/e2b", PROVIDER)),
    in_turns(404, with(&[SET_PROVIDER], call("providers-delete", "/v1/providers/e2b", ""), &[])),
    get("usage-summary", "/v1/usage/summary"),
    get("usage-user", "/v1/usage/users/user-5"),
    get("usage-daily", "/v1/usage/daily"),
    get("usage-by-provider", "/v1/usage/by-provider"),
    get("usage-export", "/v1/usage/export"),
    get("metrics-summary", "/v1/metrics/summary"),
    get("metrics-series", "/v1/metrics?metric=exec.duration"),
    get("audit-list", "/v1/audit"),
    get("logs-list", "/v1/logs"),
    get("logs-stream", "/v1/logs/stream"),
    report("sandbox-log", "/a/$token/v1/sandbox/log", LOG),
    report("sandbox-model", "/a/$token/v1/sandbox/model", MODEL),
    report("sandbox-span", "/a/$token/v1/sandbox/span", SPAN),
    report("sandbox-progress", "/a/$token/v1/sandbox/progress", PROGRESS),
    report("sandbox-complete", "/a/$token/v1/sandbox/complete", COMPLETE),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use theazo_functions::routes::ROUTES;

    #[test]
    fn every_route_has_a_call() {
        let known: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
        let routes: BTreeSet<&str> = ROUTES.iter().map(|route| route.info.name).collect();
        assert_eq!(known, routes);
    }
}
