//! Agents: what they are, what runs in them, their files, and what they say of themselves.

use crate::shape::{
    about, amount, answer, anything, between, component, count, duration, example, examples, flag, id, list, nullable,
    one_of, pattern, request, text, text_to, texts, time,
};
use serde_json::{Value, json};

const STATUSES: [&str; 6] = ["booting", "ready", "running", "paused", "completed", "failed"];
const PROVIDERS: [&str; 4] = ["docker", "e2b", "fly", "simulated"];
const COMPUTES: [&str; 3] = ["python", "node", "go"];

pub(super) fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("Agent", agent()),
        ("AgentFailure", failure()),
        ("NewAgent", new_agent()),
        ("AgentStanding", standing()),
        ("AgentProgress", progress()),
        ("AgentSecrets", secrets()),
        ("NewCheckpoint", new_checkpoint()),
        ("Checkpoint", checkpoint()),
        (
            "Checkpoints",
            example(answer(&[("data", list(component("Checkpoint")))]), json!({ "data": [shown_checkpoint()] })),
        ),
        ("PortToOpen", example(request(&[("port", between(1, 65_535))]), json!({ "port": 3000 }))),
        ("OpenPort", open_port()),
        ("ResumeAgent", example(resume_agent(), json!({}))),
        (
            "RetryAgent",
            example(
                request(&[(
                    "checkpoint?",
                    about(id("ckpt"), "Unless given, the agent's own files where they were kept, or the last one."),
                )]),
                json!({}),
            ),
        ),
        ("Snapshot", snapshot()),
        ("Exec", exec()),
        ("ExecResult", exec_result()),
        ("ExecEvent", exec_event()),
        ("FileToWrite", file_to_write()),
        ("File", file()),
        ("FileList", file_list()),
        ("ReportedLog", reported_log()),
        ("ReportedModel", reported_model()),
        ("ReportedSpan", reported_span()),
        ("ReportedProgress", reported_progress()),
        ("ReportedResult", reported_result()),
    ]
}

/// The statuses of agents, for filters.
pub(crate) fn statuses() -> Value {
    one_of(&STATUSES)
}

/// The providers, for filters.
pub(crate) fn providers() -> Value {
    one_of(&PROVIDERS)
}

/// The runtimes, for filters.
pub(crate) fn computes() -> Value {
    one_of(&COMPUTES)
}

fn agent() -> Value {
    let schema = answer(&[
        ("id", id("agt")),
        ("sessionId", id("ses")),
        ("userId", nullable(text())),
        ("status", statuses()),
        ("provider", providers()),
        ("compute", computes()),
        ("model", nullable(text())),
        ("instructions", nullable(text())),
        ("tools", anything()),
        ("browser", flag()),
        ("region", nullable(text())),
        (
            "providerDetails",
            about(
                answer(&[("isolation", nullable(text()))]),
                "What its last boot got: `runc` (the host's kernel), `runsc` (gVisor), `microvm`, `simulated`.",
            ),
        ),
        ("metadata", texts()),
        ("failure", nullable(component("AgentFailure"))),
        ("createdAt", time()),
    ]);
    example(
        schema,
        json!({
            "id": "agt_01jd9s6q0f3v8x2n4m5k7h9tbc", "sessionId": "ses_01jd9s6q0f3v8x2n4m5k7h9tbc", "userId": "user_123",
            "status": "ready", "provider": "docker", "compute": "python", "model": null, "instructions": null,
            "tools": null, "browser": false, "region": null, "providerDetails": { "isolation": "runc" }, "metadata": {},
            "failure": null, "createdAt": "2026-11-26T09:00:00.000Z",
        }),
    )
}

fn failure() -> Value {
    let schema = answer(&[
        (
            "reason",
            about(
                one_of(&["host_silent", "host_removed"]),
                "Why the platform's own Docker host that it was on could not be asked about it any more: it did not answer \
                 for a quarter of an hour (or what the operator has configured), or the platform's credential does not name \
                 it. The files stay on it, and the agent can be retried once it answers again.",
            ),
        ),
        ("message", text()),
        ("since", time()),
    ]);
    example(
        schema,
        json!({
            "reason": "host_silent", "message": "the agent's host has not answered any more",
            "since": "2026-11-26T09:00:00.000Z",
        }),
    )
}

