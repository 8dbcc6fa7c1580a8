//! The same of Fly: its API, whose answers and configurations others read, and what is on record there. A value reaches a
//! machine through a channel that nobody between can read.

use super::life::{STEPS, Step, Subject};
use super::{Request, Tapped, address, through};
use crate::fly::configure;
use crate::harness::{Break, Canary, FLY_TOKEN, Tap, fly_emulator, sha256};
use memchr::memmem;
use serde_json::{Value, json};
use theazo_functions::deployment::DeploymentConfig;
use theazo_providers::fly::FlyEndpoints;

/// Of the requests that a call makes, those that are the first to fail.
const FIRST_FAILING: [usize; 3] = [0, 2, 5];

struct OnFly {
    tapped: Tapped,
    api: Tap,
    /// The platform's token for Fly, which goes to Fly's API and nowhere else.
    credential: Canary,
}

impl OnFly {
    async fn make(name: &str) -> Self {
        let mut tapped = Tapped::start(name).await;
        let api = Tap::tcp(address(&fly_emulator().endpoints.api)).await;
        let fly = FlyEndpoints { api: api.url(), ..fly_emulator().endpoints.clone() };
        let config = DeploymentConfig { fly, ..tapped.deployment.config().clone() };
        tapped.deployment = through(&tapped.table, &tapped.kms, config);
        configure(&tapped.client, FLY_TOKEN).await;
        Self { tapped, api, credential: Canary::of_credential(FLY_TOKEN) }
    }

    async fn call(&self, step: Step, subject: &Subject, turn: usize) -> (u16, Value) {
        let (method, path, body) = step.call("fly", subject, turn);
        let request = Request { key: &self.tapped.key, once: None, method, path: &path, body };
        let (status, answer) = self.tapped.ask(request).await;
        self.credential.is_not_in(&format!("the answer {status} of {method} {path}"), answer.to_string());
        (status, answer)
    }

    /// Fails if the value is anywhere on the way, or on record at Fly, or the platform's token other than on the way there.
    fn search(&self, place: &str) {
        self.tapped.search(false);
        self.tapped.search_for(&self.credential);
        let api = self.api.wires();
        let shown = api.iter().filter(|wire| memmem::find(&wire.sent, FLY_TOKEN.as_bytes()).is_some());
        assert!(shown.count() > 0, "Fly's API was shown no token, {place}");
        for wire in api {
            self.credential.is_not_in(&format!("what Fly's API answered, {place}"), &wire.received);
            self.tapped.is_not_in(&format!("what Fly's API was asked, {place}"), &wire.sent);
            self.tapped.is_not_in(&format!("what Fly's API answered, {place}"), &wire.received);
        }
        let records = serde_json::to_vec(&fly_emulator().controls.records()).unwrap();
        assert!(memmem::find(&records, b"theazo-machine").is_some(), "what is run in machines is on record");
        self.tapped.is_not_in(&format!("the records of Fly, {place}"), &records);
        self.credential.is_not_in(&format!("the records of Fly, {place}"), &records);
    }
}

#[tokio::test]
async fn a_secrets_value_is_in_nothing_that_fly_is_asked_answers_or_has_on_record() {
    let on_fly = OnFly::make("fly-wires").await;
    let value = on_fly.tapped.canary.value().to_owned();
    let mut subject = Subject::make(&on_fly.tapped).await;
    for (turn, step) in STEPS.into_iter().enumerate() {
        if step != Step::Boot {
            step.prepare(&on_fly.tapped, "fly", &mut subject).await;
        }
        let asked = on_fly.api.requests();
        let (status, answer) = on_fly.call(step, &subject, turn).await;
        assert!((200..300).contains(&status), "{step:?}: {status} {answer}");
        // A machine that is known is spoken to directly; to be made, stopped or started it takes Fly.
        let is_spoken_to = matches!(step, Step::Exec | Step::Write | Step::Read | Step::List | Step::Port);
        assert!(is_spoken_to || on_fly.api.requests() > asked, "{step:?}: the tap has seen nothing of it");
        if step == Step::Boot {
            subject.agent = answer["id"].as_str().unwrap().to_owned();
        }
        if step.boots() {
            let (_, ran) = on_fly.call(Step::Exec, &subject, turn).await;
            assert_eq!(ran["stdout"], sha256(&value), "{step:?}: {ran}");
        }
    }
    on_fly.search("while all is well");
    on_fly.tapped.client.terminate(&subject.session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secrets_value_gets_nowhere_while_fly_fails_under_whatever_asks_it() {
    let mut on_fly = OnFly::make("fly-faults").await;
    let told = json!({ "error": on_fly.tapped.canary.value() }).to_string();
    let breaks = [Break::Answer(500, told), Break::AtOnce, Break::Nonsense, Break::AfterBytes(60)];
    let (mut failed, mut turn, mut subject) = (0, 0, Subject::make(&on_fly.tapped).await);
    for step in STEPS {
        for spared in FIRST_FAILING {
            step.prepare(&on_fly.tapped, "fly", &mut subject).await;
            on_fly.tapped.renew();
            on_fly.api.fail_some("", spared, 3, breaks[turn % breaks.len()].clone());
            turn += 1;
            let (status, _) = on_fly.call(step, &subject, turn).await;
            failed += usize::from(status >= 500);
            on_fly.api.mend();
        }
    }
    on_fly.search("while it failed");
    assert!(failed >= 8, "only {failed} calls failed");
    on_fly.tapped.client.terminate(&subject.session).await;
}
