//! An engine that fails in the middle of things: a call that it never hears of, an answer that is lost or cut, one that is
//! nonsense, and one that is a failure of its own; at every call that it is asked, one after the other.

use crate::crash_checkpoints::on_engine;
use crate::harness::{Answer, Break, Client, OwnStack, Tap, docker_engine, left_on_engine};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_functions::deployment::DockerEngine;
use theazo_providers::docker::Endpoint;

/// An engine is asked fewer calls than that for anything.
const MOST_CALLS: usize = 40;

fn faults() -> [Break; 7] {
    [
        Break::AtOnce,
        Break::AfterBytes(0),
        Break::AfterBytes(40),
        Break::InBody(1),
        Break::Nonsense,
        // As whoever stands before an engine says when it is asked too often.
        Break::Answer(429, json!({ "message": "the words of an engine" }).to_string()),
        Break::Answer(500, json!({ "message": "the words of an engine" }).to_string()),
    ]
}

/// A still stack whose engine is reached through a tap.
struct Bed {
    own: OwnStack,
    client: Client,
    tap: Tap,
    session: String,
}

impl Bed {
    async fn start(name: &str) -> Self {
        let engine = tokio::task::spawn_blocking(docker_engine).await.unwrap();
        let Endpoint::Unix(socket) = &engine.endpoint else { panic!("the engine is this machine's") };
        let ours = std::env::temp_dir().join(format!("theazo-e2e-faults-{}-{name}.sock", std::process::id()));
        let tap = Tap::unix(socket, ours.clone()).await;
        let docker = DockerEngine { endpoint: Endpoint::Unix(ours), image: engine.image.clone() };
        let (own, client) = OwnStack::start_still(Some(docker), |_| {}).await;
        let session = client.session("u").await;
        client.set_secrets(&session, json!({ "TOKEN": "the value" })).await;
        Self { own, client, tap, session }
    }

    /// Does something while one call to the engine fails, after so many that do not. Whether there was such a call.
    async fn failing<T>(&self, spared: usize, how: &Break, work: impl Future<Output = T>) -> (T, bool) {
        self.failing_often(1, spared, how, work).await
    }

    /// The same of so many calls in a row.
    async fn failing_often<T>(
        &self,
        failing: usize,
        spared: usize,
        how: &Break,
        work: impl Future<Output = T>,
    ) -> (T, bool) {
        self.tap.fail_some("", spared, failing, how.clone());
        let done = work.await;
        let came = self.tap.requests() > spared;
        self.tap.mend();
        (done, came)
    }

    /// Asks for something while the engine does not answer that one call: it is given up before the gateway gives up on us.
    /// The engine hears of the call after that.
    async fn given_up(&self, call: &str, path: &str, body: Option<&Value>) {
        self.tap.fail_some(call, 0, 1, Break::Held);
        let began = Instant::now();
        let answer = self.client.call("POST", path, body).await;
        // The gateway gives up after 29 s.
        assert!(began.elapsed() < Duration::from_secs(28), "{path}, {call}: {:?}", began.elapsed());
        assert!([502, 504].contains(&answer.status), "{path}, {call}: {answer:?}");
        assert!(self.tap.requests() > 0, "nothing was asked of {call}");
        self.tap.mend();
    }

    async fn act(&self, agent: &str, what: &str) -> Answer {
        self.client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await
    }

    async fn has_its_file_and_secret(&self, agent: &str, context: &str) {
        assert_eq!(
            self.client.run(agent, "bash", "printf %s \"$TOKEN\"; cat /data/kept").await,
            "[secret:TOKEN]kept\n",
            "{context}"
        );
    }

    async fn end(self) {
        self.client.terminate(&self.session).await;
        assert_eq!(left_on_engine(&self.own.stack).await, [""; 0]);
        self.own.stop().await;
    }
}