fn new_agent() -> Value {
    let cost_cap = request(&[("amount", between(1, 2_000_000_000)), ("currency?", one_of(&["usd"]))]);
    let mut secrets = list(text());
    secrets["maxItems"] = 200.into();
    let schema = request(&[
        ("compute?", about(computes(), "`python` unless given.")),
        (
            "provider?",
            about(
                providers(),
                "The deployment's own Docker engine unless given; where there is none, what the platform has configured.",
            ),
        ),
        (
            "providerFallback?",
            about(
                json!({ "anyOf": [providers(), { "type": "array", "items": providers(), "maxItems": 3 }] }),
                "Where to try next, in this order, when that provider fails or has no room.",
            ),
        ),
        (
            "region?",
            about(region(), "Where it runs, by the provider's own code, for a provider that lets one choose: Fly."),
        ),
        ("timeout?", duration("1 hour", "24 hours")),
        ("costCap?", about(cost_cap, "At which it is paused.")),
        ("secrets?", about(secrets, "The names of those it boots with; all that it may have unless given.")),
        ("metadata?", component("Metadata")),
        ("model?", text_to(256)),
        ("instructions?", text_to(65_536)),
        ("tools?", about(anything(), "Any JSON of at most 64 KiB.")),
        ("network?", request(&[("internet?", about(flag(), "`false` cuts it off."))])),
        (
            "lifecycle?",
            request(&[(
                "autoPause?",
                about(duration("Never", "24 hours"), "Pauses it after such a time without a call."),
            )]),
        ),
    ]);
    let schema =
        about(schema, "Fields that ask for something not built, such as `browser` or `gpu`, are refused by name.");
    example(schema, json!({ "compute": "python", "timeout": "30m", "secrets": ["HUBSPOT_API_KEY"] }))
}

fn region() -> Value {
    pattern("^[a-z0-9-]{1,32}$")
}

/// Its files are where they are; naming the place makes sure of it.
fn resume_agent() -> Value {
    let elsewhere = "Where its files are; any other is a conflict.";
    request(&[
        ("provider?", about(one_of(&PROVIDERS), elsewhere)),
        ("region?", about(region(), elsewhere)),
        ("checkpoint?", about(id("ckpt"), "On whose files it boots; those of now unless given.")),
    ])
}

fn standing() -> Value {
    let schema = answer(&[
        ("status", statuses()),
        ("duration", about(text(), "How long it has run, for people.")),
        ("durationMs", count()),
        ("cost", component("Money")),
        ("task", nullable(text())),
        ("provider", providers()),
        ("region", nullable(text())),
    ]);
    let cost = json!({ "amount": 2, "currency": "usd" });
    example(
        schema,
        json!({
            "status": "ready", "duration": "3m 12s", "durationMs": 192_000, "cost": cost, "task": null,
            "provider": "docker", "region": null,
        }),
    )
}

fn progress() -> Value {
    let schema = answer(&[
        ("phase", about(nullable(text()), "Of the last checkpoint.")),
        ("progress", about(nullable(percent()), "Likewise.")),
        ("checkpoints", about(count(), "How many are kept.")),
        ("totalDuration", text()),
        ("totalDurationMs", count()),
        ("activeDuration", text()),
        ("activeDurationMs", count()),
        ("status", one_of(&["active", "hibernated", "terminated"])),
        ("lastCheckpointAt", nullable(time())),
    ]);
    example(
        schema,
        json!({
            "phase": "collecting", "progress": 40, "checkpoints": 2, "totalDuration": "10m 0s", "totalDurationMs": 600_000,
            "activeDuration": "3m 12s", "activeDurationMs": 192_000, "status": "active",
            "lastCheckpointAt": "2026-11-26T09:05:00.000Z",
        }),
    )
}

fn percent() -> Value {
    json!({ "type": "number", "minimum": 0, "maximum": 100 })
}

