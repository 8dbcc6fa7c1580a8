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

    /// Makes a call whose engine is kept waiting from that request on. Gives the answer and how often it was asked.
    async fn held(&mut self, action: &str, spared: usize, path: &str, body: &Value) -> (Value, usize) {
        let (tapped, place) = (self.tapped, format!("{action} held at request {spared}"));
        self.news().await;
        tapped.engine.fail_some("", spared, usize::MAX, Break::Held);
        let looking = async {
            let mut waits = 0..600;
            while tapped.engine.requests() <= spared {
                assert!(waits.next().is_some(), "{place}: the engine was asked {} times", tapped.engine.requests());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let news = self.news().await;
            tapped.engine.mend();
            news
        };
        let (news, (status, answer)) = tokio::join!(looking, tapped.call("POST", path, body.clone()));
        assert!((200..300).contains(&status), "{place}: {answer}");
        let [(what, outcome, 1, request)] = &news[..] else { panic!("{place}: {news:?}") };
        assert_eq!((what.as_str(), outcome.as_str()), (action, "started"), "{place}");
        let after = self.news().await;
        assert_eq!(after, [(what.clone(), "succeeded".to_owned(), 1, request.clone())], "{place}");
        (answer, tapped.engine.requests())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_can_be_read_before_the_engine_is_asked_and_its_outcome_only_once_the_engine_is_done() {
    let tapped = Tapped::start("intents").await;
    let session = tapped.client.session("u").await;
    tapped.client.set_secrets(&session, json!({ "TOKEN": tapped.canary.value() })).await;
    let mut trail = Trail { tapped: &tapped, session: &session, seen: HashSet::new() };

    let agents = format!("/v1/sessions/{session}/agents");
    let (made, _) = trail.held("agent.boot", 0, &agents, &json!({})).await;
    let agent = format!("/v1/agents/{}", made["id"].as_str().unwrap());
    for what in ["checkpoints", "restart", "pause", "resume", "pause", "resume", "retry"] {
        if what == "retry" {
            fail_agent(&tapped.platform, Mode::Live, made["id"].as_str().unwrap()).await;
        }
        let action = format!("agent.{}", if what == "checkpoints" { "checkpoint" } else { what });
        trail.held(&action, 0, &format!("{agent}/{what}"), &json!({})).await;
    }
    tapped.search(false);
    tapped.client.terminate(&session).await;
}
