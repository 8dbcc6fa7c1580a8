//! What a platform has and looks at.

use super::between_times;
use crate::operation::Operation;
use crate::schemas::{LEVELS, METRICS, page_of};
use crate::shape::{component, example, flag, id, one_of, pattern, text_to, time};
use serde_json::{Value, json};
use theazo_http::ErrorCode::{Conflict, NotFound, UnprocessableEntity};

/// The spans that usage is reported of.
const PERIODS: [&str; 5] = ["today", "yesterday", "week", "month", "last_month"];

/// What is said of every stream.
macro_rules! stream {
    ($ends:literal) => {
        concat!(
            "Server-Sent Events, the oldest first: `log` with an entry. An entry is given 2 s after its moment, so that all ",
            "come in order. One that appears later still, up to 13 s, comes out of order and without an `id`; whoever ",
            "connects only then finds it in the list.\n\nA comment is sent at least every 15 s. It may have an `id` with ",
            "it, which is where the stream has got to.\n\n",
            $ends,
            " Where the connection has to end before, `reconnect` comes with `reason` in its data: `time_limit` (after 14 ",
            "minutes), `size_limit` (after 150 MB), `slow_reader` (it took over 10 s to take what was sent), `credential` (it is no longer good) or ",
            "`unavailable`. Whoever connects again with the last `id` as `Last-Event-ID` goes on without gap or repeat, but ",
            "for what appeared that late meanwhile."
        )
    };
}

const STREAM: &str = stream!("There is no end by itself.");
const AGENT_STREAM: &str = stream!("When the agent has ended and everything was sent, `data: [DONE]` is the end.");

/// Usage as a table.
const TABLE: &str = "date,userId,sessionId,computeSeconds,costUsd,storageGbHours\r\n\
    2026-11-26,user_123,,750.000,2.50000000,0.250000\r\n";

/// How this document begins.
fn itself() -> Value {
    json!({ "openapi": "3.1.0", "info": { "title": "Theazo", "version": "1" }, "paths": {} })
}

pub(super) fn describe(name: &str) -> Option<Operation> {
    account(name).or_else(|| provider(name)).or_else(|| report(name))
}

fn account(name: &str) -> Option<Operation> {
    let account = |summary| Operation::new("Account", summary);
    let key = |summary| Operation::new("API keys", summary);
    Some(match name {
        "health" => account("Whether the service answers").gives(200, component("Health")),
        "openapi" => account("This document").gives(200, example(json!({ "type": "object" }), itself())),
        "docs" => account("This document, for reading in a browser").gives_page(),
        "whoami" => account("What the presented credential is").gives(200, component("Whoami")),
        "api-keys-create" => key("Make an API key")
            .more("Its text is shown this once.")
            .body(component("NewApiKey"))
            .gives(201, component("ApiKeyWithText")),
        "api-keys-list" => key("List the API keys that are good, newest first")
            .more("A test key sees test keys only.")
            .paged()
            .gives(200, page_of("ApiKey")),
        "api-keys-rotate" => key("Make a key that takes another's place")
            .more("The other ends after the overlap.")
            .body_if_any(component("RotateApiKey"))
            .gives(201, component("ApiKeyWithText")),
        "api-keys-delete" => key("Revoke an API key, at once and everywhere")
            .query("force", flag(), "Revoke even the last live key that is good for another hour.")
            .gives_nothing()
            .refuses(&[Conflict]),
        _ => return None,
    })
}

fn provider(name: &str) -> Option<Operation> {
    let provider = |summary| Operation::new("Providers", summary);
    Some(match name {
        "providers-list" => {
            provider("Where agents can run, and whether it answers").gives(200, component("ProviderList"))
        }
        "providers-set" => provider("Configure a provider of the platform's own")
            .more("Its credential is a secret of the platform, which from then on no agent can have.")
            .body(component("ProviderToSet"))
            .gives(200, component("Provider"))
            .refuses(&[Conflict, UnprocessableEntity]),
        "providers-delete" => provider("Forget a provider").gives_nothing().refuses(&[Conflict]),
        _ => return None,
    })
}

