//! What limits do to agents that run: the clock that a provider is given with each sandbox, and what the log says of every
//! agent that a limit has paused.

use crate::e2b::{configure, on_e2b, sandboxes_of};
use crate::harness::{Break, Client, E2B_KEY, OwnStack, Tap, container_name, docker, e2b_emulator};
use crate::limits::{CENT_A_MINUTE, Priced, day, month};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_functions::deployment::Deployment;
use theazo_functions::reconcile::{Boots, reconcile};
use theazo_store::{Aws, AwsEndpoints, now_ms};

/// What reconciling may be late by, seconds.
const LATE: u64 = 120;

/// Whether money of another day is within reach of what is tried here: what a limit allows then depends on both.
fn is_near_midnight() -> bool {
    const DAY_MS: i64 = 86_400_000;
    let of_day = now_ms().rem_euclid(DAY_MS);
    !(2 * 60_000..DAY_MS - 12 * 60_000).contains(&of_day)
}

/// Boots an agent, and waits until it is ready.
async fn ready(bed: &Priced, session: &str, body: Value) -> String {
    let agent = bed.agent(session, body).await;
    for _ in 0..600 {
        if bed.get(&format!("/v1/agents/{agent}/status")).await["status"] == "ready" {
            return agent;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{agent} does not become ready");
}

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
    let cents = |amount: u64| json!({ "amount": amount, "currency": "usd" });
    let both = json!({ "maxComputeMinutes": 6, "maxDuration": { "minutes": 4 } });
    let hour = json!({ "timeout": "1h" });
    let capped = json!({ "timeout": "1h", "costCap": cents(2) });
    let cases = [
        (json!({}), json!({ "timeout": "90s" }), 90),
        (json!({}), hour.clone(), 3_600),
        (day(5), hour.clone(), 5 * 60 + LATE),
        (month(7), hour.clone(), 7 * 60 + LATE),
        (json!({ "maxComputeMinutes": 3 }), hour.clone(), 3 * 60 + LATE),
        (json!({ "maxDuration": { "minutes": 4 } }), hour.clone(), 4 * 60 + LATE),
        (both, hour.clone(), 4 * 60 + LATE),
        (json!({}), capped.clone(), 2 * 60 + LATE),
        (day(5), capped, 2 * 60 + LATE),
        // The agent's own time is over first.
        (day(5), json!({ "timeout": "60s" }), 60),
    ];
    let cases = cases.into_iter().filter(|(limits, ..)| limits.get("maxCost").is_none() || !is_near_midnight());
    let tried = cases.map(|(limits, body, seconds)| {
        let bed = &bed;
        async move {
            let session = bed.session(limits.clone()).await;
            let agent = ready(bed, &session, body.clone()).await;
            let given = clock(&agent).await;
            // The claim and the boot take some of it.
            assert!(given <= seconds && given + 20 > seconds, "{limits} {body}: {given} s rather than {seconds} s");
            bed.terminate(&session).await;
        }
    });
    // A few at a time, so that none waits long for its boot.
    stream::iter(tried).buffer_unordered(3).collect::<()>().await;
}

#[tokio::test]
async fn a_sandbox_that_is_resumed_or_restarted_has_the_clock_of_the_limits_of_that_moment() {
    let bed = Priced::live("clocks again", CENT_A_MINUTE).await;
    let session = bed.session(json!({})).await;
    let agent = ready(&bed, &session, json!({ "timeout": "1h" })).await;
    assert!(clock(&agent).await > 3_500);
    let lower = async |minutes: u64| {
        let limits = json!({ "maxComputeMinutes": minutes });
        assert_eq!(bed.call("PATCH", &format!("/v1/sessions/{session}/limits"), limits).await.0, 200);
    };
    let act = async |what: &str| {
        let (status, answer) = bed.call("POST", &format!("/v1/agents/{agent}/{what}"), Value::Null).await;
        assert_eq!(status, 200, "{what}: {answer}");
    };
    act("pause").await;
    lower(9).await;
    act("resume").await;
    // What it has run until then is less than two minutes.
    let resumed = clock(&agent).await;
    assert!((7 * 60 + LATE..=9 * 60 + LATE).contains(&resumed), "{resumed}");
    lower(5).await;
    act("restart").await;
    let restarted = clock(&agent).await;
    assert!((3 * 60 + LATE..=5 * 60 + LATE).contains(&restarted), "{restarted}");
    bed.terminate(&session).await;
}

/// Holds an agent to having been paused by that limit, which its log tells and a resume is refused for.
async fn is_paused_by(bed: &Priced, session: &str, agent: &str, limit: &str, max: u64) {
    assert_eq!(bed.get(&format!("/v1/agents/{agent}/status")).await["status"], "paused", "{limit}");
    let told = told(bed, agent).await;
    assert_eq!(told.len(), 1, "{limit}: {told:?}");
    let (entry, details) = (&told[0], &told[0]["metadata"]);
    assert_eq!(entry["message"], format!("agent has reached a limit: {limit}"));
    assert_eq!((&entry["sessionId"], &entry["source"]), (&json!(session), &json!("system")), "{entry}");
    assert_eq!((&details["limit"], &details["max"]), (&json!(limit), &json!(max)), "{entry}");
    assert!(details["used"].as_u64().is_some_and(|used| used >= max), "{entry}");
    let (status, refused) = bed.call("POST", &format!("/v1/agents/{agent}/resume"), Value::Null).await;
    assert_eq!((status, &refused["error"]["details"]["limit"]), (402, &json!(limit)), "{refused}");
}

/// What the log says of an agent and a limit.
async fn told(bed: &Priced, agent: &str) -> Vec<Value> {
    let logs = bed.get(&format!("/v1/logs?agentId={agent}&level=warn")).await;
    let entries = logs["data"].as_array().unwrap().clone();
    entries.into_iter().filter(|entry| entry["metadata"]["event"] == "agent.limit").collect()
}

#[tokio::test]
async fn one_run_pauses_every_agent_of_a_session_at_its_limit_and_the_log_of_each_says_which_and_how_much() {
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let bed = Priced::on(&own.stack, "told", CENT_A_MINUTE).await.with_test_key();
    let minutes = json!({ "maxComputeMinutes": 3 });
    let cap = json!({ "costCap": { "amount": 1, "currency": "usd" } });
    for (limits, body, limit, max) in [
        (day(3), json!({}), "maxCost", 3),
        (month(3), json!({}), "maxCost", 3),
        (minutes, json!({}), "maxComputeMinutes", 3),
        (json!({}), cap, "costCap", 1),
    ] {
        if limit == "maxCost" && is_near_midnight() {
            continue;
        }
        let session = bed.session(limits).await;
        let agents = join_all((0..3).map(|_| bed.agent(&session, body.clone()))).await;
        assert_eq!(bed.reconcile().await.over_limit, 0, "nobody has used {limit} up");
        bed.age("test", &session, &agents).await;
        assert_eq!(bed.reconcile().await.over_limit, 3, "{limit}");
        for agent in &agents {
            is_paused_by(&bed, &session, agent, limit, max).await;
        }
        bed.terminate(&session).await;
    }
    own.stop().await;
}

#[tokio::test]
async fn a_limit_that_is_set_while_agents_run_pauses_them_in_the_next_run() {
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let bed = Priced::on(&own.stack, "set later", CENT_A_MINUTE).await.with_test_key();
    for (before, limits, limit, max) in [
        (json!({}), day(1), "maxCost", 1),
        (day(50), day(1), "maxCost", 1),
        (json!({}), month(1), "maxCost", 1),
        (json!({}), json!({ "maxComputeMinutes": 1 }), "maxComputeMinutes", 1),
        (json!({ "maxComputeMinutes": 50 }), json!({ "maxComputeMinutes": 1 }), "maxComputeMinutes", 1),
        (json!({}), json!({ "maxDuration": { "seconds": 1 } }), "maxDuration", 1),
    ] {
        if limit == "maxCost" && is_near_midnight() {
            continue;
        }
        let session = bed.session(before.clone()).await;
        let agent = bed.agent(&session, json!({})).await;
        bed.age("test", &session, std::slice::from_ref(&agent)).await;
        assert_eq!(bed.reconcile().await.over_limit, 0, "{before}");
        let (status, _) = bed.call("PATCH", &format!("/v1/sessions/{session}/limits"), limits.clone()).await;
        assert_eq!(status, 200);
        // A session is as old as that by then.
        tokio::time::sleep(Duration::from_millis(if limit == "maxDuration" { 1_100 } else { 0 })).await;
        assert_eq!(bed.reconcile().await.over_limit, 1, "{before} {limits}");
        is_paused_by(&bed, &session, &agent, limit, max).await;
        bed.terminate(&session).await;
    }
    own.stop().await;
}

#[tokio::test]
async fn nothing_starts_beyond_a_limit_that_was_set_after_it_was_used_up_even_before_that_is_booked() {
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let bed = Priced::on(&own.stack, "used up before", CENT_A_MINUTE).await.with_test_key();
    for (limits, limit) in
        [(day(3), "maxCost"), (month(3), "maxCost"), (json!({ "maxComputeMinutes": 3 }), "maxComputeMinutes")]
    {
        if limit == "maxCost" && is_near_midnight() {
            continue;
        }
        let session = bed.session(json!({})).await;
        let agent = bed.agent(&session, json!({})).await;
        let paused = bed.agent(&session, json!({})).await;
        assert_eq!(bed.call("POST", &format!("/v1/agents/{paused}/pause"), Value::Null).await.0, 200);
        // It has run for five minutes, of which it claimed one when it began.
        let at = |ms: i64| json!({ "N": (now_ms() - ms).to_string() });
        let update = "SET meter.run.started_ms = :at, meter.run.booked_to_ms = :at, meter.run.claimed_to_ms = :claimed";
        bed.change("test", &session, &agent, update, json!({ ":at": at(300_000), ":claimed": at(240_000) })).await;
        assert_eq!(bed.call("PATCH", &format!("/v1/sessions/{session}/limits"), limits).await.0, 200);
        for path in [
            format!("/v1/sessions/{session}/agents"),
            format!("/v1/agents/{paused}/resume"),
            format!("/v1/agents/{agent}/restart"),
        ] {
            let (status, refused) = bed.call("POST", &path, Value::Null).await;
            assert_eq!((status, &refused["error"]["details"]["limit"]), (402, &json!(limit)), "{path}: {refused}");
        }
        bed.terminate(&session).await;
    }
    own.stop().await;
}

#[tokio::test]
async fn where_fewer_agents_may_run_than_do_the_youngest_are_paused_until_there_is_place_again() {
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let bed = Priced::on(&own.stack, "fewer", 0).await.with_test_key();
    let session = bed.session(json!({ "maxAgents": 3 })).await;
    let mut agents = Vec::new();
    for _ in 0..3 {
        agents.push(bed.agent(&session, json!({})).await);
        // Those of one millisecond have no order.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bed.reconcile().await.over_limit, 0);
    let at_most = async |max: u64| {
        let limits = json!({ "maxAgents": max });
        assert_eq!(bed.call("PATCH", &format!("/v1/sessions/{session}/limits"), limits).await.0, 200);
    };
    let status = async |agent: &str| bed.get(&format!("/v1/agents/{agent}/status")).await["status"].clone();
    at_most(1).await;
    assert_eq!(bed.reconcile().await.over_limit, 2);
    for agent in &agents[1..] {
        is_paused_by(&bed, &session, agent, "maxAgents", 1).await;
    }
    assert_eq!(status(&agents[0]).await, "ready");
    assert_eq!(bed.reconcile().await.over_limit, 0, "as many run as may");
    at_most(2).await;
    assert_eq!(bed.call("POST", &format!("/v1/agents/{}/resume", agents[2]), Value::Null).await.0, 200);
    assert_eq!(bed.reconcile().await.over_limit, 0);
    at_most(0).await;
    assert_eq!(bed.reconcile().await.over_limit, 2);
    for agent in &agents {
        assert_eq!(status(agent).await, "paused");
    }
    bed.terminate(&session).await;
    own.stop().await;
}

#[tokio::test]
async fn an_agent_at_its_limit_is_ended_where_its_provider_refuses_to_pause_it_or_has_lost_it() {
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let bed = Priced::on(&own.stack, "cannot pause", 0).await;
    let client = Client::new(own.stack.base_url(), Some(&bed.platform.live_key));
    configure(&client, E2B_KEY).await;
    let session = bed.session(json!({})).await;
    let [refused, lost] = [client.boot(&session, on_e2b()).await, client.boot(&session, on_e2b()).await];
    // As E2B answers for what it cannot pause without its memory, and for what it has not.
    for (agent, status) in [(&refused, 400), (&lost, 404)] {
        let sandbox = sandboxes_of(agent).await.remove(0);
        let kind = FaultKind::Refuse { status, code: Some("words-of-the-provider".into()), headers: Vec::new() };
        let path = format!("/sandboxes/{sandbox}/pause");
        e2b_emulator().controls.fault(Fault { method: "POST".into(), path, times: 20, kind });
    }
    let limits = json!({ "maxDuration": { "seconds": 1 } });
    assert_eq!(bed.call("PATCH", &format!("/v1/sessions/{session}/limits"), limits).await.0, 200);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    bed.reconcile().await;
    for agent in [&refused, &lost] {
        let shown = bed.get(&format!("/v1/agents/{agent}")).await;
        assert_eq!(shown["status"], "completed", "{shown}");
        assert_eq!(told(&bed, agent).await[0]["metadata"]["limit"], "maxDuration");
        assert!(sandboxes_of(agent).await.is_empty(), "it runs on");
    }
    let why = bed.get(&format!("/v1/logs?agentId={refused}&level=warn")).await;
    let why = why["data"].as_array().unwrap().iter().filter(|entry| entry["source"] == "provider").count();
    assert_eq!(why, 1, "that its provider refused is told");
    bed.terminate(&session).await;
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_raised_while_it_is_being_held_pauses_nobody_and_any_other_change_keeps_nobody_running() {
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let client = own.client("test-api-key");
    let session = client.session("u").await;
    for _ in 0..3 {
        client.boot(&session, json!({})).await;
    }
    let tap = Tap::tcp(own.stack.dynamodb_url().trim_start_matches("http://").parse().unwrap()).await;
    let aws = Aws::local(&AwsEndpoints { dynamodb: tap.url(), kms: Some(own.stack.kms_url()) });
    let tapped = Arc::new(Deployment::new(&aws, own.stack.deployment().config().clone()));
    let limit = async |max: u64| {
        let path = format!("/v1/sessions/{session}/limits");
        client.call("PATCH", &path, Some(&json!({ "maxAgents": max }))).await.expect(200);
    };
    // Reconciles, and has that happen between what it has read and what it writes.
    let meanwhile = async |change: &dyn Fn() -> BoxFuture<'static, ()>| {
        tap.fail_some("TransactWriteItems", 0, 1_000, Break::Held);
        let run = tokio::spawn({
            let tapped = tapped.clone();
            async move { Box::pin(reconcile(&tapped, Boots::UnderWay)).await.unwrap() }
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!run.is_finished(), "nothing was to be written");
        change().await;
        tap.mend();
        run.await.unwrap().over_limit
    };
    let statuses = async || {
        let agents = client.get(&format!("/v1/sessions/{session}/agents")).await.expect(200)["data"].clone();
        let mut statuses: Vec<_> =
            agents.as_array().unwrap().iter().map(|agent| agent["status"].as_str().unwrap().to_owned()).collect();
        statuses.sort_unstable();
        statuses
    };
    let raise = || -> BoxFuture<'static, ()> {
        let (client, path) = (client.clone(), format!("/v1/sessions/{session}/limits"));
        Box::pin(async move {
            client.call("PATCH", &path, Some(&json!({ "maxAgents": 3 }))).await.expect(200);
        })
    };
    limit(1).await;
    assert_eq!(meanwhile(&raise).await, 0);
    assert_eq!(statuses().await, ["ready"; 3]);

    let annotate = || -> BoxFuture<'static, ()> {
        let client = client.clone();
        Box::pin(async move {
            client.post("/v1/sessions/by-user/u", json!({ "metadata": { "a": "b" } })).await.expect(200);
        })
    };
    limit(1).await;
    assert_eq!(meanwhile(&annotate).await, 2);
    assert_eq!(statuses().await, ["paused", "paused", "ready"]);
    client.terminate(&session).await;
    own.stop().await;
}
