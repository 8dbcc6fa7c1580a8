//! `POST /v1/sessions/{id}/agents`

use super::again::expect_active;
use super::boot::{Boot, booted_with};
use super::sandboxes::Place;
use super::{Sandboxes, parse_compute, show};
use crate::idempotency::once;
use crate::providers::{MAX_REGION, is_region};
use futures_util::future::try_join;
use theazo_http::{Answer, ApiError, Call, ErrorCode, Fields, MAX_CENTS};
use theazo_providers::ProviderKind;
use theazo_store::{
    Agent, AgentCopies, AgentTokens, Agents, NewAgent, Replays, SecretName, SecretOpener, SecretSelection, Session,
    Sessions, StoreError, now_ms,
};
use theazo_tenancy::{Mode, ReadScope, SessionId, TenantScope};

/// What is part of the contract and not built yet.
const UNBUILT: &[&str] = &["browser", "gpu", "guardrails", "approvals", "knowledge", "definition"];
/// Most providers that a create may fall back to.
const MAX_FALLBACKS: usize = 3;
/// How often another host is looked for when one had no room after all.
const MAX_HOSTS_TRIED: usize = 3;
const DEFAULT_TIMEOUT_MS: i64 = 60 * 60 * 1000;
const MAX_TIMEOUT_MS: i64 = 24 * 60 * 60 * 1000;
/// Calls are noted to half a minute, so a shorter time without any says little.
const MIN_AUTO_PAUSE_MS: i64 = 60 * 1000;
const MAX_INSTRUCTIONS: usize = 64 * 1024;
const MAX_TOOLS: usize = 64 * 1024;
const MAX_METADATA: usize = 64;
/// All that a session and its platform can have.
const MAX_SELECTED: usize = 2 * theazo_store::MAX_NAMES_PER_SCOPE;
/// How often a session that changes under our hands is read again.
const ATTEMPTS: u32 = 20;

struct Wanted {
    session: SessionId,
    new: NewAgent,
    selection: SecretSelection,
    /// Where it may run, the first before the next. Empty: wherever the platform's agents run.
    providers: Vec<ProviderKind>,
}

