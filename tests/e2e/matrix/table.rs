//! What every route answers to every kind of caller: the exact status of each cell.
//!
//! A route has one line, by its name in the route table. The callers whose credential is not good (none, malformed, of a
//! wrong checksum, unknown, revoked, expired) have no column: theirs is 401, but on routes that anyone may call. In paths
//! and bodies `$session`, `$agent`, `$key`, `$secret`, `$shared`, `$credential`, `$provider`, `$config` and `$user` stand for
//! what the target has.

use serde_json::Value;
use theazo_tenancy::Mode;

/// What is asked, and what is answered to whom.
pub struct Row {
    /// The route's name.
    pub route: &'static str,
    /// A body that the owner's call succeeds with; empty for none.
    pub body: &'static str,
    /// Calls that the caller makes before the one that is to succeed: method, path, body.
    pub before: &'static [(&'static str, &'static str, &'static str)],
    /// By [`Caller`], in that order.
    pub statuses: [u16; CALLERS.len()],
}

/// Who calls for the target, with a credential that is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The key of the target's own platform and mode.
    Own,
    /// The token of the target's own session.
    Exec,
    /// The same without `exec`.
    Read,
    /// The token of another session of the platform.
    Sibling,
    /// The key of another platform.
    Stranger,
    /// The token of another platform's session.
    StrangersSession,
    /// A test key, for a live target of its platform.
    TestOnLive,
    /// A live key, for a test target of its platform.
    LiveOnTest,
    /// The token of the target agent itself.
    Agent,
    /// The token of another session's agent: of the same platform, for a live target of another one.
    OtherAgent,
}

impl Caller {
    /// Whether the target is none of the caller's, so that it must look to them as if it did not exist.
    pub fn is_foreign(self) -> bool {
        match self {
            Self::Own | Self::Exec | Self::Read | Self::Agent => false,
            Self::Sibling
            | Self::Stranger
            | Self::StrangersSession
            | Self::TestOnLive
            | Self::LiveOnTest
            | Self::OtherAgent => true,
        }
    }

    /// Whether the target is in the other mode of the same platform.
    pub fn is_of_other_mode(self) -> bool {
        matches!(self, Self::TestOnLive | Self::LiveOnTest)
    }

    /// Whether there can be such a caller for a target in that mode.
    pub fn calls_for(self, target: Mode) -> bool {
        match self {
            Self::TestOnLive => target == Mode::Live,
            Self::LiveOnTest => target == Mode::Test,
            _ => true,
        }
    }
}

/// The columns.
pub const CALLERS: [Caller; 10] = [
    Caller::Own,
    Caller::Exec,
    Caller::Read,
    Caller::Sibling,
    Caller::Stranger,
    Caller::StrangersSession,
    Caller::TestOnLive,
    Caller::LiveOnTest,
    Caller::Agent,
    Caller::OtherAgent,
];

const fn row(route: &'static str, body: &'static str, statuses: [u16; CALLERS.len()]) -> Row {
    Row { route, body, before: &[], statuses }
}

const EXEC: &str = r##"{"language": "bash", "code": "# theazo:stdout done"}"##;
const PORT: &str = r#"{"port": 3000}"#;
const CHECKPOINT: &str = r#"{"phase": "x", "progress": 5}"#;
/// In place of a method: the agent that is named fails.
pub const FAIL: &str = "FAIL";
const FILE: &str = r#"{"path": "/data/was-here", "data": "x"}"#;
const KEY: &str = r#"{"name": "another", "environment": "test"}"#;
const LOG: &str = r#"{"agentId": "$agent", "sessionId": "$session", "level": "info", "message": "x"}"#;
const MODEL: &str =
    r#"{"agentId": "$agent", "sessionId": "$session", "model": "m", "inputTokens": 1, "outputTokens": 1}"#;
const SPAN: &str = r#"{"agentId": "$agent", "sessionId": "$session", "name": "x"}"#;
const PROGRESS: &str = r#"{"agentId": "$agent", "sessionId": "$session", "percentage": 5}"#;
const COMPLETE: &str = r#"{"agentId": "$agent", "sessionId": "$session", "output": "x"}"#;
const PROVIDER: &str = r#"{"credentialRef": "$credential", "config": $config}"#;

