//! What limits do to agents that run: the clock that a provider is given with each sandbox, and what the log says of every
//! agent that a limit has paused.

use crate::harness::{container_name, docker};
use crate::limits::{CENT_A_MINUTE, Priced, day};
use futures_util::future::join_all;
use serde_json::{Value, json};
use theazo_store::now_ms;

/// Seconds that the engine's sandbox of an agent may exist.
async fn clock(agent: &str) -> u64 {
    let shown = docker().await.inspect_container(&container_name(agent), None).await.unwrap();
    let command = shown.config.unwrap().cmd.unwrap();
    let at = command.iter().position(|word| word == "--lifetime").expect("a clock");
    command[at + 1].parse().unwrap()
}

#[tokio::test]
async fn a_sandbox_has_a_clock_of_its_own_that_no_limit_of_its_agent_outlives() {
    let bed = Priced::live("clocks", CENT_A_MINUTE).await;
    // What reconciling may be late by.
    const LATE: u64 = 120;
    let cents = |amount: u64| json!({ "amount": amount, "currency": "usd" });
    let month = json!({ "maxCost": { "amount": 7, "currency": "usd", "period": "month" } });
    let both = json!({ "maxComputeMinutes": 6, "maxDuration": { "minutes": 4 } });
    let hour = json!({ "timeout": "1h" });
    let capped = json!({ "timeout": "1h", "costCap": cents(2) });
    let cases = [
        (json!({}), json!({ "timeout": "90s" }), 90),
        (json!({}), hour.clone(), 3_600),
        (day(5), hour.clone(), 5 * 60 + LATE),
        (month, hour.clone(), 7 * 60 + LATE),
        (json!({ "maxComputeMinutes": 3 }), hour.clone(), 3 * 60 + LATE),
        (json!({ "maxDuration": { "minutes": 4 } }), hour.clone(), 4 * 60 + LATE),
        (both, hour.clone(), 4 * 60 + LATE),
        (json!({}), capped.clone(), 2 * 60 + LATE),
        (day(5), capped, 2 * 60 + LATE),
        // The agent's own time is over first.
        (day(5), json!({ "timeout": "60s" }), 60),
    ];
    let tried = cases.map(|(limits, body, seconds)| {
        let bed = &bed;
        async move {
            let session = bed.session(limits.clone()).await;
            let agent = bed.agent(&session, body.clone()).await;
            let given = clock(&agent).await;
            // The claim and the boot take some of it.
            assert!(given <= seconds && given + 20 > seconds, "{limits} {body}: {given} s rather than {seconds} s");
            bed.terminate(&session).await;
        }
    });
    join_all(tried).await;
}

/// What the log says of an agent and a limit.
async fn told(bed: &Priced, agent: &str) -> Vec<Value> {
    let logs = bed.get(&format!("/v1/logs?agentId={agent}&level=warn")).await;
    let entries = logs["data"].as_array().unwrap().clone();
    entries.into_iter().filter(|entry| entry["metadata"]["event"] == "agent.limit").collect()
}

#[tokio::test]
async fn a_limit_pauses_every_agent_of_its_session_and_the_log_of_each_says_which_and_how_much() {
    let bed = Priced::make("told", CENT_A_MINUTE).await;
    let month = json!({ "maxCost": { "amount": 3, "currency": "usd", "period": "month" } });
    let minutes = json!({ "maxComputeMinutes": 3 });
    let cap = json!({ "costCap": { "amount": 1, "currency": "usd" } });
    for (limits, body, limit, max) in [
        (day(3), json!({}), "maxCost", 3),
        (month, json!({}), "maxCost", 3),
        (minutes, json!({}), "maxComputeMinutes", 3),
        (json!({}), cap, "costCap", 1),
    ] {
        let session = bed.session(limits).await;
        let agents = join_all((0..3).map(|_| bed.agent(&session, body.clone()))).await;
        // As if each had begun 61 seconds ago, and claimed its first minute then.
        let at = |ms: i64| json!({ "N": ms.to_string() });
        let ago = json!({ ":at": at(now_ms() - 61_000), ":claimed": at(now_ms() - 1_000) });
        let update = "SET meter.run.started_ms = :at, meter.run.booked_to_ms = :at, meter.run.claimed_to_ms = :claimed";
        join_all(agents.iter().map(|agent| bed.change("test", &session, agent, update, ago.clone()))).await;
        for agent in &agents {
            bed.until_stopped(agent).await;
            assert_eq!(bed.get(&format!("/v1/agents/{agent}/status")).await["status"], "paused", "{limit}");
            let told = told(&bed, agent).await;
            assert_eq!(told.len(), 1, "{limit}: {told:?}");
            let (entry, details) = (&told[0], &told[0]["metadata"]);
            assert_eq!(entry["message"], format!("agent has reached a limit: {limit}"));
            assert_eq!((&entry["sessionId"], &entry["source"]), (&json!(session), &json!("system")), "{entry}");
            assert_eq!((&details["limit"], &details["max"]), (&json!(limit), &json!(max)), "{entry}");
            assert!(details["used"].as_u64().is_some_and(|used| used >= max), "{entry}");
        }
        bed.terminate(&session).await;
    }
}
