//! What a platform has: its credentials, its providers.

use crate::shape::{
    about, answer, between, duration, example, flag, id, list, nullable, one_of, pattern, request, text, text_to, time,
};
use serde_json::{Value, json};

const ENVIRONMENTS: [&str; 2] = ["live", "test"];

pub(super) fn all() -> Vec<(&'static str, Value)> {
    let new_key = about(text(), "The key, shown this once: a repeated request is answered without it.");
    vec![
        ("Health", example(answer(&[("status", one_of(&["ok"]))]), json!({ "status": "ok" }))),
        ("Whoami", whoami()),
        ("ApiKey", example(answer(&key()), shown_key())),
        ("NewApiKey", new_api_key()),
        ("ApiKeyWithText", with_text(new_key)),
        (
            "RotateApiKey",
            example(request(&[("overlap?", duration("24 hours", "30 days"))]), json!({ "overlap": "1h" })),
        ),
        ("Provider", provider()),
        (
            "ProviderList",
            example(
                answer(&[("data", list(provider())), ("hasMore", flag())]),
                json!({ "data": [], "hasMore": false }),
            ),
        ),
        ("ProviderToSet", provider_to_set()),
    ]
}

fn whoami() -> Value {
    let schema = answer(&[
        ("kind", one_of(&["platform", "session"])),
        ("platformId", id("plt")),
        ("sessionId", nullable(id("ses"))),
        ("environment", one_of(&ENVIRONMENTS)),
        ("keyId", text()),
        ("expiresAt", nullable(time())),
    ]);
    example(
        schema,
        json!({
            "kind": "platform", "platformId": "plt_01jd9s6q0f3v8x2n4m5k7h9tbc", "sessionId": null, "environment": "live",
            "keyId": "key_01jd9s6q0f3v8x2n4m5k7h9tbc", "expiresAt": null,
        }),
    )
}

fn key() -> Vec<(&'static str, Value)> {
    vec![
        ("id", id("key")),
        ("name", text()),
        ("prefix", about(text(), "The key's first 12 characters.")),
        ("environment", one_of(&ENVIRONMENTS)),
        ("createdAt", time()),
        ("lastUsedAt", nullable(about(time(), "To the minute, about."))),
        ("expiresAt", nullable(time())),
    ]
}

fn shown_key() -> Value {
    json!({
        "id": "key_01jd9s6q0f3v8x2n4m5k7h9tbc", "name": "backend", "prefix": "th_live_abcd", "environment": "live",
        "createdAt": "2026-11-26T09:00:00.000Z", "lastUsedAt": null, "expiresAt": null,
    })
}

fn with_text(text: Value) -> Value {
    let mut shown = shown_key();
    shown["key"] = "th_live_...".into();
    example(answer(&[key(), vec![("key?", text)]].concat()), shown)
}

fn new_api_key() -> Value {
    let mut name = text_to(128);
    name["minLength"] = 1.into();
    let schema = request(&[("name", name), ("environment", one_of(&ENVIRONMENTS)), ("expiresAt?", time())]);
    example(schema, json!({ "name": "backend", "environment": "live" }))
}

const PRIORITY: &str = "Its turn where the creator of an agent names no provider: the lowest comes first, then the \
                        deployment's own, then those without a priority. Where one fails or has no room, the next is tried.";
const MAX_CONCURRENT: &str = "How many of the platform's agents may run there at a time: boot, or run and are not paused. \
                              One more is `no_providers_available`. Agents that run when a limit is first set are not \
                              counted until they are resumed. With a test key it is kept, and holds nothing: none of its \
                              agents runs at any of these.";

fn provider() -> Value {
    let health = answer(&[("healthy", flag()), ("message?", nullable(text()))]);
    let schema = answer(&[
        ("provider", one_of(&["docker", "e2b", "fly", "simulated"])),
        ("source", about(one_of(&["deployment", "platform"]), "Whose it is.")),
        ("credentialRef?", about(text(), "The platform secret that holds its credential.")),
        ("config?", shown_config()),
        ("priority?", nullable(about(between(1, 100), PRIORITY))),
        ("limits?", answer(&[("maxConcurrent?", about(between(0, 10_000), MAX_CONCURRENT))])),
        ("updatedAt?", time()),
        ("health?", about(health, "Not asked for when a provider is being configured.")),
    ]);
    example(
        schema,
        json!({ "provider": "docker", "source": "deployment", "health": { "healthy": true, "message": null } }),
    )
}

fn shown_config() -> Value {
    answer(&[
        ("template?", about(text(), "E2B: the template that agents run in.")),
        ("organization?", about(text(), "Fly: the organization that agents run in.")),
        ("image?", about(text(), "Docker and Fly: the image that agents run in.")),
        ("draining?", about(list(text()), "Docker: the hosts that take no new agents.")),
        ("region?", about(text(), "Fly: where agents run that ask for no region.")),
    ])
}

fn provider_to_set() -> Value {
    let template =
        about(pattern("^[A-Za-z0-9._/:-]{1,128}$"), "E2B only: the template that agents run in; `base` unless given.");
    let organization = about(pattern("^[a-z0-9-]{1,63}$"), "Fly only, where it is required: the organization's slug.");
    let image = about(
        pattern("^[A-Za-z0-9._/:@-]{1,255}$"),
        "Docker and Fly, where it is required. Docker: the agent image, which every host has already. Fly: the agent image \
         for machines, in a registry that the organization can pull from.",
    );
    let region = about(
        pattern("^[a-z0-9-]{1,32}$"),
        "Fly only: where agents run that ask for no region; otherwise in the one nearest to the control plane.",
    );
    let draining = json!({
        "type": "array",
        "items": pattern("^[!-~]{1,262}$"),
        "maxItems": 32,
        "description": "Docker only: hosts, like `host:2376`, that take no new agents. As it was unless given.",
    });
    let config = [
        ("template?", template),
        ("organization?", organization),
        ("image?", image),
        ("region?", region),
        ("draining?", draining),
    ];
    let schema = request(&[
        ("credentialRef", pattern("^[A-Za-z_][A-Za-z0-9_]{0,127}$")),
        ("config?", request(&config)),
        ("priority?", about(between(1, 100), PRIORITY)),
        ("limits?", request(&[("maxConcurrent?", about(between(0, 10_000), MAX_CONCURRENT))])),
    ]);
    example(schema, json!({ "credentialRef": "E2B_API_KEY", "priority": 1, "limits": { "maxConcurrent": 20 } }))
}