fn report(name: &str) -> Option<Operation> {
    let report = |summary| Operation::new("Observability", summary);
    let in_period = |operation: Operation| {
        operation.query(
            "period",
            one_of(&PERIODS),
            "In UTC; the month so far unless given. `last_month` is the whole month before.",
        )
    };
    let chosen = |operation: Operation| {
        operation.query("level", one_of(&LEVELS), "Only exactly that level.").query(
            "search",
            text_to(256),
            "Only those whose message has it, whatever its case.",
        )
    };
    let filtered = |operation: Operation| {
        let operation = operation.query("sessionId", id("ses"), "Only that session's.");
        chosen(operation.query("agentId", id("agt"), "Only that agent's."))
    };
    let streamed = |operation: Operation, since: &str| {
        operation
            .query("since", time(), since)
            .header("Last-Event-ID", id("log"), "Goes on from there: the last `id` of the stream before.")
            .gives_events()
            .refuses(&[NotFound])
    };
    Some(match name {
        "logs-list" => between_times(filtered(report("Log entries, newest first")))
            .more("With filters, a page goes through some thousands of entries and may then end early, even empty, with a cursor to go on from.")
            .paged()
            .gives(200, page_of("LogEntry")),
        "logs-stream" => {
            let stream = filtered(report("Log entries as they are written"));
            streamed(stream, "From then on; the last 15 minutes unless given.").more(STREAM)
        }
        "agents-logs-stream" => {
            let stream = chosen(report("An agent's log entries as they are written"));
            streamed(stream, "From then on; everything unless given.").more(AGENT_STREAM)
        }
        "audit-list" => between_times(report("The audit trail, newest first"))
            .query("secret", pattern("^[A-Za-z_][A-Za-z0-9_]{0,127}$"), "Only what was done with that secret.")
            .query("session", id("ses"), "Only what was done in that session.")
            .query("key", id("key"), "Only what that key did.")
            .paged()
            .gives(200, page_of("AuditEntry")),
        "metrics-summary" => report("How the platform's agents do now, and did today")
            .more("An agent is active while it boots or runs. Of today in UTC; the error rate is that of boots and execs.")
            .gives(200, component("MetricsSummary")),
        "metrics-series" => report("A metric over time")
            .more("By interval, the earliest first, in UTC. `agents.boot_time` and `exec.duration` are milliseconds, of intervals in which there was any; `agents.active` is by minute; `cost.total` (cents) and `error_rate` (0 to 1, of boots and execs) are of the interval as a whole, so that all three figures are the same. Kept for 90 days.")
            .required_query("metric", one_of(&METRICS), "Which.")
            .query("since", time(), "The interval that it lies in is the first, and is whole. A day before `until` unless given (`cost.total`: 30 days), at most 31 days.")
            .query("until", time(), "The hour that the moment before it lies in is the last, and is whole; of `cost.total` the day. Now unless given.")
            .query("interval", pattern("^[0-9]+(ms|s|m|h|d)?$"), "Whole hours, `1h` unless given; of `cost.total` whole days, `1d`. Intervals are counted from 1970 on: those of `7d` begin on Thursdays.")
            .gives(200, component("MetricSeries")),
        "usage-summary" => in_period(report("The platform at a glance")).gives(200, component("UsageSummary")),
        "usage-user" => in_period(report("What one end user's agents used")).gives(200, component("UserUsage")),
        "usage-daily" => report("Usage by day, the earliest first")
            .query("period", one_of(&["last_7_days", "last_30_days"]), "In UTC; 30 days unless given.")
            .gives(200, component("DailyUsage")),
        "usage-by-provider" => in_period(report("Cost by provider")).gives(200, component("UsageByProvider")),
        "usage-export" => in_period(report("Usage by day and end user, exactly"))
            .more("Meter events for Stripe are of days of which nothing changes any more: from ten minutes after their end, or, while a Docker host of the platform's is silent since before that, when it has answered or its agents have failed. Stripe refuses an event by its identifier for about a day, and adds up what it is sent again later: send each day once, as by `yesterday` daily. A row is for one end user and day, and an answer has room for some 30,000; what is larger is refused with `unprocessable_entity`.")
            .query("format", one_of(&["csv", "json", "stripe"]), "`csv` unless given.")
            .gives_or(component("UsageExport"), "text/csv", TABLE)
            .refuses(&[UnprocessableEntity]),
        _ => return None,
    })
}
