//! Sessions, their limits, tokens and secrets.

use super::cents;
use crate::shape::{
    about, amount, answer, between, component, count, duration, example, flag, id, list, nullable, one_of, request,
    text, text_to, texts, time,
};
use serde_json::{Value, json};

const ENVIRONMENTS: [&str; 3] = ["production", "staging", "development"];

pub(super) fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("Session", session()),
        ("NewSession", new_session()),
        ("SessionOfUser", session_of_user()),
        ("Limits", limits()),
        ("LimitsToSet", limits_to_set()),
        ("LimitsInUse", limits_in_use()),
        ("SessionUsage", usage()),
        ("NewToken", new_token()),
        ("Token", token()),
        ("SecretsToSet", secrets_to_set(false)),
        ("PlatformSecretsToSet", secrets_to_set(true)),
        ("SecretNames", example(list(text()), json!(["HUBSPOT_API_KEY", "database_url"]))),
        ("SecretDetails", secret_details()),
    ]
}

fn session() -> Value {
    let schema = answer(&[
        ("id", id("ses")),
        ("userId", nullable(text())),
        ("status", one_of(&["active", "paused", "terminated"])),
        ("environment", one_of(&ENVIRONMENTS)),
        ("metadata", texts()),
        ("limits", component("Limits")),
        ("createdAt", time()),
        ("pausedAt", nullable(time())),
        ("terminatedAt", nullable(time())),
    ]);
    example(
        schema,
        json!({
            "id": "ses_01jd9s6q0f3v8x2n4m5k7h9tbc", "userId": "user_123", "status": "active", "environment": "production",
            "metadata": { "plan": "pro" }, "limits": { "maxAgents": 3 }, "createdAt": "2026-11-26T09:00:00.000Z",
            "pausedAt": null, "terminatedAt": null,
        }),
    )
}

fn new_session() -> Value {
    let schema = request(&[
        ("userId?", about(text_to(512), "The platform's own name of its end user, at most 512 bytes.")),
        ("environment?", one_of(&ENVIRONMENTS)),
        ("limits?", component("LimitsToSet")),
        ("metadata?", component("Metadata")),
    ]);
    example(schema, json!({ "userId": "user_123", "limits": { "maxAgents": 3 } }))
}

fn session_of_user() -> Value {
    let schema = request(&[("limits?", component("LimitsToSet")), ("metadata?", component("Metadata"))]);
    example(schema, json!({ "metadata": { "plan": "pro" } }))
}

/// The age that a session may reach, in parts that are added up.
fn max_duration(object: fn(&[(&str, Value)]) -> Value) -> Value {
    object(&[
        ("hours?", between(0, 833_333)),
        ("minutes?", between(0, 50_000_000)),
        ("seconds?", between(0, 3_000_000_000)),
    ])
}

fn limits() -> Value {
    let schema = answer(&[
        (
            "maxCost?",
            answer(&[("amount", cents()), ("currency", one_of(&["usd"])), ("period", one_of(&["day", "month"]))]),
        ),
        ("maxAgents?", count()),
        ("maxComputeMinutes?", count()),
        ("maxDuration?", max_duration(answer)),
    ]);
    example(schema, json!({ "maxAgents": 3, "maxCost": { "amount": 500, "currency": "usd", "period": "day" } }))
}

fn limits_to_set() -> Value {
    let max_cost = request(&[
        ("amount", about(between(0, 2_000_000_000), "Cents.")),
        ("currency?", one_of(&["usd"])),
        ("period", one_of(&["day", "month"])),
    ]);
    let mut max_duration = max_duration(request);
    max_duration["minProperties"] = 1.into();
    let schema = request(&[
        ("maxCost?", max_cost),
        ("maxAgents?", about(between(0, 100_000), "Agents that boot or run at a time.")),
        ("maxComputeMinutes?", about(between(0, 100_000_000), "Minutes that all its agents run, ever.")),
        ("maxDuration?", about(max_duration, "The session's age.")),
    ]);
    example(schema, json!({ "maxAgents": 3, "maxCost": { "amount": 500, "period": "day" } }))
}

fn limits_in_use() -> Value {
    let in_use = |number: fn() -> Value| {
        vec![("limit", count()), ("used", number()), ("remaining", number()), ("percentage", amount())]
    };
    let of_cost = [in_use(count), vec![("currency", one_of(&["usd"])), ("period", one_of(&["day", "month"]))]].concat();
    let schema = answer(&[
        ("maxCost?", about(answer(&of_cost), "In cents.")),
        ("maxAgents?", answer(&in_use(count))),
        ("maxComputeMinutes?", answer(&in_use(amount))),
        ("maxDuration?", about(answer(&in_use(count)), "In seconds.")),
    ]);
    example(schema, json!({ "maxAgents": { "limit": 3, "used": 1, "remaining": 2, "percentage": 33.33 } }))
}

fn usage() -> Value {
    let schema = answer(&[
        ("cost", component("Money")),
        ("computeMinutes", amount()),
        ("activeAgents", count()),
        ("totalAgentsCreated", count()),
    ]);
    let cost = json!({ "amount": 250, "currency": "usd" });
    example(schema, json!({ "cost": cost, "computeMinutes": 12.5, "activeAgents": 1, "totalAgentsCreated": 4 }))
}

fn new_token() -> Value {
    let mut permissions = list(one_of(&["read", "exec"]));
    permissions["minItems"] = 1.into();
    let schema = request(&[
        ("expiresIn?", duration("15 minutes", "24 hours")),
        ("permissions?", about(permissions, "Everything unless given. `read` is part of every token.")),
    ]);
    example(schema, json!({ "expiresIn": "15m", "permissions": ["read", "exec"] }))
}

fn token() -> Value {
    let token = about(text(), "The token, shown this once: a repeated request is answered without it.");
    let schema = answer(&[("token?", token), ("expiresAt", time())]);
    example(schema, json!({ "token": "th_sess_...", "expiresAt": "2026-11-26T09:15:00.000Z" }))
}

fn secrets_to_set(of_platform: bool) -> Value {
    let value = json!({ "type": "string", "minLength": 1, "maxLength": 32_768, "writeOnly": true });
    let mut fields = vec![
        ("value", value.clone()),
        ("expiresAt?", about(time(), "From then on it is not delivered any more.")),
        ("mask?", about(flag(), "`false` shows it as it is in output and logs.")),
    ];
    if of_platform {
        fields.push(("inherit?", about(flag(), "`false` keeps it out of sessions.")));
    }
    let schema = json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 90,
        "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$" },
        "additionalProperties": { "oneOf": [value, request(&fields)] },
        "description": "Values by name. Names do not differ by case; agents see them in upper case. All of it is set, or \
            nothing. A value is 1 byte to 32 KiB of UTF-8 without NUL.",
    });
    example(schema, json!({ "HUBSPOT_API_KEY": "pat-123", "database_url": { "value": "postgres://db", "mask": true } }))
}

fn secret_details() -> Value {
    let entry = answer(&[
        ("name", text()),
        ("version", count()),
        ("createdAt", time()),
        ("updatedAt", time()),
        ("scope", one_of(&["session", "platform"])),
        ("expiresAt?", time()),
        ("expired?", about(flag(), "It is delivered to nobody any more.")),
        ("retainedBy", about(list(id("agt")), "Running agents that booted with an older or a deleted value.")),
    ]);
    example(
        list(entry),
        json!([{
            "name": "database_url", "version": 2, "createdAt": "2026-11-26T09:00:00.000Z",
            "updatedAt": "2026-11-26T09:30:00.000Z", "scope": "session", "retainedBy": [],
        }]),
    )
}
