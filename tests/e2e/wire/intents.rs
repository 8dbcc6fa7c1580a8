//! The order of what is on record and what is done: that an agent is about to be booted, paused or kept is in the audit
//! trail before its engine hears of it, and how it went only once the engine is done.

use super::Tapped;
use crate::harness::{Break, fail_agent};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use theazo_tenancy::Mode;

/// A trail, of which what is new is of interest.
struct Trail<'a> {
    tapped: &'a Tapped,
    session: &'a str,
    seen: HashSet<String>,
}

impl Trail<'_> {
    /// What was not there the last time, oldest first: action, outcome, the number of names, and the request.
    async fn news(&mut self) -> Vec<(String, String, usize, String)> {
        let path = format!("/v1/audit?session={}&limit=100", self.session);
        let page = self.tapped.client.get(&path).await.expect(200);
        let entries = page["data"].as_array().unwrap().iter().rev();
        let new = entries.filter(|entry| self.seen.insert(entry["id"].as_str().unwrap().to_owned()));
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        new.map(|entry| {
            let names = entry["names"].as_array().unwrap().len();
            (text(entry, "action"), text(entry, "outcome"), names, text(entry, "requestId"))
        })
        .collect()
    }

    /// Makes a call whose engine is kept waiting from that request on, if it makes so many. Gives the answer, and which
    /// request was the last if one was kept waiting.
    async fn held(&mut self, action: &str, spared: usize, path: &str, body: &Value) -> (Value, Option<usize>) {
        let (tapped, place) = (self.tapped, format!("{action} held at request {spared}"));
        self.news().await;
        tapped.engine.fail_some("", spared, usize::MAX, Break::Held);
        let mut calling = std::pin::pin!(tapped.call("POST", path, body.clone()));
        let waiting = async {
            let mut waits = 0..600;
            while tapped.engine.requests() <= spared {
                assert!(waits.next().is_some(), "{place}: the engine was asked {} times", tapped.engine.requests());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let early = tokio::select! {
            answer = &mut calling => Some(answer),
            () = waiting => None,
        };
        let is_held = early.is_none();
        let started = if is_held { self.news().await } else { Vec::new() };
        tapped.engine.mend();
        let (status, answer) = match early {
            Some(answer) => answer,
            None => calling.await,
        };
        assert!((200..300).contains(&status), "{place}: {answer}");
        let after = self.news().await;
        if !is_held {
            return (answer, None);
        }
        let [(what, outcome, 1, request)] = &started[..] else { panic!("{place}: {started:?}") };
        assert_eq!((what.as_str(), outcome.as_str()), (action, "started"), "{place}");
        assert_eq!(after, [(what.clone(), "succeeded".to_owned(), 1, request.clone())], "{place}");
        // Counted anew since the one that was held.
        (answer, Some(spared + tapped.engine.requests()))
    }

    /// The same at the last of the engine's requests, or near it: not every time there are as many.
    async fn held_late(&mut self, action: &str, last: usize, path: &str, undo: Option<&str>) {
        for spared in (1..=last).rev().take(8) {
            if self.held(action, spared, path, &json!({})).await.1.is_some() {
                return;
            }
            if let Some(undo) = undo {
                self.tapped.client.call("POST", undo, None).await.expect(200);
            }
        }
        panic!("{action}: no request near the {last}th was held");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_can_be_read_before_the_engine_is_asked_and_its_outcome_only_once_the_engine_is_done() {
    let tapped = Tapped::start("intents").await;
    let session = tapped.client.session("u").await;
    tapped.client.set_secrets(&session, json!({ "TOKEN": tapped.canary.value() })).await;
    let mut trail = Trail { tapped: &tapped, session: &session, seen: HashSet::new() };

    let agents = format!("/v1/sessions/{session}/agents");
    let (made, last) = trail.held("agent.boot", 0, &agents, &json!({})).await;
    trail.held_late("agent.boot", last.unwrap(), &agents, None).await;
    let agent = format!("/v1/agents/{}", made["id"].as_str().unwrap());
    for what in ["checkpoints", "restart", "pause", "resume", "retry"] {
        if what == "retry" {
            fail_agent(&tapped.platform, Mode::Live, made["id"].as_str().unwrap()).await;
        }
        let (action, path) = (format!("agent.{}", what.trim_end_matches('s')), format!("{agent}/{what}"));
        let last = trail.held(&action, 0, &path, &json!({})).await.1.unwrap();
        let other = match what {
            "pause" => Some(format!("{agent}/resume")),
            "resume" => Some(format!("{agent}/pause")),
            _ => None,
        };
        if let Some(other) = &other {
            tapped.client.call("POST", other, None).await.expect(200);
        }
        if what != "retry" {
            trail.held_late(&action, last, &path, other.as_deref()).await;
        }
    }
    tapped.search(false);
    tapped.client.terminate(&session).await;
}
