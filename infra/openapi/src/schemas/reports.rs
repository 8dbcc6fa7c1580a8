//! What a platform looks at: logs, the audit trail, usage.

use crate::shape::{
    about, amount, answer, component, count, date, example, examples, id, list, nullable, one_of, text, time,
};
use serde_json::{Value, json};

/// The levels of log entries.
pub(crate) const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

/// What there is over time.
pub(crate) const METRICS: [&str; 5] =
    ["agents.boot_time", "agents.active", "exec.duration", "cost.total", "error_rate"];

pub(super) fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("LogEntry", log_entry()),
        ("LogEvent", log_event()),
        ("AuditEntry", audit_entry()),
        ("MetricsSummary", metrics_summary()),
        ("MetricSeries", metric_series()),
        ("UsageSummary", summary()),
        ("UserUsage", user()),
        ("DailyUsage", daily()),
        ("UsageByProvider", by_provider()),
        ("UsageRow", usage_row()),
        ("MeterEvent", meter_event()),
        ("UsageExport", export()),
    ]
}

fn log_entry() -> Value {
    let schema = answer(&[
        ("id", id("log")),
        ("timestamp", time()),
        ("level", one_of(&LEVELS)),
        ("source", one_of(&["agent", "system", "provider", "model"])),
        ("agentId", nullable(id("agt"))),
        ("sessionId", id("ses")),
        ("userId", nullable(text())),
        ("provider", nullable(text())),
        ("message", text()),
        ("metadata?", about(json!({ "type": "object" }), "Details, by the kind of entry.")),
        ("traceId?", text()),
    ]);
    example(
        schema,
        json!({
            "id": "log_01jd9s6q0f3v8x2n4m5k7h9tbc", "timestamp": "2026-11-26T09:00:00.000Z", "level": "info",
            "source": "system", "agentId": "agt_01jd9s6q0f3v8x2n4m5k7h9tbc",
            "sessionId": "ses_01jd9s6q0f3v8x2n4m5k7h9tbc", "userId": "user_123", "provider": "docker",
            "message": "agent is ready", "metadata": { "event": "agent.status", "status": "ready", "from": "booting" },
        }),
    )
}

fn log_event() -> Value {
    let data = "JSON: of `log` an entry, of `reconnect` an object with `reason`. `[DONE]`, of no named event, which readers call `message`, is the end.";
    let schema = answer(&[
        ("event?", one_of(&["log", "reconnect", "message"])),
        ("id?", about(id("log"), "Where the stream has got to, for `Last-Event-ID`.")),
        ("data", about(text(), data)),
    ]);
    let entry = log_entry()["examples"][0].clone();
    let log = json!({ "event": "log", "id": entry["id"], "data": entry.to_string() });
    let reconnect = json!({ "event": "reconnect", "data": json!({ "reason": "time_limit" }).to_string() });
    examples(schema, &[log, reconnect, json!({ "data": "[DONE]" })])
}

fn audit_entry() -> Value {
    let schema = answer(&[
        ("id", text()),
        ("timestamp", time()),
        ("principal", about(text(), "What kind of caller it was.")),
        ("keyId", nullable(text())),
        ("action", text()),
        ("names", about(list(text()), "The secrets' names.")),
        ("sessionId", nullable(id("ses"))),
        ("agentId", nullable(id("agt"))),
        ("outcome", one_of(&["started", "succeeded", "failed"])),
        ("sourceIp", nullable(text())),
        ("requestId", nullable(id("req"))),
    ]);
    example(
        schema,
        json!({
            "id": "aud_01jd9s6q0f3v8x2n4m5k7h9tbc", "timestamp": "2026-11-26T09:00:00.000Z", "principal": "platform",
            "keyId": "key_01jd9s6q0f3v8x2n4m5k7h9tbc", "action": "secrets.set", "names": ["DATABASE_URL"],
            "sessionId": "ses_01jd9s6q0f3v8x2n4m5k7h9tbc", "agentId": null, "outcome": "succeeded",
            "sourceIp": "203.0.113.7", "requestId": "req_01jd9s6q0f3v8x2n4m5k7h9tbc",
        }),
    )
}

fn money() -> Value {
    json!({ "amount": 250, "currency": "usd" })
}

