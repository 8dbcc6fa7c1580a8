//! Sessions and secrets.

use crate::operation::Operation;
use crate::schemas::{page_of, shown};
use crate::shape::{component, examples, flag, one_of, text_to, time};
use serde_json::{Value, json};
use theazo_http::ErrorCode::{Conflict, Provider, UnprocessableEntity};

pub(super) fn describe(name: &str) -> Option<Operation> {
    let session = |summary| Operation::new("Sessions", summary);
    let secret = |summary| Operation::new("Secrets", summary);
    Some(match name {
        "sessions-create" => session("Make a session")
            .body_if_any(component("NewSession"))
            .gives(201, component("Session")),
        "sessions-by-user" => session("The session of one end user")
            .more("The user's live session, or a new one: any number of calls at one moment give one session. Limits and metadata that are given are set.")
            .body_if_any(component("SessionOfUser"))
            .gives(200, component("Session")),
        "sessions-list" => session("List sessions, newest first")
            .query("status", one_of(&["active", "paused", "terminated"]), "Only those.")
            .query("userId", text_to(512), "Only those of that user.")
            .query("createdAfter", time(), "Only those that are newer.")
            .paged()
            .gives(200, page_of("Session")),
        "sessions-get" => session("Show a session").gives(200, component("Session")),
        "sessions-limits-get" => session("A session's limits and how much of them is used").gives(200, component("LimitsInUse")),
        "sessions-limits-set" => session("Change a session's limits")
            .more("What is left out stays; `null` lifts a limit.")
            .body(component("LimitsToSet"))
            .gives(200, component("LimitsInUse"))
            .refuses(&[Conflict]),
        "sessions-usage" => session("What a session has used").gives(200, component("SessionUsage")),
        "sessions-tokens-create" => session("Mint a token for the session's end user")
            .body_if_any(component("NewToken"))
            .gives(201, component("Token")),
        "sessions-tokens-delete" => session("End all tokens of a session").gives_nothing(),
        "sessions-pause" => session("Pause a session with all its agents")
            .gives(200, component("Session"))
            .refuses(&[Conflict, Provider, theazo_http::ErrorCode::NoProvidersAvailable]),
        "sessions-resume" => session("Resume a session with the agents that were paused with it")
            .gives(200, component("Session"))
            .refuses(&[Conflict, Provider, theazo_http::ErrorCode::SessionLimitExceeded, theazo_http::ErrorCode::NoProvidersAvailable, UnprocessableEntity]),
        "sessions-terminate" => session("End a session for good")
            .more("Ends its agents and removes its secrets. Idempotent.")
            .gives(200, component("Session"))
            .refuses(&[Conflict, Provider, theazo_http::ErrorCode::NoProvidersAvailable]),

        "secrets-set" => secret("Set secrets of a session")
            .more("Merges with what is there, all or nothing.")
            .body(component("SecretsToSet"))
            .gives_nothing()
            .refuses(&[UnprocessableEntity]),
        "secrets-list" => secret("List a session's secrets, never a value")
            .query("details", flag(), "Everything about them but their values.")
            .query("inherited", flag(), "With what the session inherits from the platform.")
            .gives(200, names_or_details()),
        "secrets-delete" => secret("Delete a secret of a session").gives_nothing().refuses(&[Conflict]),
        "platform-secrets-set" => secret("Set secrets of the platform")
            .more("Every session inherits them, and its own of the same name win. One that a provider's `credentialRef` names is never inherited.")
            .body(component("PlatformSecretsToSet"))
            .gives_nothing()
            .refuses(&[UnprocessableEntity]),
        "platform-secrets-list" => secret("List the platform's secrets, never a value")
            .query("details", flag(), "Everything about them but their values.")
            .gives(200, names_or_details()),
        "platform-secrets-delete" => secret("Delete a secret of the platform").gives_nothing().refuses(&[Conflict]),
        _ => return None,
    })
}

fn names_or_details() -> Value {
    let ways = ["SecretNames", "SecretDetails"];
    examples(json!({ "anyOf": ways.map(component) }), &ways.map(shown))
}
