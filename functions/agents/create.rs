//! `POST /v1/sessions/{id}/agents`

use super::{Sandboxes, failure, lifecycle, parse_compute, show};
use crate::idempotency::once;
use futures_util::future::{join, try_join};
use std::time::Duration;
use theazo_http::{Answer, ApiError, Call, ErrorCode, Fields};
use theazo_providers::{Environment, Provider, ProviderError, ProviderKind, Sandbox, SandboxSpec};
use theazo_store::{
    Agent, AgentCopies, AgentStatus, Agents, NewAgent, OpenedSecret, Replays, SealedSecrets, SecretName, SecretOpener,
    SecretSelection, Session, SessionStatus, Sessions, StoreError, now_ms,
};
use theazo_tenancy::{Mode, ReadScope, SessionId, TenantScope};
use theazo_vault::SecretValue;
use tokio::time::Instant;

/// What is part of the contract and not built yet.
const UNBUILT: &[&str] = &[
    "browser",
    "gpu",
    "guardrails",
    "approvals",
    "knowledge",
    "definition",
    "providerFallback",
    "region",
    "costCap",
    "lifecycle",
];
const DEFAULT_TIMEOUT_MS: i64 = 60 * 60 * 1000;
const MAX_TIMEOUT_MS: i64 = 24 * 60 * 60 * 1000;
const MAX_INSTRUCTIONS: usize = 64 * 1024;
const MAX_TOOLS: usize = 64 * 1024;
const MAX_METADATA: usize = 64;
/// All that a session and its platform can have.
const MAX_SELECTED: usize = 2 * theazo_store::MAX_NAMES_PER_SCOPE;
/// How long a boot may take. A create answers within 25 s; the rest is for taking back what was made.
const BOOT_TIMEOUT: Duration = Duration::from_secs(18);
/// When taking back what was made is left to the scheduled clean-up, counted from the request's beginning.
const ANSWER_WITHIN: Duration = Duration::from_secs(24);
/// How long after an agent's time is over the table may keep its copies, should nobody have removed them.
const COPIES_OUTLIVE_MS: i64 = 24 * 60 * 60 * 1000;
/// How often a session that changes under our hands is read again.
const ATTEMPTS: u32 = 20;

struct Wanted {
    session: SessionId,
    new: NewAgent,
    selection: SecretSelection,
}

/// Boots an agent with the session's secrets in its environment.
pub async fn handle(
    call: Call,
    sessions: Sessions,
    agents: Agents,
    opener: SecretOpener,
    copies: AgentCopies,
    sandboxes: Sandboxes,
    replays: Replays,
) -> Result<Answer, ApiError> {
    let answer_by = Instant::now() + ANSWER_WITHIN;
    let read = |scope: ReadScope| {
        let (call, sessions, opener) = (&call, &sessions, &opener);
        async move {
            let wanted = parse(call, scope.mode())?;
            let session = sessions.get(&scope, &wanted.session);
            let (session, sealed) = try_join(session, opener.load(&scope, &wanted.session)).await?;
            Ok((wanted, session, sealed))
        }
    };
    let (principal, (wanted, session, sealed)) = call.authenticate_with(read).await?;
    let scope = principal.scope();
    let session = session.filter(|session| scope.sees(&session.id)).ok_or_else(ApiError::not_found)?;
    let work = async {
        let provider = sandboxes.provider(&scope, &wanted.new.provider)?;
        let opened = opener.open(&scope, &sealed, &wanted.selection, now_ms()).await?;
        let agent = begin(&scope, session, wanted.new, &opened, &sessions, &agents).await?;
        let booted = boot(&scope, &agent, &sealed, opened, &copies, &*provider).await;
        let agent = finish(&scope, agent, booted, &agents, &sandboxes, answer_by).await?;
        Answer::json(201, &show(&agent))
    };
    once(&call, &principal, &replays, None, work).await
}