fn new_checkpoint() -> Value {
    let mut metadata = texts();
    metadata["maxProperties"] = 16.into();
    let schema = request(&[
        ("phase?", about(text_to(256), "What the agent is at.")),
        ("progress?", about(percent(), "How far it is; kept to hundredths.")),
        ("metadata?", about(metadata, "At most 2 KiB in all.")),
    ]);
    example(schema, json!({ "phase": "collecting", "progress": 40, "metadata": { "batch": "7" } }))
}

fn shown_checkpoint() -> Value {
    json!({
        "id": "ckpt_01jd9s6q0f3v8x2n4m5k7h9tbc", "agentId": "agt_01jd9s6q0f3v8x2n4m5k7h9tbc",
        "snapshotId": "snap_01jd9s6q0f3v8x2n4m5k7h9tbc", "phase": "collecting", "progress": 40,
        "metadata": { "batch": "7" }, "createdAt": "2026-11-26T09:05:00.000Z",
    })
}

fn checkpoint() -> Value {
    let schema = answer(&[
        ("id", id("ckpt")),
        ("agentId", id("agt")),
        ("snapshotId", id("snap")),
        ("phase", nullable(text())),
        ("progress", nullable(percent())),
        ("metadata", texts()),
        ("createdAt", time()),
    ]);
    example(schema, shown_checkpoint())
}

fn open_port() -> Value {
    let schema = answer(&[
        ("url", about(text(), "Where the port's own `/` is.")),
        ("headers", about(texts(), "What every request must carry. They are secret.")),
    ]);
    let headers = json!({ "theazo-port-token": "0f9c2f1e6b0d4c7d8a1b5e3f7a2c9d4e0f9c2f1e6b0d4c7d8a1b5e3f7a2c9d4e" });
    example(schema, json!({ "url": "http://docker-1.example.com:40123/", "headers": headers }))
}

fn secrets() -> Value {
    let entry = answer(&[
        ("name", text()),
        ("version", count()),
        ("scope", one_of(&["session", "platform"])),
        ("stale", about(flag(), "The vault has another value, or none; its next boot brings that.")),
        ("deleted?", flag()),
    ]);
    let shown = json!([{ "name": "DATABASE_URL", "version": 1, "scope": "session", "stale": false }]);
    example(list(entry), shown)
}

fn snapshot() -> Value {
    let schema = answer(&[("id", nullable(id("snap"))), ("size", text()), ("provider", providers())]);
    let shown = json!({ "id": "snap_01jd9s6q0f3v8x2n4m5k7h9tbc", "size": "12.4 MB", "provider": "docker" });
    example(schema, shown)
}

fn exec() -> Value {
    let schema = request(&[
        ("language", one_of(&["python", "node", "bash", "go"])),
        ("code", text_to(1_048_576)),
        ("timeout?", duration("2 minutes", "10 minutes")),
        ("stdin?", text_to(4_194_304)),
        ("encoding?", about(one_of(&["utf-8", "base64"]), "Of the outputs. In UTF-8, other bytes become U+FFFD.")),
        ("stream?", about(flag(), "Whether the answer is events, with the output as it is written.")),
    ]);
    example(schema, json!({ "language": "python", "code": "print(6 * 7)" }))
}

fn exec_result() -> Value {
    let schema = answer(&[
        ("stdout", text()),
        ("stderr", text()),
        ("exitCode", json!({ "type": "integer" })),
        ("truncated?", about(list(one_of(&["stdout", "stderr"])), "What was cut, at 1 MiB.")),
    ]);
    // Once white space has kept the connection alive, the status is sent and cannot say of a failure any more.
    let late = about(component("Error"), "Of code that ran for minutes and then failed.");
    example(json!({ "anyOf": [schema, late] }), json!({ "stdout": "42\n", "stderr": "", "exitCode": 0 }))
}

