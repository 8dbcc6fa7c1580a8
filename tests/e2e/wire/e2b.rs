//! The same of E2B: its management API, whose answers and log others read, and the daemons in sandboxes, of which a value
//! reaches its own sandbox's alone, and as a file: what starts processes there is on record.

use super::life::{STEPS, Step, Subject};
use super::{Request, Tapped, address, through};
use crate::e2b::{configure, sandboxes_of};
use crate::harness::{Break, Canary, E2B_KEY, Tap, e2b_emulator, sha256};
use memchr::memmem;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use theazo_functions::deployment::DeploymentConfig;
use theazo_providers::e2b::E2bEndpoints;

/// Of the requests that a call makes, those that are the first to fail.
const FIRST_FAILING: [usize; 2] = [0, 3];

struct OnE2b {
    tapped: Tapped,
    api: Tap,
    daemons: Tap,
    /// The platform's key for E2B, which goes to E2B's API and nowhere else.
    credential: Canary,
    /// The sandboxes of its agents, also of those that are over.
    sandboxes: BTreeSet<String>,
}

impl OnE2b {
    async fn make(name: &str) -> Self {
        let mut tapped = Tapped::start(name).await;
        let emulator = address(&e2b_emulator().endpoints.api);
        let (api, daemons) = (Tap::tcp(emulator).await, Tap::tcp(emulator).await);
        let e2b = E2bEndpoints { api: api.url(), sandbox: daemons.url() };
        let config = DeploymentConfig { e2b, ..tapped.deployment.config().clone() };
        tapped.deployment = through(&tapped.table, &tapped.kms, config);
        configure(&tapped.client, E2B_KEY).await;
        Self { tapped, api, daemons, credential: Canary::of_credential(E2B_KEY), sandboxes: BTreeSet::new() }
    }

    async fn call(&self, step: Step, subject: &Subject, turn: usize) -> (u16, Value) {
        let (method, path, body) = step.call("e2b", subject, turn);
        let request = Request { key: &self.tapped.key, once: None, method, path: &path, body };
        let (status, answer) = self.tapped.ask(request).await;
        self.credential.is_not_in(&format!("the answer {status} of {method} {path}"), answer.to_string());
        (status, answer)
    }

    async fn note(&mut self, agent: &str) {
        self.sandboxes.extend(sandboxes_of(agent).await);
    }

    /// Takes the sandboxes for its own that E2B told it of: those of boots that failed are in no list any more.
    fn note_told(&mut self) {
        for wire in self.api.wires() {
            let told = String::from_utf8_lossy(&wire.received).into_owned();
            let ids = told.split("\"sandboxID\":\"").skip(1).filter_map(|rest| rest.split('"').next());
            self.sandboxes.extend(ids.map(str::to_owned));
        }
    }

    /// Fails if the value or the platform's key is where it must not be; gives how often the value was delivered.
    fn search(&self, place: &str) -> usize {
        self.tapped.search(false);
        self.tapped.search_for(&self.credential);
        let api = self.api.wires();
        let shown = api.iter().filter(|wire| memmem::find(&wire.sent, E2B_KEY.as_bytes()).is_some());
        assert!(shown.count() > 0, "E2B's API was shown no key, {place}");
        for wire in api {
            self.credential.is_not_in(&format!("what E2B's API answered, {place}"), &wire.received);
            self.tapped.is_not_in(&format!("what E2B's API was asked, {place}"), &wire.sent);
            self.tapped.is_not_in(&format!("what E2B's API answered, {place}"), &wire.received);
        }
        let records = serde_json::to_vec(&e2b_emulator().controls.records()).unwrap();
        assert!(
            memmem::find(&records, b"process.Process/Start").is_some(),
            "what processes are started with is on record"
        );
        self.tapped.is_not_in(&format!("the records of E2B, {place}"), &records);
        self.credential.is_not_in(&format!("the records of E2B, {place}"), &records);
        let mut deliveries = 0;
        for wire in self.daemons.wires() {
            self.credential.is_not_in(&format!("what a daemon was asked, {place}"), &wire.sent);
            self.credential.is_not_in(&format!("what a daemon answered, {place}"), &wire.received);
            let (rest, delivered) = self.without_deliveries(&wire.sent);
            self.tapped.is_not_in(&format!("what a daemon was asked, {place}"), &rest);
            self.tapped.is_not_in(&format!("what a daemon answered, {place}"), &wire.received);
            deliveries += delivered;
        }
        deliveries
    }