fn metrics_summary() -> Value {
    let schema = answer(&[
        ("activeAgents", about(count(), "Those that boot or run.")),
        ("activeSessions", about(count(), "Those of which an agent boots or runs.")),
        ("costToday", component("Money")),
        ("agentsCreatedToday", count()),
        ("errorRate", about(amount(), "Of today's boots and execs, from 0 to 1.")),
    ]);
    example(
        schema,
        json!({
            "activeAgents": 2, "activeSessions": 1, "costToday": money(), "agentsCreatedToday": 12, "errorRate": 0.01,
        }),
    )
}

fn metric_series() -> Value {
    let point = answer(&[
        ("timestamp", about(time(), "The beginning of the interval.")),
        ("p50", amount()),
        ("p95", amount()),
        ("p99", amount()),
    ]);
    let shown = json!([{ "timestamp": "2026-11-26T09:00:00.000Z", "p50": 840, "p95": 1391, "p99": 2047 }]);
    example(list(point), shown)
}

fn summary() -> Value {
    let top = answer(&[("userId", text()), ("cost", component("Money"))]);
    let schema = answer(&[
        ("totalCost", component("Money")),
        ("activeSessions", about(count(), "Those of which an agent boots or runs.")),
        ("runningAgents", count()),
        ("topUser", nullable(top)),
    ]);
    let top = json!({ "userId": "user_123", "cost": money() });
    example(schema, json!({ "totalCost": money(), "activeSessions": 1, "runningAgents": 2, "topUser": top }))
}

fn user() -> Value {
    let schema = answer(&[
        ("compute", answer(&[("minutes", amount()), ("cost", component("Money"))])),
        (
            "models",
            answer(&[
                ("calls", count()),
                ("tokens", answer(&[("input", count()), ("output", count())])),
                ("cost", component("Money")),
            ]),
        ),
        (
            "storage",
            about(
                answer(&[("gbHours", amount()), ("cost", component("Money"))]),
                "Of the files of paused agents, where their provider tells how large they are.",
            ),
        ),
        ("total", component("Money")),
        ("breakdown", list(answer(&[("date", date()), ("total", component("Money"))]))),
    ]);
    let nothing = json!({ "amount": 0, "currency": "usd" });
    example(
        schema,
        json!({
            "compute": { "minutes": 12.5, "cost": money() },
            "models": { "calls": 0, "tokens": { "input": 0, "output": 0 }, "cost": nothing },
            "storage": { "gbHours": 0.0, "cost": nothing },
            "total": money(),
            "breakdown": [{ "date": "2026-11-26", "total": money() }],
        }),
    )
}

fn daily() -> Value {
    let day = answer(&[
        ("date", date()),
        ("cost", component("Money")),
        ("computeMinutes", amount()),
        ("modelCalls", count()),
    ]);
    let shown = json!([{ "date": "2026-11-26", "cost": money(), "computeMinutes": 12.5, "modelCalls": 0 }]);
    example(list(day), shown)
}

fn by_provider() -> Value {
    let schema = json!({ "type": "object", "additionalProperties": component("Money") });
    example(schema, json!({ "docker": money() }))
}

fn usage_row() -> Value {
    let schema = answer(&[
        ("date", date()),
        ("userId", nullable(text())),
        ("sessionId", about(nullable(id("ses")), "Where the session has no user.")),
        ("computeMs", count()),
        ("cost", component("Money")),
        ("costMicrocents", count()),
        ("storageGbHours", about(amount(), "Of the files of paused agents.")),
    ]);
    example(
        schema,
        json!({
            "date": "2026-11-26", "userId": "user_123", "sessionId": null, "computeMs": 750_000, "cost": money(),
            "costMicrocents": 250_000_000, "storageGbHours": 0.25,
        }),
    )
}

fn meter_event() -> Value {
    let schema = answer(&[
        ("event_name", text()),
        (
            "identifier",
            about(
                text(),
                "The same in every export. Stripe refuses it a second time for at least 24 hours, not for ever.",
            ),
        ),
        ("timestamp", count()),
        ("payload", answer(&[("stripe_customer_id", text()), ("value", about(text(), "Micro-cents."))])),
    ]);
    example(
        schema,
        json!({
            "event_name": "theazo_compute_microcents", "identifier": "theazo-2026-11-26-0123456789abcdef",
            "timestamp": 1_795_737_599, "payload": { "stripe_customer_id": "user_123", "value": "250000000" },
        }),
    )
}

fn export() -> Value {
    let rows = about(list(component("UsageRow")), "With `format=json`.");
    let events = about(list(component("MeterEvent")), "With `format=stripe`: of days that are over.");
    example(json!({ "anyOf": [rows, events] }), json!([]))
}
