//! `cargo dev bench api`: what each endpoint takes, from a request as the gateway hands it over to the last byte of its
//! answer, with an embedded table and simulated agents. The network to AWS is not in it: what that adds is the round trips,
//! which are counted, times whatever one takes there.
//!
//! The baseline of an endpoint is one bare read of the table in the same run. At many rows it is the endpoint itself at few.

use super::caller::{Asked, ask, idle_agent};
use super::world::World;
use super::{Failure, Report, Row, Unit, api_cases};
use crate::terminal::say;
use api_cases::{CASES, Case};
use futures_util::future::try_join_all;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use theazo_functions::deployment::Deployment;
use theazo_functions::routes::ROUTES;
use theazo_store::{
    AgentTokens, Agents, NewAgent, NewSecret, NewSession, SecretName, SecretSealer, SecretTarget, Sessions, Table,
    now_ms,
};
use theazo_tenancy::{AgentId, SessionId, TenantScope};
use theazo_vault::SecretValue;

/// Names in one call, and secrets of one session.
const SECRETS_PER_SESSION: usize = 90;
/// Sessions that are made at once.
const AT_ONCE: usize = 32;
const HOUR_MS: i64 = 3_600_000;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Calls of each endpoint, by one caller.
    pub samples: usize,
    /// Callers at once.
    pub callers: usize,
    /// Sessions, and secrets, of the larger of the two platforms.
    pub rows: usize,
}

impl Effort {
    /// Takes some minutes, optimised.
    pub const FULL: Self = Self { samples: 200, callers: 16, rows: 100_000 };
    /// Sessions, and secrets, of the smaller.
    const FEW: usize = 10;
}

/// Measures every endpoint; of a stream, the time until its first entry.
///
/// # Errors
/// When the embedded services do not start, or an endpoint does not answer as it should.
pub async fn run(effort: Effort) -> Result<Report, Failure> {
    let few = Arc::new(Place::make(Effort::FEW).await?);
    say(&format!("    {} sessions and secrets are made", effort.rows));
    let many = Arc::new(Place::make(effort.rows).await?);
    let mut rows = Vec::new();
    for case in CASES {
        say(&format!("    {}", case.name));
        rows.extend(measure(case, &few, &many, effort).await?);
    }
    Ok(Report::new("api", rows))
}

async fn measure(
    case: &'static Case,
    few: &Arc<Place>,
    many: &Arc<Place>,
    effort: Effort,
) -> Result<[Row; 3], Failure> {
    let (mut alone, mut bare, mut grown, mut trips) = (Vec::new(), Vec::new(), Vec::new(), 0);
    // The first calls pay for connections and caches.
    for place in [few, many] {
        place.call(case).await?;
    }
    for _ in 0..effort.samples {
        let (ms, counted) = few.call(case).await?;
        alone.push(ms);
        trips = trips.max(counted);
        bare.push(few.bare_read().await?);
        grown.push(many.call(case).await?.0);
    }
    let each = effort.samples.div_ceil(effort.callers).max(2);
    let together =
        at_once(effort.callers, each, few, move |place| async move { Ok(place.call(case).await?.0) }).await?;
    let bare_together = at_once(effort.callers, each, few, |place| async move { place.bare_read().await }).await?;
    let row = |name: String, ours, baseline| Row::new(name, Unit::Milliseconds, ours, Some(baseline), "");
    Ok([
        row(case.name.to_owned(), alone.clone(), bare).with_trips(trips),
        row(format!("{}@{}", case.name, effort.callers), together, bare_together),
        row(format!("{}@{}", case.name, effort.rows), grown, alone),
    ])
}