fn exec_event() -> Value {
    let data = "JSON: of `output` an object with `stdout` or `stderr`, of `result` one with `exitCode` and perhaps `truncated`, of `error` an `Error`, of `reconnect` one with `reason`. `[DONE]`, of no named event, which readers call `message`, is the end.";
    let schema = answer(&[
        ("event?", one_of(&["output", "result", "error", "reconnect", "message"])),
        ("data", about(text(), data)),
    ]);
    let event = |name: &str, data: Value| json!({ "event": name, "data": data.to_string() });
    let output = event("output", json!({ "stdout": "42\n" }));
    examples(schema, &[output, event("result", json!({ "exitCode": 0 })), json!({ "data": "[DONE]" })])
}

fn file_to_write() -> Value {
    let schema = request(&[
        ("path", about(text_to(4096), "Beneath `/data` or `/tmp`. Directories are made.")),
        ("data", about(text(), "At most 4 MiB.")),
        ("encoding?", one_of(&["utf-8", "base64"])),
        ("offset?", about(between(0, 1 << 40), "Writes there and leaves the rest.")),
        ("append?", flag()),
    ]);
    example(schema, json!({ "path": "/data/notes.txt", "data": "hello" }))
}

fn file() -> Value {
    let schema = answer(&[
        ("data", text()),
        ("encoding", one_of(&["utf-8", "base64"])),
        ("size", about(count(), "Of the whole file, bytes.")),
    ]);
    example(schema, json!({ "data": "hello", "encoding": "utf-8", "size": 5 }))
}

fn file_list() -> Value {
    let entry =
        answer(&[("name", text()), ("size", count()), ("modified", time()), ("type", one_of(&["file", "directory"]))]);
    let shown = json!([{ "name": "notes.txt", "size": 5, "modified": "2026-11-26T09:00:00.000Z", "type": "file" }]);
    example(list(entry), shown)
}

/// What an agent reports: its own ids, and what it has to say.
fn report(fields: &[(&str, Value)], says: Value) -> Value {
    let own = [("agentId", id("agt")), ("sessionId", id("ses")), ("timestamp?", reported_time())];
    let schema = request(&[&own, fields].concat());
    let mut shown = json!({
        "agentId": "agt_01jd9s6q0f3v8x2n4m5k7h9tbc",
        "sessionId": "ses_01jd9s6q0f3v8x2n4m5k7h9tbc",
        "timestamp": "2026-11-26T09:00:00.000Z",
    });
    if let (Some(shown), Some(says)) = (shown.as_object_mut(), says.as_object()) {
        shown.extend(says.clone());
    }
    example(schema, shown)
}

fn reported_time() -> Value {
    json!({ "type": ["string", "number", "null"], "maxLength": 64 })
}

fn reported_log() -> Value {
    report(
        &[
            ("level?", one_of(&["debug", "info", "warn", "error"])),
            ("message", text_to(65_536)),
            ("metadata?", json!({ "type": "object" })),
        ],
        json!({ "level": "info", "message": "step 2 of 5" }),
    )
}

fn reported_model() -> Value {
    let cents = request(&[("amount?", count()), ("currency?", one_of(&["usd"]))]);
    let cost = json!({ "anyOf": [amount(), cents, { "type": "null" }] });
    report(
        &[
            ("model", text_to(256)),
            ("inputTokens", count()),
            ("outputTokens", count()),
            ("cost?", about(cost, "Dollars, or an amount in cents, as the agent reckons.")),
        ],
        json!({ "model": "large-1", "inputTokens": 1200, "outputTokens": 300 }),
    )
}

fn reported_span() -> Value {
    report(
        &[
            ("name", text_to(256)),
            ("startTime?", reported_time()),
            ("endTime?", reported_time()),
            ("durationMs?", amount()),
            ("status?", text_to(64)),
            ("error?", json!({ "type": ["string", "object", "null"] })),
            ("attributes?", json!({ "type": "object" })),
        ],
        json!({ "name": "search", "durationMs": 120, "status": "ok" }),
    )
}

fn reported_progress() -> Value {
    let percentage = json!({ "type": "number", "minimum": 0, "maximum": 100 });
    report(
        &[("percentage", percentage), ("message?", text_to(4096))],
        json!({ "percentage": 40, "message": "reading" }),
    )
}

fn reported_result() -> Value {
    report(&[("output?", anything()), ("artifacts?", anything())], json!({ "output": "done", "artifacts": [] }))
}