/// Panics unless a refusal is the provider's, in our words.
fn assert_is_providers(answer: &Answer, context: &str) {
    assert_eq!(answer.status, 502, "{context}: {answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "provider_error", "{context}: {answer:?}");
    assert!(!answer.text.contains("words of an engine"), "{context}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_whose_engine_fails_at_any_call_ends_in_one_sandbox_or_in_none() {
    let bed = Bed::start("boot").await;
    let (faults, create) = (faults(), format!("/v1/sessions/{}/agents", bed.session));
    let (mut made, mut refused) = (0, 0);
    for spared in 0..MOST_CALLS {
        let mut came = false;
        for turn in 0..2 {
            let how = &faults[(2 * spared + turn) % faults.len()];
            let context = format!("call {spared}, {how:?}");
            let (answer, is_there) = bed.failing(spared, how, bed.client.call("POST", &create, None)).await;
            came |= is_there;
            if answer.status == 201 {
                let agent = answer.json()["id"].as_str().unwrap().to_owned();
                assert_eq!(left_on_engine(&bed.own.stack).await, std::slice::from_ref(&agent), "{context}");
                bed.client.run(&agent, "bash", "echo kept > /data/kept").await;
                bed.has_its_file_and_secret(&agent, &context).await;
                bed.act(&agent, "terminate").await.expect(200);
                made += 1;
            } else {
                assert_is_providers(&answer, &context);
                refused += 1;
            }
            assert_eq!(left_on_engine(&bed.own.stack).await, [""; 0], "{context}: {answer:?}");
        }
        if !came {
            break;
        }
    }
    assert!(made >= 2 && refused >= 8, "{made} made, {refused} refused");
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_whose_engine_does_not_answer_is_given_up_in_time_and_what_it_does_late_is_removed() {
    let bed = Bed::start("late").await;
    let create = format!("/v1/sessions/{}/agents", bed.session);
    let mut came_late = false;
    for call in ["/containers/create", "/start "] {
        bed.given_up(call, &create, None).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        came_late |= !left_on_engine(&bed.own.stack).await.is_empty();
        for _ in 0..20 {
            bed.own.reconcile().await;
            if left_on_engine(&bed.own.stack).await.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(left_on_engine(&bed.own.stack).await, [""; 0], "{call}");
        let usage = bed.client.get(&format!("/v1/sessions/{}/usage", bed.session)).await.expect(200);
        assert_eq!(usage["activeAgents"], 0, "{call}");
    }
    assert!(came_late, "nothing came about late");
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_a_pause_or_an_end_whose_engine_does_not_answer_is_given_up_in_time_and_done_when_asked_again() {
    let bed = Bed::start("silent").await;
    let agent = bed.client.boot(&bed.session, json!({})).await;
    bed.client.run(&agent, "bash", "echo kept > /data/kept").await;
    let run = json!({ "language": "bash", "code": "cat /data/kept", "timeout": 2 });
    for (what, call, body) in
        [("exec", "/exec", Some(&run)), ("pause", "delete /", None), ("terminate", "delete /", None)]
    {
        let path = format!("/v1/agents/{agent}/{what}");
        bed.given_up(call, &path, body).await;
        // The same code would be answered by the failure for a minute.
        let other = body.map(|_| json!({ "language": "bash", "code": "cat /data/kept; true" }));
        let again = bed.client.call("POST", &path, other.as_ref()).await;
        assert_eq!(again.status, 200, "{what} again: {again:?}");
        let again = again.json();
        assert!(what != "exec" || again["stdout"] == "kept\n", "{again}");
        let shown = bed.client.get(&format!("/v1/agents/{agent}/status")).await.expect(200);
        let expected = match what {
            "exec" => "ready",
            "pause" => "paused",
            _ => "completed",
        };
        assert_eq!(shown["status"], expected, "{what}");
    }
    assert_eq!(left_on_engine(&bed.own.stack).await, [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_a_resume_or_an_end_whose_engine_fails_at_any_call_is_finished_by_asking_again() {
    let bed = Bed::start("life").await;
    let faults = faults();
    let agent = bed.client.boot(&bed.session, json!({})).await;
    bed.client.run(&agent, "bash", "echo kept > /data/kept").await;
    let mut again = 0;
    for spared in 0..MOST_CALLS {
        let mut came = false;
        for (turn, (what, status)) in [("pause", "paused"), ("resume", "ready")].into_iter().enumerate() {
            let how = &faults[(spared + 2 * turn) % faults.len()];
            let context = format!("{what}, call {spared}, {how:?}");
            let (answer, is_there) = bed.failing(spared, how, bed.act(&agent, what)).await;
            came |= is_there;
            if answer.status != 200 {
                assert_is_providers(&answer, &context);
                bed.act(&agent, what).await.expect(200);
                again += 1;
            }
            let shown = bed.client.get(&format!("/v1/agents/{agent}/status")).await.expect(200);
            assert_eq!(shown["status"], status, "{context}");
        }
        bed.has_its_file_and_secret(&agent, &format!("call {spared}")).await;
        if !came {
            break;
        }
    }
    assert!(again >= 4, "{again} had to be asked for again");
    bed.act(&agent, "terminate").await.expect(200);
    for spared in 0..MOST_CALLS {
        let agent = bed.client.boot(&bed.session, json!({})).await;
        let how = &faults[spared % faults.len()];
        let (answer, came) = bed.failing(spared, how, bed.act(&agent, "terminate")).await;
        if answer.status != 200 {
            assert_is_providers(&answer, &format!("terminate, call {spared}, {how:?}"));
            bed.act(&agent, "terminate").await.expect(200);
        }
        assert_eq!(left_on_engine(&bed.own.stack).await, [""; 0], "call {spared}, {how:?}");
        if !came {
            break;
        }
    }
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_or_a_boot_on_one_whose_engine_fails_at_any_call_is_finished_by_asking_again() {
    let bed = Bed::start("kept").await;
    let faults = faults();
    let agent = bed.client.boot(&bed.session, json!({})).await;
    bed.client.run(&agent, "bash", "echo kept > /data/kept").await;
    let path = format!("/v1/agents/{agent}/checkpoints");
    let (mut refused, mut again, mut made) = (0, 0, Vec::new());
    for spared in 0..MOST_CALLS {
        // Also as an engine that is asked too often goes on saying so for a while.
        let how = &faults[spared % faults.len()];
        let context = format!("call {spared}, {how:?}");
        let (answer, came) = bed.failing_often(1 + spared % 3, spared, how, bed.client.call("POST", &path, None)).await;
        if answer.status == 201 {
            made.push(answer.json()["id"].as_str().unwrap().to_owned());
        } else {
            assert_is_providers(&answer, &format!("checkpoint, {context}"));
            refused += 1;
        }
        bed.own.reconcile().await;
        let listed = bed.client.get(&path).await.expect(200);
        let listed: Vec<&str> =
            listed["data"].as_array().unwrap().iter().filter_map(|kept| kept["id"].as_str()).collect();
        // Beyond ten the oldest go.
        let expected: Vec<&str> = made.iter().rev().take(10).map(String::as_str).collect();
        assert!(
            expected.iter().all(|id| listed.contains(id)) && listed.len() == expected.len(),
            "{context}: {listed:?}"
        );
        assert_eq!(on_engine(&agent).await, (1, 1, 1 + listed.len()), "checkpoint, {context}");
        if !came {
            break;
        }
    }
    let kept = bed.client.call("POST", &path, None).await.expect(201)["id"].as_str().unwrap().to_owned();
    for spared in 0..MOST_CALLS {
        bed.client.run(&agent, "bash", "echo changed > /data/kept").await;
        bed.act(&agent, "pause").await.expect(200);
        let how = &faults[spared % faults.len()];
        let context = format!("boot on a checkpoint, call {spared}, {how:?}");
        let body = json!({ "checkpoint": kept });
        let path_of_resume = format!("/v1/agents/{agent}/resume");
        let resume = || bed.client.post(&path_of_resume, body.clone());
        let (answer, came) = bed.failing(spared, how, resume()).await;
        if answer.status != 200 {
            assert_is_providers(&answer, &context);
            resume().await.expect(200);
            again += 1;
        }
        bed.has_its_file_and_secret(&agent, &context).await;
        bed.own.reconcile().await;
        let (containers, networks, volumes) = on_engine(&agent).await;
        let listed = bed.client.get(&path).await.expect(200)["data"].as_array().unwrap().len();
        assert_eq!((containers, networks, volumes), (1, 1, 1 + listed), "{context}");
        if !came {
            break;
        }
    }
    assert!(!made.is_empty() && refused >= 2 && again >= 4, "{refused} refused, {again} asked for again");
    bed.end().await;
}
