//! Agents' tokens: what they open, from when until when.

use crate::agents::new_agent;
use crate::rotation::{root, rotate, walk};
use crate::support::{DEPLOYMENT, World, own, refused, secret, text};
use std::collections::BTreeMap;
use std::time::Duration;
use theazo_store::{
    Agent, AgentCopies, AgentReports, AgentStatus, AgentTokens, Credentials, Days, NewAgent, Payer, RateLimits,
    ReportedCall, SecretSelection, SessionTokens, StoreError, TokenCopies, Usage, now_ms,
};
use theazo_tenancy::{Claim, CredentialKind, TenantScope};
use theazo_vault::{SecretValue, VaultError};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const ENDPOINT: &str = "http://here:1";

fn tokens(world: &World) -> AgentTokens {
    AgentTokens::new(world.table.clone(), DEPLOYMENT, Some(ENDPOINT))
}

fn token_copies(world: &World) -> TokenCopies {
    TokenCopies::new(world.table.clone(), DEPLOYMENT)
}

/// An agent that booted, and its token, as its sandbox learns it.
struct Booted {
    agent: Agent,
    token: String,
}

async fn boot(world: &World, scope: &TenantScope) -> Booted {
    let session = world.session(scope).await;
    let quiet = theazo_store::NewSecret { mask: false, ..secret("QUIET", "not to be masked") };
    world.set(scope, &own(&session), &[secret("TOKEN", "a secret value"), quiet]).await.unwrap();
    let opener = world.opener();
    let sealed = opener.load(scope, &session.id).await.unwrap();
    let mut opened = opener.open(scope, &sealed, &SecretSelection::All, now_ms()).await.unwrap();
    let secrets = opened.iter().map(|secret| secret.booted.clone()).collect();
    let agent = world.agents().begin_boot(scope, &session, NewAgent { secrets, ..new_agent() }).await.unwrap();
    let token = tokens(world).make(scope, &agent).unwrap();
    let own = token.values();
    let text = |value: &SecretValue| String::from_utf8(value.expose().to_vec()).unwrap();
    let (address, secret) = (text(&own[0].value), text(&own[1].value));
    assert_eq!((address, token.text()), (format!("{ENDPOINT}/a/{secret}"), secret.as_str()));
    opened.extend(own);
    let copies = AgentCopies::new(world.table.clone(), world.keys.clone());
    copies.keep(copies.seal(scope, &agent.id, &sealed, &opened, now_ms() + DAY_MS).await.unwrap()).await.unwrap();
    let for_token = tokens(world).seal(scope, &agent.id, &token, &opened, now_ms() + DAY_MS).unwrap();
    tokens(world).keep(Some(for_token)).await.unwrap();
    assert!(admitted(world, &secret).await.is_none(), "not good before the agent is ready");
    let agent = world.agents().become_ready(scope, &agent.id, Some(&token), |_| true, |_| {}).await.unwrap();
    Booted { agent, token: secret }
}

#[tokio::test]
async fn a_token_of_an_agent_has_a_rate_of_its_own() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let booted = boot(&world, &scope).await;
    let limits = RateLimits { key: 1000, token: 1000, agent: 2 };
    let credentials = Credentials::new(world.table.clone(), limits);
    let claim = Claim::parse(&booted.token).unwrap();
    // Of three within a second the last is one too many; a second may end in between.
    let mut over = false;
    for _ in 0..20 {
        over |= credentials.admit(&claim).await.unwrap().over_limit;
    }
    assert!(over);
}

/// What a token is found to be.
async fn admitted(world: &World, token: &str) -> Option<CredentialKind> {
    let claim = Claim::parse(token).unwrap();
    let credentials = Credentials::new(world.table.clone(), RateLimits::default());
    let admission = credentials.admit(&claim).await.unwrap();
    claim.prove(admission.record.as_ref(), now_ms()).ok().map(|principal| principal.kind().clone())
}