/// Records how a boot went. After one that failed, nothing of the agent may stay.
async fn finish(
    scope: &TenantScope,
    agent: Agent,
    booted: Result<Sandbox, ApiError>,
    agents: &Agents,
    sandboxes: &Sandboxes,
    answer_by: Instant,
) -> Result<Agent, ApiError> {
    let ready = match booted {
        Ok(sandbox) => {
            let ready = agents.transition(scope, &agent.id, AgentStatus::Ready, |agent| {
                agent.ready_at_ms = Some(now_ms());
                agent.region = sandbox.region.clone();
            });
            ready.await.map_err(ApiError::from)
        }
        Err(failure) => Err(failure),
    };
    match ready {
        Ok(agent) => Ok(agent),
        Err(failure) => {
            let ended = undo(scope, &agent, agents, sandboxes, answer_by).await;
            // Someone who ended the agent took its sandbox away; that is no fault of the provider's.
            Err(if ended { ended_meanwhile() } else { failure })
        }
    }
}

fn parse(call: &Call, mode: Mode) -> Result<Wanted, ApiError> {
    let session = call.request().session_id()?;
    let fields = call.request().fields(true)?;
    fields.refuse_unbuilt(UNBUILT)?;
    let compute = fields.one_of("compute", parse_compute)?.unwrap_or("python");
    if compute == "go" {
        return Err(ApiError::not_built("compute.go"));
    }
    let provider = provider_for(mode, fields.one_of("provider", ProviderKind::parse)?)?;
    let tools = fields.raw("tools").map(ToString::to_string);
    if tools.as_ref().is_some_and(|tools| tools.len() > MAX_TOOLS) {
        return Err(ApiError::invalid("tools", "must be at most 64 KiB of JSON"));
    }
    let new = NewAgent {
        provider: provider.as_str().to_owned(),
        compute: compute.to_owned(),
        region: None,
        model: fields.text("model", 256)?.map(str::to_owned),
        instructions: fields.text("instructions", MAX_INSTRUCTIONS)?.map(str::to_owned),
        tools,
        metadata: fields.texts("metadata", MAX_METADATA)?.unwrap_or_default(),
        internet: read_internet(&fields)?,
        timeout_ms: fields.duration_ms("timeout", 1000, MAX_TIMEOUT_MS)?.unwrap_or(DEFAULT_TIMEOUT_MS),
        secrets: Vec::new(),
    };
    Ok(Wanted { session, new, selection: read_selection(&fields)? })
}

/// Where an agent runs whose creator asked for that provider. Test keys may name any, as their code will with a live key.
fn provider_for(mode: Mode, asked: Option<ProviderKind>) -> Result<ProviderKind, ApiError> {
    match (mode, asked.unwrap_or(ProviderKind::Docker)) {
        (Mode::Test, _) => Ok(ProviderKind::Simulated),
        (Mode::Live, ProviderKind::Docker) => Ok(ProviderKind::Docker),
        (Mode::Live, ProviderKind::Simulated) => Err(ApiError::invalid("provider", "is simulated for test keys only")),
        (Mode::Live, other) => Err(ApiError::not_built(&format!("provider.{}", other.as_str()))),
    }
}

fn read_internet(fields: &Fields) -> Result<bool, ApiError> {
    let Some(network) = fields.object("network")? else { return Ok(true) };
    if let Some(other) = network.names().find(|name| *name != "internet") {
        return Err(ApiError::not_built(&format!("network.{other}")));
    }
    Ok(network.flag("internet")?.unwrap_or(true))
}

fn read_selection(fields: &Fields) -> Result<SecretSelection, ApiError> {
    let Some(names) = fields.text_list("secrets")? else { return Ok(SecretSelection::All) };
    if names.len() > MAX_SELECTED {
        return Err(ApiError::invalid("secrets", "must name at most 200 secrets"));
    }
    let parsed = names
        .into_iter()
        .map(|name| SecretName::parse(name).map_err(|error| ApiError::invalid("secrets", &format!("a name {error}"))));
    let mut selected: Vec<SecretName> = parsed.collect::<Result<_, _>>()?;
    selected.sort_by(|a, b| a.canonical().cmp(b.canonical()));
    selected.dedup_by(|a, b| a.canonical() == b.canonical());
    Ok(SecretSelection::Only(selected))
}