    /// What was sent without the values in files of its own sandboxes, and how many of these there were.
    fn without_deliveries(&self, sent: &[u8]) -> (Vec<u8>, usize) {
        let value = self.tapped.canary.value().as_bytes();
        let (mut rest, mut delivered) = (sent.to_vec(), 0);
        for at in memmem::find_iter(sent, value) {
            let head_end = memmem::rfind(&sent[..at], b"\r\n\r\n").expect("a request before it");
            let head = &sent[..head_end];
            let line = memmem::rfind(head, b" HTTP/1.1\r\n").expect("a request's first line");
            let start = head[..line].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            // The body before it may have no line's end after its last byte.
            let first = String::from_utf8_lossy(&head[start..line]);
            let fields = String::from_utf8_lossy(&head[line..]).to_lowercase();
            let sandbox = fields.lines().find_map(|field| field.strip_prefix("e2b-sandbox-id: "));
            if first.contains("POST /files?") && sandbox.is_some_and(|id| self.sandboxes.contains(id)) {
                rest[at..at + value.len()].fill(b'.');
                delivered += 1;
            }
        }
        (rest, delivered)
    }
}

#[tokio::test]
async fn a_secrets_value_goes_to_e2b_as_a_file_of_its_own_sandbox_and_no_other_way() {
    let mut on_e2b = OnE2b::make("e2b-wires").await;
    let value = on_e2b.tapped.canary.value().to_owned();
    let (mut subject, mut boots) = (Subject::make(&on_e2b.tapped).await, 0);
    for (turn, step) in STEPS.into_iter().enumerate() {
        if step != Step::Boot {
            step.prepare(&on_e2b.tapped, "e2b", &mut subject).await;
        }
        let asked = on_e2b.api.requests() + on_e2b.daemons.requests();
        let (status, answer) = on_e2b.call(step, &subject, turn).await;
        assert!((200..300).contains(&status), "{step:?}: {status} {answer}");
        // The address of a port and what admits to it are made here, from what is known of the sandbox.
        let is_asked = on_e2b.api.requests() + on_e2b.daemons.requests() > asked;
        assert!(is_asked || step == Step::Port, "{step:?}: the taps have seen nothing of it");
        if step == Step::Boot {
            subject.agent = answer["id"].as_str().unwrap().to_owned();
        }
        on_e2b.note(&subject.agent).await;
        if step.boots() {
            boots += 1;
            let (_, ran) = on_e2b.call(Step::Exec, &subject, turn).await;
            assert_eq!(ran["stdout"], sha256(&value), "{step:?}: {ran}");
        }
    }
    // Two secrets have the value.
    assert_eq!((boots, on_e2b.search("while all is well")), (6, 12));
    on_e2b.tapped.client.terminate(&subject.session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secrets_value_gets_nowhere_while_e2b_fails_under_whatever_asks_it() {
    let mut on_e2b = OnE2b::make("e2b-faults").await;
    let told = json!({ "code": 500, "message": on_e2b.tapped.canary.value() }).to_string();
    let breaks = [Break::Answer(500, told), Break::AtOnce, Break::Nonsense, Break::AfterBytes(60)];
    let (mut failed, mut turn, mut subject) = (0, 0, Subject::make(&on_e2b.tapped).await);
    // There are as many ways to fail as places for it in a step: another way at each place in the next step.
    for step in STEPS {
        for of_api in [true, false] {
            for spared in FIRST_FAILING {
                step.prepare(&on_e2b.tapped, "e2b", &mut subject).await;
                on_e2b.tapped.renew();
                let tap = if of_api { &on_e2b.api } else { &on_e2b.daemons };
                tap.fail_some("", spared, 3, breaks[(turn + turn / breaks.len()) % breaks.len()].clone());
                turn += 1;
                let (status, answer) = on_e2b.call(step, &subject, turn).await;
                failed += usize::from(status >= 500);
                on_e2b.api.mend();
                on_e2b.daemons.mend();
                if let Some(made) = answer["id"].as_str().filter(|id| id.starts_with("agt_")) {
                    on_e2b.note(made).await;
                }
                on_e2b.note(&subject.agent).await;
            }
        }
    }
    on_e2b.note_told();
    on_e2b.search("while it failed");
    assert!(failed >= 12, "only {failed} calls failed");
    on_e2b.tapped.client.terminate(&subject.session).await;
}