/// Boots an agent with the session's secrets in its environment. Where a provider fails, or has no room, the next of
/// those that the caller has named, or that the platform has, is tried, as a new agent: of the one before nothing is
/// left at its provider.
#[expect(clippy::too_many_arguments, reason = "each is a capability that the route table names")]
pub async fn handle(
    call: Call,
    sessions: Sessions,
    agents: Agents,
    opener: SecretOpener,
    copies: AgentCopies,
    tokens: AgentTokens,
    sandboxes: Sandboxes,
    replays: Replays,
) -> Result<Answer, ApiError> {
    let boot = Boot::begin(agents, copies, tokens, sandboxes);
    let read = |scope: ReadScope| {
        let (call, sessions, opener, boot) = (&call, &sessions, &opener, &boot);
        async move {
            let mut wanted = parse(call, scope.mode())?;
            // On the heap: unoptimised, what is nested in these is half of a thread's stack.
            let read = try_join(sessions.get(&scope, &wanted.session), opener.load(&scope, &wanted.session));
            let read = Box::pin(async { Ok(read.await?) });
            let usual = async { if wanted.providers.is_empty() { boot.usual(&scope).await } else { Ok(Vec::new()) } };
            let ((session, sealed), usual) = try_join(read, Box::pin(usual)).await?;
            if wanted.providers.is_empty() {
                wanted.providers = usual;
                prefer_regions(&wanted.new, &mut wanted.providers);
            }
            Ok((wanted, session, sealed))
        }
    };
    let (principal, (wanted, session, sealed)) = call.authenticate_with(read).await?;
    let scope = principal.scope();
    let session = session.filter(|session| scope.sees(&session.id)).ok_or_else(ApiError::not_found)?;
    let work = async {
        refuse_early(&scope, &session, &sessions).await?;
        let providers = wanted.providers;
        providers.iter().try_for_each(|provider| expect_regions(&wanted.new, *provider))?;
        let mut left = providers.into_iter();
        let mut next = left.next();
        let mut refusal = None;
        let mut more_hosts = MAX_HOSTS_TRIED;
        while let Some(provider) = next {
            let mut placed = false;
            let attempt = async {
                let Place { host, max_concurrent } = boot.place(&scope, provider).await?;
                let has_hosts = host.is_some();
                let opened = opener.open(&scope, &sealed, &wanted.selection, now_ms()).await?;
                let (provider, secrets) = (provider.as_str().to_owned(), booted_with(&opened));
                let new = NewAgent { provider, secrets, host, max_concurrent, ..wanted.new.clone() };
                let agent = begin(&scope, session.clone(), new, &sessions, boot.agents()).await?;
                placed = has_hosts;
                boot.finish(&scope, agent, &opener, &sealed, opened).await
            };
            match Box::pin(attempt).await {
                Ok(agent) => return Answer::json(201, &show(&agent)),
                // Another create has taken the last place of that host meanwhile. The provider's places are the same on
                // any host.
                Err(error)
                    if error.code() == ErrorCode::NoProvidersAvailable
                        && placed
                        && more_hosts > 0
                        && boot.may_fall_back() =>
                {
                    more_hosts -= 1;
                    refusal = Some(error);
                }
                Err(error) if falls_back(&error) && !left.as_slice().is_empty() && boot.may_fall_back() => {
                    next = left.next();
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let none = || ApiError::new(ErrorCode::NoProvidersAvailable, "no compute provider is configured");
        Err(refusal.unwrap_or_else(none))
    };
    once(&call, &principal, &replays, None, Box::pin(work)).await
}

fn parse(call: &Call, mode: Mode) -> Result<Wanted, ApiError> {
    let session = call.request().session_id()?;
    let fields = call.request().fields(true)?;
    fields.refuse_unbuilt(UNBUILT)?;
    let compute = fields.one_of("compute", parse_compute)?.unwrap_or("python");
    if compute == "go" {
        return Err(ApiError::not_built("compute.go"));
    }
    let providers = read_providers(mode, &fields)?;
    let tools = fields.raw("tools").map(ToString::to_string);
    if tools.as_ref().is_some_and(|tools| tools.len() > MAX_TOOLS) {
        return Err(ApiError::invalid("tools", "must be at most 64 KiB of JSON"));
    }
    let selection = read_selection(&fields)?;
    let new = NewAgent {
        provider: String::new(),
        compute: compute.to_owned(),
        region: read_region(&fields)?,
        host: None,
        model: fields.text("model", 256)?.map(str::to_owned),
        instructions: fields.text("instructions", MAX_INSTRUCTIONS)?.map(str::to_owned),
        tools,
        metadata: fields.texts("metadata", MAX_METADATA)?.unwrap_or_default(),
        internet: read_internet(&fields)?,
        timeout_ms: fields.duration_ms("timeout", 1000, MAX_TIMEOUT_MS)?.unwrap_or(DEFAULT_TIMEOUT_MS),
        auto_pause_ms: read_auto_pause(&fields)?,
        selection: names_of(&selection),
        cost_cap: fields.cents("costCap", 1, MAX_CENTS)?,
        max_concurrent: None,
        secrets: Vec::new(),
    };
    Ok(Wanted { session, new, selection, providers })
}

/// The provider that is asked for, and those to fall back to: one name, or a list of them.
fn read_providers(mode: Mode, fields: &Fields) -> Result<Vec<ProviderKind>, ApiError> {
    const FALLBACK: &str = "providerFallback";
    let mut providers = Vec::new();
    if let Some(asked) = fields.one_of("provider", ProviderKind::parse)? {
        providers.push(provider_for(mode, "provider", asked)?);
    }
    let names = match fields.raw(FALLBACK) {
        Some(serde_json::Value::String(_)) => fields.text(FALLBACK, 32)?.into_iter().collect(),
        _ => fields.text_list(FALLBACK)?.unwrap_or_default(),
    };
    if names.len() > MAX_FALLBACKS {
        return Err(ApiError::invalid(FALLBACK, "must name at most 3 providers"));
    }
    if !names.is_empty() && providers.is_empty() {
        return Err(ApiError::invalid(FALLBACK, "needs a provider to fall back from"));
    }
    for name in names {
        let kind = ProviderKind::parse(name).ok_or_else(|| ApiError::invalid(FALLBACK, "is unknown"))?;
        let kind = provider_for(mode, FALLBACK, kind)?;
        if !providers.contains(&kind) {
            providers.push(kind);
        }
    }
    Ok(providers)
}

/// Whether another provider may do better.
fn falls_back(error: &ApiError) -> bool {
    matches!(error.code(), ErrorCode::Provider | ErrorCode::NoProvidersAvailable)
}

/// Where an agent runs whose creator asked for that provider. Test keys may name any, as their code will with a live key.
pub(super) fn provider_for(mode: Mode, field: &str, asked: ProviderKind) -> Result<ProviderKind, ApiError> {
    match (mode, asked) {
        (Mode::Test, _) => Ok(ProviderKind::Simulated),
        (Mode::Live, ProviderKind::Docker | ProviderKind::E2b | ProviderKind::Fly) => Ok(asked),
        (Mode::Live, ProviderKind::Simulated) => Err(ApiError::invalid(field, "is simulated for test keys only")),
    }
}

pub(super) fn read_region(fields: &Fields) -> Result<Option<String>, ApiError> {
    let region = fields.text("region", MAX_REGION)?;
    if region.is_some_and(|region| !is_region(region)) {
        return Err(ApiError::invalid("region", "must be a region's code"));
    }
    Ok(region.map(str::to_owned))
}

/// Whether one can choose where at a provider an agent runs.
fn has_regions(provider: ProviderKind) -> bool {
    matches!(provider, ProviderKind::Fly | ProviderKind::Simulated)
}

/// Where a region is asked for and no provider, only those that have regions come into question, if there are any.
fn prefer_regions(new: &NewAgent, providers: &mut Vec<ProviderKind>) {
    if new.region.is_some() && providers.iter().any(|provider| has_regions(*provider)) {
        providers.retain(|provider| has_regions(*provider));
    }
}

/// Refuses a region before anything is made where a provider has none to choose from.
fn expect_regions(new: &NewAgent, provider: ProviderKind) -> Result<(), ApiError> {
    if new.region.is_none() || has_regions(provider) {
        return Ok(());
    }
    Err(no_regions(provider.as_str()))
}

/// A region was asked for at a provider that has none to choose from.
pub(super) fn no_regions(provider: &str) -> ApiError {
    ApiError::invalid("region", "is no choice that the provider has").detail("provider", provider)
}

fn read_internet(fields: &Fields) -> Result<bool, ApiError> {
    let Some(network) = fields.object("network")? else { return Ok(true) };
    if let Some(other) = network.names().find(|name| *name != "internet") {
        return Err(ApiError::not_built(&format!("network.{other}")));
    }
    Ok(network.flag("internet")?.unwrap_or(true))
}

fn read_auto_pause(fields: &Fields) -> Result<Option<i64>, ApiError> {
    let Some(lifecycle) = fields.object("lifecycle")? else { return Ok(None) };
    if let Some(other) = lifecycle.names().find(|name| *name != "autoPause") {
        return Err(ApiError::not_built(&format!("lifecycle.{other}")));
    }
    lifecycle.duration_ms("autoPause", MIN_AUTO_PAUSE_MS, MAX_TIMEOUT_MS)
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

/// Refuses what [`begin`] would refuse as things stand, before any value is opened: that costs calls of the key service, and
/// the values lie in memory. Only `begin` decides.
async fn refuse_early(scope: &TenantScope, session: &Session, sessions: &Sessions) -> Result<(), ApiError> {
    expect_active(session)?;
    let Some(max) = session.limits.max_agents else { return Ok(()) };
    let own = scope.session(&session.id).ok_or_else(ApiError::not_found)?;
    let used = u64::try_from(sessions.counters(&own).await?.active_agents).unwrap_or(0);
    if used < max.into() {
        return Ok(());
    }
    Err(StoreError::LimitExceeded { limit: "maxAgents", used, max: max.into() }.into())
}

/// What its later boots go by.
fn names_of(selection: &SecretSelection) -> Option<Vec<String>> {
    match selection {
        SecretSelection::All => None,
        SecretSelection::Only(names) | SecretSelection::Among(names) => {
            Some(names.iter().map(|name| name.canonical().to_owned()).collect())
        }
    }
}

/// Records the agent, reading the session again when it changes under our hands.
async fn begin(
    scope: &TenantScope,
    mut session: Session,
    new: NewAgent,
    sessions: &Sessions,
    agents: &Agents,
) -> Result<Agent, ApiError> {
    for _ in 0..ATTEMPTS {
        expect_active(&session)?;
        match agents.begin_boot(scope, &session, new.clone()).await {
            Err(StoreError::Conflict(_)) => {
                session = sessions.get(scope, &session.id).await?.ok_or_else(ApiError::not_found)?;
            }
            other => return Ok(other?),
        }
    }
    Err(StoreError::Contended(ATTEMPTS).into())
}