async fn opened(
    world: &World,
    scope: &TenantScope,
    agent: &Agent,
    token: &str,
) -> Result<BTreeMap<String, String>, StoreError> {
    let copies = token_copies(world);
    let (found, values) = copies.open(scope, token, copies.load(scope, &agent.id).await?)?;
    assert_eq!(found.id, agent.id);
    let text = |value: &SecretValue| String::from_utf8(value.expose().to_vec()).unwrap();
    Ok(values.iter().map(|(name, value)| (name.clone(), text(value))).collect())
}

#[tokio::test]
async fn a_token_opens_the_copies_of_its_own_agent_without_any_other_key() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let (one, other) = (boot(&world, &scope).await, boot(&world, &scope).await);
    let values = opened(&world, &scope, &one.agent, &one.token).await.unwrap();
    assert_eq!(values.keys().map(String::as_str).collect::<Vec<_>>(), ["THEAZO_ENDPOINT", "THEAZO_TOKEN", "TOKEN"]);
    assert_eq!((values["TOKEN"].as_str(), values["THEAZO_TOKEN"].as_str()), ("a secret value", one.token.as_str()));
    let error = refused(opened(&world, &scope, &one.agent, &other.token).await);
    assert!(matches!(error, StoreError::Vault(VaultError::NotAuthentic)), "{error:?}");
    let elsewhere = TokenCopies::new(world.table.clone(), "another deployment");
    let sealed = elsewhere.load(&scope, &one.agent.id).await.unwrap();
    let error = refused(elsewhere.open(&scope, &one.token, sealed));
    assert!(matches!(error, StoreError::Vault(VaultError::NotAuthentic)), "{error:?}");
    // The key service is not needed, nor is a key of the deployment's.
    world.cold_keys(Duration::ZERO);
    // Whoever edits the list of what is masked, or removes a copy, has nothing shown.
    let row = scope.agent_key(&one.agent.id).unwrap();
    let whole = world.row(&row).await.unwrap();
    for column in ["secrets", "token"] {
        let mut edited = whole.clone();
        match column {
            "secrets" => edited.insert(column.into(), aws_sdk_dynamodb::types::AttributeValue::L(Vec::new())),
            _ => edited.remove(column),
        };
        world.put(&row, edited).await;
        assert!(matches!(refused(opened(&world, &scope, &one.agent, &one.token).await), StoreError::Corrupt(_)));
    }
    world.put(&row, whole).await;
    opened(&world, &scope, &one.agent, &one.token).await.unwrap();
    world.remove(&scope.token_copies(&one.agent.id).unwrap().row("TOKEN")).await;
    assert!(matches!(refused(opened(&world, &scope, &one.agent, &one.token).await), StoreError::Corrupt(_)));
    // Nor does one of another agent's serve.
    let theirs = world.row(&scope.token_copies(&other.agent.id).unwrap().row("TOKEN")).await.unwrap();
    world.put(&scope.token_copies(&one.agent.id).unwrap().row("TOKEN"), theirs).await;
    assert!(opened(&world, &scope, &one.agent, &one.token).await.is_err());
}

#[tokio::test]
async fn a_token_is_good_while_its_agent_runs_and_nothing_of_it_stays_behind() {
    let world = World::start().await;
    let scope = world.tenant().await;
    for end in [AgentStatus::Paused, AgentStatus::Completed, AgentStatus::Failed] {
        let booted = boot(&world, &scope).await;
        let Booted { agent, token } = &booted;
        let own = CredentialKind::Agent(agent.session.clone(), agent.id.clone());
        assert_eq!(admitted(&world, token).await, Some(own));
        let row = world.row(&Claim::parse(token).unwrap().credential_key()).await.unwrap();
        assert_eq!(row["expires_at_ms"].as_n().unwrap(), &agent.deadline_ms().to_string());
        assert!(row.contains_key("ttl"));
        let ended = world.agents().transition(&scope, &agent.id, end, |_| {}).await.unwrap();
        assert_eq!((&ended.token, &ended.token_hash), (&None, &None));
        assert!(admitted(&world, token).await.is_none(), "{end:?}");
        assert!(world.row(&Claim::parse(token).unwrap().credential_key()).await.is_none(), "{end:?}");
        // A row that was put back is not enough.
        world.put(&Claim::parse(token).unwrap().credential_key(), row).await;
        assert!(admitted(&world, token).await.is_none(), "{end:?}");
        world.remove(&Claim::parse(token).unwrap().credential_key()).await;
        if end.is_over() {
            world.agents().settle(&scope, &agent.id).await.unwrap();
            let rows = world.scan().await;
            let left = rows.iter().filter(|row| {
                let pk = row["pk"].as_s().unwrap();
                pk.contains(agent.id.as_str()) && pk.contains("copies")
            });
            assert_eq!(left.count(), 0, "{end:?}");
        }
    }
}