/// Every route.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    //                                                own exec read sibl stra strs T->L L->T agnt oagt
    row("health", "",                                [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    row("openapi", "",                               [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    row("docs", "",                                  [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    row("whoami", "",                                [200, 200, 200, 200, 200, 200, 200, 200, 403, 403]),

    row("api-keys-create", KEY,                      [201, 403, 403, 403, 201, 403, 201, 201, 403, 403]),
    row("api-keys-list", "",                         [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    // A live key manages test keys too.
    row("api-keys-rotate", "",                       [201, 403, 403, 403, 404, 403, 404, 201, 403, 403]),
    row("api-keys-delete", "",                       [204, 403, 403, 403, 404, 403, 404, 204, 403, 403]),

    row("sessions-create", "{}",                     [201, 403, 403, 403, 201, 403, 201, 201, 403, 403]),
    row("sessions-by-user", "",                      [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    row("sessions-list", "",                         [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    row("sessions-get", "",                          [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("sessions-limits-get", "",                   [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("sessions-limits-set", r#"{"maxAgents": 9}"#,[200, 403, 403, 403, 404, 403, 404, 404, 403, 403]),
    row("sessions-usage", "",                        [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("sessions-tokens-create", "",                [201, 403, 403, 403, 404, 403, 404, 404, 403, 403]),
    row("sessions-tokens-delete", "",                [204, 403, 403, 403, 404, 403, 404, 404, 403, 403]),
    row("sessions-pause", "",                        [200, 403, 403, 403, 404, 403, 404, 404, 403, 403]),
    Row {
        before: &[("POST", "/v1/sessions/$session/pause", "")],
        ..row("sessions-resume", "",                 [200, 403, 403, 403, 404, 403, 404, 404, 403, 403])
    },
    row("sessions-terminate", "",                    [200, 403, 403, 403, 404, 403, 404, 404, 403, 403]),

    row("secrets-set", r#"{"ANOTHER": "x"}"#,        [204, 403, 403, 403, 404, 403, 404, 404, 403, 403]),
    row("secrets-list", "",                          [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("secrets-delete", "",                        [204, 403, 403, 403, 404, 403, 404, 404, 403, 403]),
    row("platform-secrets-set", r#"{"ANOTHER": "x"}"#,[204, 403, 403, 403, 204, 403, 204, 204, 403, 403]),
    row("platform-secrets-list", "",                 [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    Row {
        before: &[("POST", "/v1/secrets", r#"{"$shared": "x"}"#)],
        ..row("platform-secrets-delete", "",         [204, 403, 403, 403, 404, 403, 404, 404, 403, 403])
    },

    row("agents-create", "",                         [201, 201, 403, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-list-of-session", "",                [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-list", "",                           [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    row("agents-get", "",                            [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-status", "",                         [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-exec", EXEC,                         [200, 200, 403, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-files-write", FILE,                  [204, 204, 403, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-files-list", "",                     [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-files-read", "",                     [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-secrets-list", "",                   [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-progress", "",                       [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-checkpoints-create", CHECKPOINT,     [201, 201, 403, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-checkpoints-list", "",               [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-ports-open", PORT,                   [200, 200, 403, 404, 404, 404, 404, 404, 403, 403]),
    row("agents-pause", "",                          [200, 200, 403, 404, 404, 404, 404, 404, 403, 403]),
    // Each resumes what they paused themselves.
    Row {
        before: &[("POST", "/v1/agents/$agent/pause", "")],
        ..row("agents-resume", "",                   [200, 200, 403, 404, 404, 404, 404, 404, 403, 403])
    },
    row("agents-restart", "",                        [200, 200, 403, 404, 404, 404, 404, 404, 403, 403]),
    Row {
        before: &[("POST", "/v1/agents/$agent/checkpoints", "{}"), (FAIL, "$agent", "")],
        ..row("agents-retry", "",                    [200, 200, 403, 404, 404, 404, 404, 404, 403, 403])
    },
    row("agents-terminate", "",                      [200, 200, 403, 404, 404, 404, 404, 404, 403, 403]),

    row("providers-list", "",                        [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    // Others have no secret of that name.
    row("providers-set", PROVIDER,                   [200, 403, 403, 403, 400, 403, 400, 400, 403, 403]),
    Row {
        before: &[("PUT", "/v1/providers/$provider", PROVIDER)],
        ..row("providers-delete", "",                [204, 403, 403, 403, 404, 403, 404, 404, 403, 403])
    },

    row("usage-summary", "",                         [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    // An end user is known to nobody but their own platform: for others it is as if they had used nothing.
    row("usage-user", "",                            [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    row("usage-daily", "",                           [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    row("usage-by-provider", "",                     [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    row("usage-export", "",                          [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),

    row("metrics-summary", "",                       [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),
    row("metrics-series", "",                        [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),

    row("audit-list", "",                            [200, 403, 403, 403, 200, 403, 200, 200, 403, 403]),

    row("logs-list", "",                             [200, 200, 200, 200, 200, 200, 200, 200, 403, 403]),
    row("logs-stream", "",                           [200, 200, 200, 200, 200, 200, 200, 200, 403, 403]),
    row("agents-logs-stream", "",                    [200, 200, 200, 404, 404, 404, 404, 404, 403, 403]),

    // The credential is in the path; whoever is not the agent that the body names is told that, and no more.
    row("sandbox-log", LOG,                          [403, 403, 403, 403, 403, 403, 403, 403, 204, 400]),
    row("sandbox-model", MODEL,                      [403, 403, 403, 403, 403, 403, 403, 403, 204, 400]),
    row("sandbox-span", SPAN,                        [403, 403, 403, 403, 403, 403, 403, 403, 204, 400]),
    row("sandbox-progress", PROGRESS,                [403, 403, 403, 403, 403, 403, 403, 403, 204, 400]),
    row("sandbox-complete", COMPLETE,                [403, 403, 403, 403, 403, 403, 403, 403, 204, 400]),
];

/// Routes that answer to everybody, with what of somebody else's a query or a path of theirs can name.
pub const NAMING: [(&str, &[&str]); 5] = [
    ("sessions-list", &["?userId=$user"]),
    ("usage-user", &[""]),
    ("audit-list", &["?session=$session", "?secret=$secret", "?key=$key"]),
    ("logs-list", &["?sessionId=$session", "?agentId=$agent", "?sessionId=$session&agentId=$agent"]),
    ("logs-stream", &["?sessionId=$session", "?agentId=$agent", "?sessionId=$session&agentId=$agent"]),
];

/// What a call is about: whose things the path and the body name.
#[derive(Clone, Debug)]
pub struct Target {
    pub session: String,
    pub agent: String,
    pub key: String,
    /// The name of a secret of the session.
    pub secret: String,
    /// The name of a secret of the platform.
    pub shared: String,
    /// Likewise, for a provider's credential.
    pub credential: String,
    /// A provider that is configured.
    pub provider: String,
    /// How it is configured, in JSON.
    pub config: String,
    pub user: String,
}

impl Target {
    /// A text of the table about this target.
    pub fn fill(&self, text: &str) -> String {
        let words = [
            ("$session", &self.session),
            ("$agent", &self.agent),
            ("$key", &self.key),
            ("$secret", &self.secret),
            ("$shared", &self.shared),
            ("$credential", &self.credential),
            ("$provider", &self.provider),
            ("$config", &self.config),
            ("$user", &self.user),
        ];
        words.into_iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }

    /// A route's path about this target.
    pub fn path(&self, pattern: &str) -> String {
        let nouns = [("/v1/sessions/", &self.session), ("/v1/agents/", &self.agent), ("/v1/api-keys/", &self.key)];
        let id = nouns.iter().find(|(noun, _)| pattern.starts_with(&format!("{noun}{{id}}"))).map(|(_, id)| *id);
        let secret = if pattern.starts_with("/v1/secrets") { &self.shared } else { &self.secret };
        let path = match id {
            Some(id) => pattern.replace("{id}", id),
            None => pattern.to_owned(),
        };
        let path = path.replace("{name}", secret).replace("{path*}", "data/kept").replace("{userId}", &self.user);
        let path = path.replace("{provider}", &self.provider);
        // One of its parameters must be given.
        let path = if pattern == "/v1/metrics" { format!("{path}?metric=exec.duration") } else { path };
        // The caller's own.
        let whole = path.replace("{token}", "");
        assert!(!whole.contains('{'), "{pattern}: say what its parameter stands for");
        path
    }

    /// A row's body about this target.
    pub fn body(&self, text: &str) -> Option<Value> {
        (!text.is_empty()).then(|| serde_json::from_str(&self.fill(text)).unwrap())
    }
}
