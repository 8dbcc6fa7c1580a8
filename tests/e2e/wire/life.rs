//! What is asked of an agent in its life at a provider: each step, and how an agent comes to where it can be asked.

use super::Tapped;
use crate::harness::fail_agent;
use serde_json::{Value, json};
use theazo_tenancy::Mode;

/// Something that is asked of an agent, and reaches its provider.
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
}

pub(super) const STEPS: [Step; 13] = [
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
];

/// An agent, and what of it is there to go back to.
#[derive(Clone, Default)]
pub(super) struct Subject {
    pub(super) agent: String,
    pub(super) checkpoint: Option<String>,
}

impl Step {
    /// Whether the agent gets its values with it.
    pub(super) const fn boots(self) -> bool {
        matches!(self, Self::Boot | Self::Restart | Self::Resume | Self::Rewind | Self::Retry)
    }

    /// The call. `turn` makes it another than the one before: an exec that has failed is answered again for a while.
    pub(super) fn call(
        self,
        session: &str,
        provider: &str,
        subject: &Subject,
        turn: usize,
    ) -> (&'static str, String, Value) {
        let of = |what: &str| format!("/v1/agents/{}/{what}", subject.agent);
        let digest = format!("printf %s \"$TOKEN\" | sha256sum | head -c 64 # {turn}");
        match self {
            Self::Boot => ("POST", format!("/v1/sessions/{session}/agents"), json!({ "provider": provider })),
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
        }
    }

    /// Brings an agent, that one or a new one, past the taps to where this can be asked of it.
    pub(super) async fn prepare(self, tapped: &Tapped, session: &str, provider: &str, subject: &mut Subject) {
        let client = &tapped.client;
        let path = |agent: &str, what: &str| format!("/v1/agents/{agent}/{what}");
        let is_ready = match subject.agent.as_str() {
            "" => false,
            agent => client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"] == "ready",
        };
        if !is_ready {
            subject.agent = client.boot(session, json!({ "provider": provider })).await;
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
            Self::Retry => fail_agent(&tapped.platform, Mode::Live, &subject.agent).await,
            _ => {}
        }
    }
}
