//! `cargo dev bench agents`: what agents take through the API of a local stack, each step in turns with what the provider
//! takes by itself.
//!
//! The baseline on Docker is the engine's own calls, of the same image and with nothing around them: no row, no vault, no
//! hardening, no delivered environment. On E2B and Fly it is the adapter alone, against the same emulator: the provider's
//! calls without the API, the table and the vault. An emulator's times say nothing about the service that it stands for;
//! the ratio says what Theazo adds.

use super::agents_bare::Bare;
use super::{Failure, Report, Row, Unit};
use crate::scratch::{Account, On, Prepared, Scratch};
use crate::terminal::say;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// Bytes of the file that is written and read.
pub(super) const FILE_BYTES: usize = 64 * 1024;
/// What is run.
pub(super) const CODE: &str = "print(1)";

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Agents that are made, one after the other.
    pub agents: usize,
    /// Execs of each, and writes and reads of a file.
    pub calls: usize,
}

impl Effort {
    /// Takes some minutes.
    pub const FULL: Self = Self { agents: 20, calls: 5 };
}

/// The steps of an agent's life, in order, and what is done in each.
const STEPS: [(&str, &str); 8] = [
    ("create_cold", "an agent is made with one secret, until it takes calls"),
    ("first_exec", "its first exec, of a line of Python"),
    ("exec", "later ones"),
    ("file_write", "64 KiB; on the engine alone by an exec of `cat`"),
    ("file_read", "the same, likewise"),
    ("pause", "everything goes but the files"),
    ("resume", "it boots again on its files"),
    ("terminate", "nothing is left"),
];

/// Measures the life of agents.
///
/// # Errors
/// When the engine or the emulator does not start, or a step does not do what it should.
pub async fn run(on: On, effort: Effort) -> Result<Report, Failure> {
    let scratch = Prepared::make(on).await?.start().await?;
    let measured = measure(&scratch, effort).await;
    scratch.stop().await;
    measured
}

async fn measure(scratch: &Scratch, effort: Effort) -> Result<Report, Failure> {
    let api = Api::open(scratch).await?;
    let bare = Bare::of(scratch)?;
    // Pays for connections, caches and what an engine loads once.
    let mut warmed = Samples::default();
    one_life(&api, &bare, 1, &mut warmed).await?;
    let mut samples = Samples::default();
    for n in 1..=effort.agents {
        say(&format!("    agent {n} of {}", effort.agents));
        one_life(&api, &bare, effort.calls, &mut samples).await?;
    }
    let rows = STEPS.iter().filter_map(|(name, what)| {
        let (ours, baseline) = samples.0.remove(name)?;
        Some(Row::with_all(name, Unit::Milliseconds, ours, baseline, what))
    });
    Ok(Report::new("agents", rows.collect()))
}