/// The samples of so many callers that call again and again at the same time.
async fn at_once<F>(
    callers: usize,
    each: usize,
    place: &Arc<Place>,
    call: impl Fn(Arc<Place>) -> F + Clone + Send + 'static,
) -> Result<Vec<f64>, Failure>
where
    F: Future<Output = Result<f64, Failure>> + Send,
{
    let tasks = (0..callers).map(|_| {
        let (place, call) = (place.clone(), call.clone());
        tokio::spawn(async move {
            let mut samples = Vec::with_capacity(each);
            for _ in 0..each {
                samples.push(call(place.clone()).await?);
            }
            Ok::<_, Failure>(samples)
        })
    });
    let samples = try_join_all(tasks).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(samples.into_iter().flatten().collect())
}

/// A deployment with one platform. Its test key calls, but for reports: what test agents do is no usage, and costs no reads.
struct Place {
    deployment: Deployment,
    table: Table,
    sessions: Sessions,
    scope: TenantScope,
    key: String,
    live_key: String,
    session: SessionId,
    /// What stands for what in paths and bodies.
    words: BTreeMap<&'static str, String>,
    count: AtomicUsize,
    _world: World,
}

impl Place {
    async fn make(rows: usize) -> Result<Self, Failure> {
        let world = World::start().await?;
        let deployment = world.deployment()?;
        let sessions = Sessions::new(world.table.clone());
        let scope = world.test_scope();
        let mut made = Vec::with_capacity(rows);
        for start in (0..rows).step_by(AT_ONCE) {
            let some = (start..rows.min(start + AT_ONCE)).map(|n| {
                let new =
                    NewSession { user: theazo_tenancy::UserId::parse(&format!("user-{n}")), ..NewSession::default() };
                let (sessions, scope) = (&sessions, &scope);
                async move { sessions.create(scope, &new).await }
            });
            made.extend(try_join_all(some).await?.into_iter().map(|session| session.id));
        }
        let sealer = SecretSealer::new(world.table.clone(), world.cold_keys());
        for (index, session) in made.iter().take(rows.div_ceil(SECRETS_PER_SESSION)).enumerate() {
            let count = SECRETS_PER_SESSION.min(rows - index * SECRETS_PER_SESSION);
            let secrets = (0..count).map(|n| {
                let value = SecretValue::from_bytes(vec![b'v'; 64]);
                let name = SecretName::parse(&format!("NAME_{n}"))?;
                Ok(NewSecret { name, value, expires_at_ms: None, mask: true, inherit: true })
            });
            let secrets = secrets.collect::<Result<Vec<_>, Failure>>()?;
            let target = SecretTarget::Session(session.clone());
            let read = sealer.load(&scope, &target).await?;
            sealer.set(&scope, &target, read, &secrets).await?;
        }
        // Endpoints are asked about a session with ten secrets, whatever there is besides.
        let session = sessions.create(&scope, &NewSession::default()).await?.id;
        let (key, live_key) = (world.test_key(), world.live_key());
        // What is reported of: one that runs, of which something is not booked yet.
        let live = sessions.create(&world.scope, &NewSession::default()).await?;
        let agents = Agents::new(world.table.clone());
        let agent =
            agents.begin_boot(&world.scope, &live, NewAgent { provider: "docker".into(), ..idle_agent() }).await?;
        agents.become_ready(&world.scope, &agent.id, None, |_| true, |_| {}).await?;
        let count = AtomicUsize::new(0);
        let table = world.table.clone();
        let words = BTreeMap::new();
        let mut place =
            Self { deployment, table, sessions, scope, key, live_key, session, words, count, _world: world };
        place.words.insert("$session", place.session.to_string());
        let names: Vec<String> = (0..10).map(|n| format!("\"NAME_{n}\": \"{}\"", "v".repeat(64))).collect();
        place.ask("POST", "/v1/sessions/$session/secrets", &format!("{{{}}}", names.join(", "))).await?;
        place.ask("POST", "/v1/secrets", r#"{"SHARED": "value of a shared secret"}"#).await?;
        let agent = place.ask("POST", "/v1/sessions/$session/agents", "").await?;
        place.words.insert("$agent", agent["id"].as_str().ok_or("an agent without an id")?.to_owned());
        place.ask("POST", "/v1/agents/$agent/files", r#"{"path": "/data/kept", "data": "0123456789"}"#).await?;
        // For what begins and ends agents, so that the other keeps one.
        let work = place.sessions.create(&place.scope, &NewSession::default()).await?.id;
        place.words.insert("$work", work.to_string());
        Ok(place)
    }

    /// A read of one row and nothing else: milliseconds.
    async fn bare_read(&self) -> Result<f64, Failure> {
        let started = Instant::now();
        self.sessions.get(&self.scope, &self.session).await?.ok_or("the session is gone")?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }

    /// An endpoint's call, with what it needs before and after, which is not measured: milliseconds, and the sequential
    /// round trips of it.
    async fn call(&self, case: &Case) -> Result<(f64, usize), Failure> {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let mut words = self.words.clone();
        words.insert("$count", n.to_string());
        if case.path.contains("$token") {
            let (agent, token) = self.make_reporter().await?;
            words.extend([("$reporter", agent.to_string()), ("$token", token)]);
        }
        for (method, path, body) in case.before {
            // One that goes wrong shows in the call that needed it.
            let asked = self.send(&words, method, path, body).await?;
            note_new(&mut words, &asked);
        }
        let route = ROUTES.iter().find(|route| route.info.name == case.name).ok_or("no such route")?;
        let asked = self.send(&words, route.info.method, case.path, case.body).await?;
        if case.beaten != Some(asked.status.as_u16()) {
            asked.expect_success()?;
        }
        note_new(&mut words, &asked);
        for (method, path, body) in case.after {
            self.send(&words, method, path, body).await?.expect_success()?;
        }
        Ok((asked.ms, asked.trips))
    }

    /// An agent that runs as far as the table knows, and its token.
    async fn make_reporter(&self) -> Result<(AgentId, String), Failure> {
        let work = SessionId::parse(&self.words["$work"])?;
        let session = self.sessions.get(&self.scope, &work).await?.ok_or("the session is gone")?;
        let agents = Agents::new(self.table.clone());
        let agent = agents.begin_boot(&self.scope, &session, idle_agent()).await?;
        let tokens = AgentTokens::new(self.table.clone(), self.deployment.config().name.clone(), Some("http://agent"));
        let token = tokens.make(&self.scope, &agent).ok_or("agents have an endpoint")?;
        let values = token.values();
        let sealed = tokens.seal(&self.scope, &agent.id, &token, &values, now_ms() + HOUR_MS)?;
        tokens.keep(Some(sealed)).await?;
        agents.become_ready(&self.scope, &agent.id, Some(&token), |_| true, |_| {}).await?;
        Ok((agent.id, token.text().to_owned()))
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value, Failure> {
        let asked = self.send(&self.words, method, path, body).await?;
        asked.expect_success()?;
        Ok(asked.json())
    }

    async fn send(
        &self,
        words: &BTreeMap<&'static str, String>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Asked, Failure> {
        let fill = |text: &str| words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
        let path = fill(path);
        let reports = ["/v1/usage/", "/v1/metrics"].iter().any(|about| path.starts_with(about));
        let key = if reports { &self.live_key } else { &self.key };
        ask(&self.deployment, key, method, &path, fill(body)).await
    }
}

/// The first id that is answered is `$new`.
fn note_new(words: &mut BTreeMap<&'static str, String>, asked: &Asked) {
    if let Some(id) = asked.json()["id"].as_str() {
        words.entry("$new").or_insert_with(|| id.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each route takes one after the other with a test key, and with a live one where it reports: an agent of a test
    /// key has its disk in the table, so that files and pauses cost more here than where agents are sandboxes. Of 200
    /// calls in a row none took more than one more.
    #[rustfmt::skip]
    const MOST_TRIPS: &[(&str, usize)] = &[
        ("health", 0),
        ("openapi", 0),
        ("docs", 0),
        ("whoami", 1),
        ("api-keys-create", 2),
        ("api-keys-list", 2),
        ("api-keys-rotate", 4),
        ("api-keys-delete", 4),
        ("sessions-create", 2),
        ("sessions-by-user", 2),
        ("sessions-list", 1),
        ("sessions-get", 1),
        ("sessions-limits-get", 1),
        ("sessions-limits-set", 2),
        ("sessions-usage", 2),
        ("sessions-tokens-create", 2),
        ("sessions-tokens-delete", 3),
        ("sessions-pause", 5),
        ("sessions-resume", 4),
        ("sessions-terminate", 7),
        ("secrets-set", 2),
        ("secrets-list", 1),
        ("secrets-delete", 2),
        ("platform-secrets-set", 2),
        ("platform-secrets-list", 1),
        ("platform-secrets-delete", 2),
        ("agents-create", 8),
        ("agents-list-of-session", 1),
        ("agents-list", 1),
        ("agents-get", 1),
        ("agents-status", 1),
        ("agents-exec", 2),
        ("agents-files-write", 5),
        ("agents-files-list", 2),
        ("agents-files-read", 3),
        ("agents-secrets-list", 2),
        ("agents-progress", 1),
        ("agents-checkpoints-create", 9),
        ("agents-checkpoints-list", 1),
        ("agents-ports-open", 2),
        ("agents-pause", 10),
        ("agents-resume", 8),
        ("agents-restart", 12),
        ("agents-terminate", 8),
        ("agents-retry", 10),
        ("agents-logs-stream", 1),
        ("providers-list", 1),
        ("providers-set", 3),
        ("providers-delete", 5),
        ("usage-summary", 3),
        ("usage-user", 3),
        ("usage-daily", 3),
        ("usage-by-provider", 3),
        ("usage-export", 3),
        ("metrics-summary", 3),
        ("metrics-series", 2),
        ("audit-list", 1),
        ("logs-list", 1),
        ("logs-stream", 1),
        ("sandbox-log", 2),
        ("sandbox-model", 2),
        ("sandbox-span", 2),
        ("sandbox-progress", 2),
        ("sandbox-complete", 2),
    ];

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_endpoint_is_measured_alone_at_once_and_at_more_rows() {
        assert_eq!((Effort::FULL.callers, Effort::FEW, Effort::FULL.rows), (16, 10, 100_000));
        let report = run(Effort { samples: 1, callers: 2, rows: 20 }).await.unwrap();
        assert_eq!(report.rows.len(), 3 * CASES.len());
        for row in &report.rows {
            assert!(row.ours.p50 > 0.0 && row.baseline.is_some() && row.ratio.is_some(), "{}", row.name);
        }
        // Reads are one round trip, reports three (what is booked lies between two looks at what runs), and what the
        // description says of other routes holds here too.
        for (name, trips) in [
            ("sessions-get", 1),
            ("secrets-list", 1),
            ("usage-summary", 3),
            ("usage-user", 3),
            ("usage-daily", 3),
            ("usage-by-provider", 3),
            ("metrics-summary", 3),
            ("sessions-create", 2),
            ("whoami", 1),
            ("health", 0),
        ] {
            let row = report.rows.iter().find(|row| row.name == name).unwrap();
            assert_eq!(row.trips, Some(trips), "{name}");
        }
        // Each writes what it logs besides.
        let counted: Vec<(&str, usize)> =
            report.rows.iter().filter_map(|row| Some((row.name.as_str(), row.trips?))).collect();
        assert!(counted.iter().map(|(name, _)| *name).eq(MOST_TRIPS.iter().map(|(name, _)| *name)));
        for ((name, trips), (_, most)) in counted.into_iter().zip(MOST_TRIPS) {
            // Calls side by side count as one after the other where one has ended before the other could begin.
            assert!(trips <= *most + 1, "{name} took {trips} round trips, more than {most}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["bench"], &json["rows"][0]["name"]), (&Value::from("api"), &Value::from(CASES[0].name)));
        assert!(json["rows"][0]["roundTrips"].is_u64() && json["rows"][1].get("roundTrips").is_none());
    }
}
