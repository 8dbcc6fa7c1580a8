//! What one platform's provider does or does not do holds up nobody else's agents.

use crate::e2b::{configure, on_e2b, sandboxes_of};
use crate::harness::{Client, E2B_KEY, OwnStack, Platform, e2b_emulator, start_e2b_emulator};
use futures_util::future::{join, join_all};
use serde_json::json;
use std::time::{Duration, Instant};
use theazo_e2b_emulator::{Fault, FaultKind};

/// So many more than are looked after side by side that one after the other they would take minutes.
const AGENTS: usize = 15;
/// Longer than a provider is given.
const SILENCE: Duration = Duration::from_secs(40);

/// An agent at another provider, whose session is over its time in a second.
struct Limited {
    client: Client,
    session: String,
    agent: String,
}

impl Limited {
    async fn boot(own: &OwnStack, name: &str) -> Self {
        let platform = Platform::make_on(&own.stack, name).await;
        Self::boot_with(platform.client.with_key(Some(&platform.test_key))).await
    }

    async fn boot_with(client: Client) -> Self {
        let limits = json!({ "limits": { "maxDuration": { "seconds": 1 } } });
        let session = client.post("/v1/sessions", limits).await.expect(201)["id"].as_str().unwrap().to_owned();
        let agent = client.boot(&session, json!({})).await;
        Self { client, session, agent }
    }

    async fn is_paused_within(&self, time: Duration) {
        let began = Instant::now();
        let path = format!("/v1/agents/{}/status", self.agent);
        while self.client.get(&path).await.expect(200)["status"] != "paused" {
            assert!(began.elapsed() < time, "it was held up by others");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn end(self) {
        self.client.terminate(&self.session).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_whose_provider_does_not_answer_hold_up_no_other_agents_limits() {
    let (own, client) = OwnStack::start_still(None, |_| {}).await;
    configure(&client, E2B_KEY).await;
    let mut others = vec![Limited::boot(&own, "beside it").await];
    let session = client.session("u").await;
    for agent in 0..AGENTS {
        let agent_id = client.boot(&session, on_e2b()).await;
        // Whoever pauses it, now or later in this test, hears nothing.
        for sandbox in sandboxes_of(&agent_id).await {
            let millis = SILENCE.as_millis() as u64;
            let path = format!("{sandbox}/pause");
            let fault = Fault { method: "POST".into(), path, times: 20, kind: FaultKind::Delay { millis } };
            e2b_emulator().controls.fault(fault);
        }
        // Of the same platform, and among them wherever a run begins.
        if agent % (AGENTS / 3) == 0 {
            others.push(Limited::boot_with(own.client("test-api-key")).await);
        }
    }
    let limits = json!({ "maxDuration": { "seconds": 1 } });
    client.call("PATCH", &format!("/v1/sessions/{session}/limits"), Some(&limits)).await.expect(200);
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let began = Instant::now();
    let paused = join_all(others.iter().map(|other| other.is_paused_within(Duration::from_secs(25))));
    let (outcome, _) = join(own.reconcile(), paused).await;
    assert!(began.elapsed() < Duration::from_secs(110), "a run ends before its function does");
    assert_eq!((outcome.over_limit, outcome.postponed, outcome.skipped), (others.len(), AGENTS, 0), "{outcome:?}");
    client.terminate(&session).await;
    for other in others {
        other.end().await;
    }
    own.stop().await;
}

/// More than are asked side by side.
const SILENT_ACCOUNTS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_are_silent_take_no_more_of_anybodys_time_the_more_there_are() {
    let emulator = start_e2b_emulator("e2b-silent-accounts").await;
    let (own, _) = OwnStack::start_still(None, |config| config.e2b = emulator.endpoints.clone()).await;
    for index in 0..SILENT_ACCOUNTS {
        let platform = Platform::make_on(&own.stack, &format!("silent {index}")).await;
        configure(&platform.client, E2B_KEY).await;
    }
    let other = Limited::boot(&own, "beside them").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let kind = FaultKind::Delay { millis: SILENCE.as_millis() as u64 };
    emulator.controls.fault(Fault { method: "GET".into(), path: "/".into(), times: 10_000, kind });

    // An account has eighteen seconds, and those that are asked after others begin two seconds later.
    let paused = other.is_paused_within(Duration::from_secs(30));
    let (outcome, ()) = join(own.reconcile(), paused).await;
    assert_eq!(outcome.postponed, SILENT_ACCOUNTS, "all were asked");
    other.end().await;
    own.stop().await;
}