/// Records the agent, reading the session again when it changes under our hands.
async fn begin(
    scope: &TenantScope,
    mut session: Session,
    mut new: NewAgent,
    opened: &[OpenedSecret],
    sessions: &Sessions,
    agents: &Agents,
) -> Result<Agent, ApiError> {
    new.secrets = opened.iter().map(|secret| secret.booted.clone()).collect();
    for _ in 0..ATTEMPTS {
        if session.status != SessionStatus::Active {
            let why = format!("the session is {}", session.status.as_str());
            return Err(ApiError::new(ErrorCode::Conflict, why));
        }
        match agents.begin_boot(scope, &session, new.clone()).await {
            Err(StoreError::Conflict(_)) => {
                session = sessions.get(scope, &session.id).await?.ok_or_else(ApiError::not_found)?;
            }
            other => return Ok(other?),
        }
    }
    Err(StoreError::Contended(ATTEMPTS).into())
}

/// Makes the sandbox with its environment and, side by side, writes the copies that its output is masked with: they are
/// there before the agent takes its first call.
async fn boot(
    scope: &TenantScope,
    agent: &Agent,
    sealed: &SealedSecrets,
    opened: Vec<OpenedSecret>,
    copies: &AgentCopies,
    provider: &dyn Provider,
) -> Result<Sandbox, ApiError> {
    let spec = SandboxSpec {
        agent: agent.id.to_string(),
        session: agent.session.to_string(),
        platform: scope.platform().to_string(),
        lifetime: Duration::from_millis(u64::try_from(agent.timeout_ms).unwrap_or(0)),
        internet: agent.internet,
    };
    let gone_by_ms = agent.deadline_ms().saturating_add(COPIES_OUTLIVE_MS);
    let kept = copies.keep(copies.seal(scope, &agent.id, sealed, &opened, gone_by_ms).await?);
    let environment = environment(agent, opened);
    let created = async {
        let created = tokio::time::timeout(BOOT_TIMEOUT, provider.create(&spec, &environment)).await;
        created.unwrap_or(Err(ProviderError::TimedOut))
    };
    let (kept, created) = join(kept, created).await;
    kept?;
    created.map_err(|error| failure::to_api(&agent.provider, &error))
}

/// The agent's own variables, then its secrets under their canonical, uppercase names.
fn environment(agent: &Agent, opened: Vec<OpenedSecret>) -> Environment {
    let mut environment = Environment::default();
    environment.set("THEAZO_AGENT_ID", SecretValue::from_text(agent.id.to_string()));
    environment.set("THEAZO_SESSION_ID", SecretValue::from_text(agent.session.to_string()));
    for secret in opened {
        environment.set(secret.booted.name, secret.value);
    }
    environment
}

fn ended_meanwhile() -> ApiError {
    ApiError::new(ErrorCode::Conflict, "the agent was ended while it booted")
}

/// Takes a failed boot back: the caller's answer is an error, so nothing of it may stay. What cannot be removed now
/// stays on the work list. Whether it failed because somebody else had ended the agent.
async fn undo(scope: &TenantScope, agent: &Agent, agents: &Agents, sandboxes: &Sandboxes, answer_by: Instant) -> bool {
    match tokio::time::timeout_at(answer_by, lifecycle::take_back(scope, agent, agents, sandboxes)).await {
        Ok(Ok(agent)) => agent.status == AgentStatus::Completed,
        Err(_) => {
            tracing::error!(agent = %agent.id, "a failed boot could not be taken back in time");
            false
        }
        Ok(Err(error)) => {
            tracing::error!(agent = %agent.id, ?error, "a failed boot could not be taken back yet");
            false
        }
    }
}