/// Milliseconds of each step: through the API, and by the provider alone.
#[derive(Default)]
struct Samples(BTreeMap<&'static str, (Vec<f64>, Vec<f64>)>);

impl Samples {
    /// Carries a step out in both ways, one after the other.
    async fn add<A, B>(
        &mut self,
        step: &'static str,
        ours: impl Future<Output = Result<A, Failure>>,
        baseline: impl Future<Output = Result<B, Failure>>,
    ) -> Result<(A, B), Failure> {
        let begun = Instant::now();
        let by_us = ours.await.map_err(|error| format!("{step}: {error}"))?;
        let our_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let begun = Instant::now();
        let by_provider = baseline.await.map_err(|error| format!("{step}, the provider alone: {error}"))?;
        let bare_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let (all, bare) = self.0.entry(step).or_default();
        all.push(our_ms);
        bare.push(bare_ms);
        Ok((by_us, by_provider))
    }
}

async fn one_life(api: &Api, bare: &Bare, calls: usize, samples: &mut Samples) -> Result<(), Failure> {
    let name = Bare::make_name();
    let lived = steps(api, bare, &name, calls, samples).await;
    if lived.is_err() {
        // The stack removes its own; what was made beside it is nobody's.
        let _ = bare.destroy(&name).await;
    }
    lived
}

async fn steps(api: &Api, bare: &Bare, name: &str, calls: usize, samples: &mut Samples) -> Result<(), Failure> {
    let (agent, ()) = samples.add("create_cold", api.create(), bare.create(name)).await?;
    samples.add("first_exec", api.exec(&agent), bare.exec(name)).await?;
    for _ in 0..calls {
        samples.add("exec", api.exec(&agent), bare.exec(name)).await?;
        samples.add("file_write", api.write(&agent), bare.write(name)).await?;
        samples.add("file_read", api.read(&agent), bare.read(name)).await?;
    }
    samples.add("pause", api.act(&agent, "pause"), bare.pause(name)).await?;
    samples.add("resume", api.act(&agent, "resume"), bare.resume(name)).await?;
    samples.add("terminate", api.act(&agent, "terminate"), bare.destroy(name)).await?;
    Ok(())
}

/// The API of a stack, called as a backend calls it.
struct Api {
    http: reqwest::Client,
    base: String,
    key: String,
    session: String,
}

impl Api {
    async fn open(scratch: &Scratch) -> Result<Self, Failure> {
        let key = scratch.stack.data_dir().read("api-key")?.ok_or("the stack has written no key")?;
        let (http, base) = (reqwest::Client::new(), scratch.stack.base_url());
        let mut api = Self { http, base, key, session: String::new() };
        if let Some(Account { provider, secret, key, config, .. }) = &scratch.account {
            api.call(Method::POST, "/v1/secrets", Some(json!({ *secret: key }))).await?;
            let body = json!({ "credentialRef": secret, "config": config });
            api.call(Method::PUT, &format!("/v1/providers/{provider}"), Some(body)).await?;
        }
        let session = api.call(Method::POST, "/v1/sessions/by-user/bench", None).await?;
        api.session = session["id"].as_str().ok_or("a session without an id")?.to_owned();
        let path = format!("/v1/sessions/{}/secrets", api.session);
        api.call(Method::POST, &path, Some(json!({ "TOKEN": "a value of the benchmark" }))).await?;
        Ok(api)
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        match status.is_success() {
            true if text.is_empty() => Ok(Value::Null),
            true => Ok(serde_json::from_str(&text)?),
            false => Err(format!("{status}: {text}").into()),
        }
    }

    async fn create(&self) -> Result<String, Failure> {
        let made = self.call(Method::POST, &format!("/v1/sessions/{}/agents", self.session), None).await?;
        expect(made["status"] == "ready", "the agent is not ready")?;
        Ok(made["id"].as_str().ok_or("an agent without an id")?.to_owned())
    }

    async fn exec(&self, agent: &str) -> Result<(), Failure> {
        let body = json!({ "language": "python", "code": CODE });
        let ran = self.call(Method::POST, &format!("/v1/agents/{agent}/exec"), Some(body)).await?;
        expect(ran["stdout"] == "1\n", "the program printed something else")
    }

    async fn write(&self, agent: &str) -> Result<(), Failure> {
        let body = json!({ "path": "/data/file", "data": "x".repeat(FILE_BYTES) });
        self.call(Method::POST, &format!("/v1/agents/{agent}/files"), Some(body)).await.map(drop)
    }

    async fn read(&self, agent: &str) -> Result<(), Failure> {
        let read = self.call(Method::GET, &format!("/v1/agents/{agent}/files/data/file"), None).await?;
        expect(read["size"] == FILE_BYTES, "the file has another size")
    }

    async fn act(&self, agent: &str, what: &str) -> Result<(), Failure> {
        self.call(Method::POST, &format!("/v1/agents/{agent}/{what}"), None).await.map(drop)
    }
}

pub(super) fn expect(holds: bool, otherwise: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_step_is_measured_through_the_api_and_by_the_provider_alone() {
        for on in [On::Docker, On::E2b] {
            let report = run(on, Effort { agents: 1, calls: 2 }).await.unwrap();
            let names: Vec<_> = report.rows.iter().map(|row| row.name.as_str()).collect();
            assert_eq!(names, STEPS.map(|(name, _)| name));
            for row in &report.rows {
                let n = if ["exec", "file_write", "file_read"].contains(&row.name.as_str()) { 2 } else { 1 };
                assert_eq!((row.ours.n, row.baseline.unwrap().n), (n, n), "{}", row.name);
                assert!(row.ours.p50 > 0.0 && row.ratio.is_some_and(|ratio| ratio > 0.0), "{}", row.name);
            }
            let json = serde_json::to_value(&report).unwrap();
            assert_eq!(json["rows"][2]["samples"]["baseline"].as_array().unwrap().len(), 2, "raw data are in the file");
        }
    }
}