#[tokio::test]
async fn a_token_of_an_agent_ends_with_its_session_and_not_with_its_sessions_tokens() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let Booted { agent, token } = boot(&world, &scope).await;
    SessionTokens::new(world.table.clone()).revoke_all(&scope, &agent.session).await.unwrap();
    assert!(admitted(&world, &token).await.is_some());
    let session = scope.session(&agent.session).unwrap().key();
    let mut row = world.row(&session).await.unwrap();
    row.insert("status".into(), text("terminated"));
    world.put(&session, row).await;
    assert!(admitted(&world, &token).await.is_none());
}

#[tokio::test]
async fn rotations_of_the_deployments_keys_pass_copies_for_tokens_by() {
    let world = crate::rotation::world().await;
    let scope = world.tenant().await;
    let booted = boot(&world, &scope).await;
    let key = scope.token_copies(&booted.agent.id).unwrap().row("TOKEN");
    let before = world.row(&key).await.unwrap();
    rotate(&world, now_ms()).await;
    let status = root(&world).status(now_ms()).await.unwrap();
    assert_eq!(status.unreadable, 0, "{status:?}");
    assert!(walk(&world, scope.platform()).await.finished);
    assert_eq!(world.row(&key).await.unwrap(), before);
    assert_eq!(opened(&world, &scope, &booted.agent, &booted.token).await.unwrap()["TOKEN"], "a secret value");
}

#[tokio::test]
async fn reports_of_models_add_up_and_those_of_progress_replace_each_other() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let agent = boot(&world, &scope).await.agent;
    let reports = AgentReports::new(world.table.clone());
    let claim = ReportedCall { input_tokens: 5, output_tokens: 7, cost: 11 };
    for _ in 0..3 {
        reports.model(&scope, &agent, &claim).await.unwrap();
    }
    reports.progress(&scope, &agent.id, 10, "begun").await.unwrap();
    reports.progress(&scope, &agent.id, 5, "").await.unwrap();
    reports.result(&scope, &agent.id, Some("{}"), None).await.unwrap();
    let found = reports.of_agent(&scope, &agent.id).await.unwrap();
    let models = found.models.unwrap();
    assert_eq!((models.calls, models.input_tokens, models.output_tokens, models.cost), (3, 15, 21, 33));
    let (usage, today) = (Usage::new(world.table.clone()), Days::last(1, now_ms()));
    assert_eq!(usage.models_by_day(&scope, today).await.unwrap()[&today.last], models);
    let of_user = usage.of_payer(&scope, &Payer::of(&agent), today).await.unwrap().claimed;
    assert_eq!(of_user[&today.last], models);
    // Claims cannot make a report impossible, however many claim the most.
    for _ in 0..2 {
        let most = ReportedCall { cost: u64::MAX, ..claim };
        reports.model(&scope, &agent, &most).await.unwrap();
    }
    assert_eq!(usage.models_by_day(&scope, today).await.unwrap()[&today.last].cost, u64::MAX);
    assert!(usage.by_payer(&scope, today).await.unwrap().is_empty(), "a claim is no usage");
    let progress = found.progress.unwrap();
    assert_eq!((progress.percentage, progress.message.as_deref()), (5, Some("")));
    let result = found.result.unwrap();
    assert_eq!((result.output.as_deref(), result.artifacts), (Some("{}"), None));
    assert_eq!(world.agents().get(&scope, &agent.id).await.unwrap().unwrap().status, AgentStatus::Ready);
}
