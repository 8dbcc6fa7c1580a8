//! What is asked of an agent and its session in its life at a provider: each step, and how they come to where it can be
//! asked.

use super::Tapped;
use crate::harness::fail_agent;
use serde_json::{Value, json};
use theazo_tenancy::Mode;

/// Something that is asked of an agent, or of its session, and reaches its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Boot,
    Exec,
    Write,
    Read,
    List,
    Port,
    Checkpoint,
    Restart,
    Pause,
    Resume,
    /// A resume with the files of a checkpoint.
    Rewind,
    Retry,
    Terminate,
    /// How the provider is, with the platform's credential.
    Health,
    PauseSession,
    ResumeSession,
    TerminateSession,
}

pub(super) const STEPS: [Step; 17] = [
    Step::Boot,
    Step::Exec,
    Step::Write,
    Step::Read,
    Step::List,
    Step::Port,
    Step::Checkpoint,
    Step::Restart,
    Step::Pause,
    Step::Resume,
    Step::Rewind,
    Step::Retry,
    Step::Terminate,
    Step::Health,
    Step::PauseSession,
    Step::ResumeSession,
    Step::TerminateSession,
];

/// A session with values, an agent of it, and what of the agent is there to go back to.
#[derive(Clone, Default)]
pub(super) struct Subject {
    pub(super) session: String,
    pub(super) agent: String,
    pub(super) checkpoint: Option<String>,
}

impl Subject {
    /// A new session, without an agent yet. Two of its secrets have the value.
    pub(super) async fn make(tapped: &Tapped) -> Self {
        let made = tapped.client.post("/v1/sessions", json!({})).await.expect(201);
        let session = made["id"].as_str().unwrap().to_owned();
        let value = tapped.canary.value();
        let secrets = json!({ "TOKEN": value, "OTHER": { "value": value, "mask": false } });
        tapped.client.set_secrets(&session, secrets).await;
        Self { session, ..Self::default() }
    }
}

impl Step {
    /// Whether the agent gets its values with it.
    pub(super) const fn boots(self) -> bool {
        matches!(self, Self::Boot | Self::Restart | Self::Resume | Self::Rewind | Self::Retry | Self::ResumeSession)
    }

    /// The call. `turn` makes it another than the one before: an exec that has failed is answered again for a while.
    pub(super) fn call(self, provider: &str, subject: &Subject, turn: usize) -> (&'static str, String, Value) {
        let of_session = |what: &str| format!("/v1/sessions/{}/{what}", subject.session);
        let of = |what: &str| format!("/v1/agents/{}/{what}", subject.agent);
        let digest = format!("printf %s \"$TOKEN\" | sha256sum | head -c 64 # {turn}");
        match self {
            Self::Boot => ("POST", of_session("agents"), json!({ "provider": provider })),
            Self::Exec => ("POST", of("exec"), json!({ "language": "bash", "code": digest })),
            Self::Write => ("POST", of("files"), json!({ "path": "/data/kept", "data": "kept" })),
            Self::Read => ("GET", of("files/data/kept"), Value::Null),
            Self::List => ("GET", of("files?dir=/data"), Value::Null),
            Self::Port => ("POST", of("ports"), json!({ "port": 3000 })),
            Self::Checkpoint => ("POST", of("checkpoints"), json!({})),
            Self::Restart => ("POST", of("restart"), Value::Null),
            Self::Pause => ("POST", of("pause"), Value::Null),
            Self::Resume => ("POST", of("resume"), Value::Null),
            Self::Rewind => ("POST", of("resume"), json!({ "checkpoint": subject.checkpoint })),
            Self::Retry => ("POST", of("retry"), Value::Null),
            Self::Terminate => ("POST", of("terminate"), Value::Null),
            Self::Health => ("GET", "/v1/providers".into(), Value::Null),
            Self::PauseSession => ("POST", of_session("pause"), Value::Null),
            Self::ResumeSession => ("POST", of_session("resume"), Value::Null),
            Self::TerminateSession => ("POST", of_session("terminate"), Value::Null),
        }
    }

    /// Brings an agent, that one or a new one, past the taps to where this can be asked of it, or of its session.
    pub(super) async fn prepare(self, tapped: &Tapped, provider: &str, subject: &mut Subject) {
        let client = &tapped.client;
        let session = client.get(&format!("/v1/sessions/{}", subject.session)).await.expect(200);
        if session["status"] != "active" {
            // Ended, or to be: what an interrupted end has left goes as well.
            client.terminate(&subject.session).await;
            *subject = Subject::make(tapped).await;
        }
        let path = |agent: &str, what: &str| format!("/v1/agents/{agent}/{what}");
        let is_ready = match subject.agent.as_str() {
            "" => false,
            agent => client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"] == "ready",
        };
        if !is_ready {
            subject.agent = client.boot(&subject.session, json!({ "provider": provider })).await;
            subject.checkpoint = None;
            let kept = json!({ "path": "/data/kept", "data": "kept" });
            client.post(&path(&subject.agent, "files"), kept).await.expect(204);
        }
        if matches!(self, Self::Rewind | Self::Retry) && subject.checkpoint.is_none() {
            let made = client.post(&path(&subject.agent, "checkpoints"), json!({})).await.expect(201);
            subject.checkpoint = made["id"].as_str().map(str::to_owned);
        }
        match self {
            Self::Resume | Self::Rewind => {
                client.call("POST", &path(&subject.agent, "pause"), None).await.expect(200);
            }
            Self::ResumeSession => {
                let pause = format!("/v1/sessions/{}/pause", subject.session);
                client.call("POST", &pause, None).await.expect(200);
            }
            Self::Retry => fail_agent(&tapped.platform, Mode::Live, &subject.agent).await,
            _ => {}
        }
    }
}
