//! What is written with each change.

use super::trail;
use crate::agents::new_agent;
use crate::proxy::Proxy;
use crate::support::{World, aws, credential_key, name, operator, own, refused, secret};
use serde_json::Value;
use std::collections::HashSet;
use theazo_store::{
    AgentStatus, ApiKeys, AuditAction, AuditEntry, AuditFilter, AuditOutcome, BootedSecret, Credentials, Limits,
    NewAgent, NewApiKey, NewSession, PlatformDeletion, PlatformRotation, Platforms, ProviderConfigs,
    ProviderCredentials, RateLimits, SecretOrigin, SecretTarget, SessionChanges, SessionTokens, StoreError, Table,
    now_ms,
};
use theazo_tenancy::{AuditId, Claim, Mode, Permissions, TenantScope};

const TRANSACTION: &str = "TransactWriteItems";
/// Every operation that can write.
const WRITES: [&str; 5] = [TRANSACTION, "PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"];

fn limits(max_agents: u32) -> SessionChanges {
    SessionChanges {
        limits: Some(Limits { max_agents: Some(max_agents), ..Limits::default() }),
        ..SessionChanges::default()
    }
}

fn booting_with(names: &[&str]) -> NewAgent {
    let booted = |name: &&str| BootedSecret {
        name: (*name).into(),
        version: 1,
        origin: SecretOrigin::Session,
        masked: true,
        created_at_ms: 0,
        updated_at_ms: 0,
    };
    NewAgent { secrets: names.iter().map(booted).collect(), ..new_agent() }
}

/// A tenant whose trail is read after each step.
pub(super) struct Steps {
    pub(super) world: World,
    pub(super) scope: TenantScope,
    seen: HashSet<AuditId>,
    pub(super) proxy: Proxy,
}

impl Steps {
    /// The store's writes go through the proxy.
    pub(super) async fn start() -> Self {
        let mut world = World::start().await;
        let proxy = Proxy::start(&world.dynamodb_url).await;
        world.table = Table::new(&aws(&proxy.url, &world.kms_url), "theazo").with_credential_key(credential_key());
        let scope = world.tenant().await;
        let seen = trail(&world, &scope, &AuditFilter::default()).await.into_iter().map(|entry| entry.id).collect();
        Self { world, scope, seen, proxy }
    }

    pub(super) async fn new_entries(&mut self) -> Vec<AuditEntry> {
        let all = trail(&self.world, &self.scope, &AuditFilter::default()).await;
        all.into_iter().filter(|entry| self.seen.insert(entry.id.clone())).collect()
    }

    #[track_caller]
    fn check(entries: Vec<AuditEntry>, action: AuditAction, outcome: AuditOutcome, names: &[&str]) -> AuditEntry {
        let [entry] = &entries[..] else { panic!("{} entries for {action:?}: {entries:?}", entries.len()) };
        assert_eq!((entry.action, entry.outcome), (action, outcome));
        assert_eq!(entry.names, names);
        assert_eq!((entry.principal.as_str(), &entry.key, &entry.request), ("operator", &None, &None));
        assert!(entry.at_ms <= theazo_store::now_ms() && entry.at_ms > theazo_store::now_ms() - 60_000);
        entry.clone()
    }

    async fn expect(&mut self, action: AuditAction, outcome: AuditOutcome, names: &[&str]) -> AuditEntry {
        Self::check(self.new_entries().await, action, outcome, names)
    }

    async fn expect_none(&mut self, what: &str) {
        let entries = self.new_entries().await;
        assert!(entries.is_empty(), "{what}: {entries:?}");
    }
}

#[tokio::test]
async fn each_change_leaves_exactly_its_entry_and_no_value_in_it() {
    use AuditAction::*;
    use AuditOutcome::*;
    let mut steps = Steps::start().await;
    let scope = steps.scope.clone();
    let (sessions, agents) = (steps.world.sessions(), steps.world.agents());
    let values = ["canary-one", "canary-two", "canary-three"];

    let session = steps.world.session(&scope).await;
    let entry = steps.expect(SessionCreate, Succeeded, &[]).await;
    assert_eq!((entry.session.as_ref(), entry.agent), (Some(&session.id), None));
    sessions.change(&scope, &session.id, &limits(5)).await.unwrap();
    assert_eq!(steps.expect(SessionUpdate, Succeeded, &[]).await.session.as_ref(), Some(&session.id));
    sessions.change(&scope, &session.id, &SessionChanges::default()).await.unwrap();
    steps.expect_none("a change of nothing").await;

    let several = [secret("b_two", values[1]), secret("A_one", values[0])];
    steps.world.set(&scope, &own(&session), &several).await.unwrap();
    let entry = steps.expect(SecretsSet, Succeeded, &["B_TWO", "A_ONE"]).await;
    assert_eq!(entry.session.as_ref(), Some(&session.id));
    steps.world.set(&scope, &SecretTarget::Platform, &[secret("Key", values[2])]).await.unwrap();
    assert_eq!(steps.expect(SecretsSet, Succeeded, &["KEY"]).await.session, None);
    steps.world.delete(&scope, &own(&session), "B_TWO").await.unwrap();
    let entry = steps.expect(SecretsDelete, Succeeded, &["B_TWO"]).await;
    assert_eq!(entry.session.as_ref(), Some(&session.id));

    let credentials = ProviderCredentials::new(steps.world.table.clone(), steps.world.keys.clone());
    credentials.configure(&scope, "e2b", &name("key")).await.unwrap();
    steps.expect(ProviderSet, Succeeded, &["e2b", "KEY"]).await;
    steps.world.remove_provider(&scope, "e2b").await;
    steps.expect(ProviderDelete, Succeeded, &["e2b"]).await;

    let session = sessions.get(&scope, &session.id).await.unwrap().unwrap();
    let mut booted = Vec::new();
    // Status by status, and what each leaves.
    for ends in [
        vec![
            (AgentStatus::Ready, Some((AgentBoot, Succeeded))),
            (AgentStatus::Ready, None),
            (AgentStatus::Paused, None),
            (AgentStatus::Completed, Some((AgentEnd, Succeeded))),
            (AgentStatus::Completed, None),
        ],
        vec![(AgentStatus::Failed, Some((AgentBoot, Failed)))],
        vec![(AgentStatus::Ready, Some((AgentBoot, Succeeded))), (AgentStatus::Failed, Some((AgentEnd, Failed)))],
    ] {
        let agent = agents.begin_boot(&scope, &session, booting_with(&["A_ONE", "KEY"])).await.unwrap();
        let entry = steps.expect(AgentBoot, Started, &["A_ONE", "KEY"]).await;
        assert_eq!((entry.session.as_ref(), entry.agent.as_ref()), (Some(&session.id), Some(&agent.id)));
        for (status, left) in ends {
            agents.transition(&scope, &agent.id, status, |_| {}).await.unwrap();
            let Some((action, outcome)) = left else {
                steps.expect_none(&format!("{status:?}")).await;
                continue;
            };
            let entry = steps.expect(action, outcome, &["A_ONE", "KEY"]).await;
            assert_eq!((entry.session.as_ref(), entry.agent.as_ref()), (Some(&session.id), Some(&agent.id)));
        }
        agents.settle(&scope, &agent.id).await.unwrap();
        steps.expect_none("settling").await;
        booted.push(agent.id);
    }
    let ended = sessions.terminate(&scope, &session.id).await.unwrap();
    // With the names of the secrets that go: one was deleted before.
    assert_eq!(steps.expect(SessionTerminate, Succeeded, &["A_ONE"]).await.session, Some(ended.id));
    sessions.terminate(&scope, &session.id).await.unwrap();
    steps.world.sealer().remove_all(&scope, &session.id).await.unwrap();
    sessions.settle_terminated(&scope, &session.id).await.unwrap();
    steps.expect_none("what follows from the end").await;

    let entries: Vec<_> = steps.world.scan().await.into_iter().filter(|row| is_of_the_trail(&row["pk"])).collect();
    assert!(entries.len() >= 15 && entries.iter().all(|row| row.contains_key("ttl")));
    let all = format!("{entries:?}");
    assert!(values.iter().all(|value| !all.contains(value)), "{all}");
    assert_only_added(&steps.proxy, entries.len());
}

fn is_of_the_trail(pk: &aws_sdk_dynamodb::types::AttributeValue) -> bool {
    pk.as_s().unwrap().contains("#audit#")
}

/// The trail was only ever added to, with the changes: a put for each entry, of a row that must not exist.
fn assert_only_added(proxy: &Proxy, entries: usize) {
    let mut put = HashSet::new();
    for operation in WRITES {
        for call in proxy.calls(operation) {
            if operation != TRANSACTION {
                assert!(!call.to_string().contains("#audit#"), "{operation}: {call}");
                continue;
            }
            let items = call["TransactItems"].as_array().unwrap();
            let ours: Vec<_> = items.iter().filter(|item| item.to_string().contains("#audit#")).collect();
            assert!(items.len() > ours.len(), "an entry without a change: {call}");
            for item in ours {
                assert_eq!(item["Put"]["ConditionExpression"], "attribute_not_exists(pk)", "{item}");
                put.insert(item["Put"]["Item"]["sk"]["S"].as_str().unwrap().to_owned());
            }
        }
    }
    assert!(put.len() >= entries && entries > 0, "{} of {entries}", put.len());
}

#[test]
fn only_the_trails_own_module_can_make_the_key_of_an_entry() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut uses = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            // A partition is asked for with one argument; an entry is added with table, scope and deed.
            let ways = ["scope.audit(", "tenant.audit(", "wide.audit(", ".audit_key("];
            let count: usize = ways.iter().map(|way| source.matches(way).count()).sum();
            uses.extend(vec![path.file_name().unwrap().to_string_lossy().into_owned(); count]);
        }
    }
    uses.sort();
    assert_eq!(uses, ["audit.rs", "log.rs"]);
    let reading = include_str!("../../../src/audit/log.rs");
    for word in ["put", "update", "delete", "Transaction", "TenantScope,"] {
        assert!(!reading.contains(word), "{word}");
    }
}

#[tokio::test]
async fn a_refused_change_leaves_no_entry() {
    let mut steps = Steps::start().await;
    let (scope, stranger) = (steps.scope.clone(), steps.world.tenant().await);
    let sessions = steps.world.sessions();
    let (session, ended) = (steps.world.session(&scope).await, steps.world.session(&scope).await);
    sessions.change(&scope, &session.id, &limits(0)).await.unwrap();
    sessions.terminate(&scope, &ended.id).await.unwrap();
    let session = sessions.get(&scope, &session.id).await.unwrap().unwrap();
    steps.new_entries().await;
    let before = steps.world.scan().await;

    let world = &steps.world;
    let a = || [secret("A", "a")];
    let too_many: Vec<_> = (0..101).map(|n| secret(&format!("N{n}"), "n")).collect();
    let mut errors = vec![
        refused(sessions.change(&scope, &ended.id, &limits(1)).await),
        refused(sessions.change(&stranger, &session.id, &limits(1)).await),
        refused(sessions.terminate(&stranger, &session.id).await),
        refused(world.set(&scope, &own(&ended), &a()).await),
        refused(world.set(&stranger, &own(&session), &a()).await),
        refused(world.delete(&scope, &own(&session), "ABSENT").await),
        refused(world.set(&scope, &SecretTarget::Platform, &too_many).await),
        refused(world.agents().begin_boot(&scope, &session, new_agent()).await),
        refused(world.agents().begin_boot(&scope, &ended, new_agent()).await),
    ];
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    errors.push(refused(credentials.configure(&scope, "e2b", &name("ABSENT")).await));
    errors.push(refused(ProviderConfigs::new(world.table.clone()).close(&scope, "e2b").await));
    assert!(errors.iter().all(|error| !matches!(error, StoreError::Table { .. } | StoreError::Kms { .. })));
    steps.expect_none("refusals").await;
    assert_eq!(steps.world.scan().await, before);
}

/// Makes the table refuse the entry, and nothing else: a row without a sort key.
pub(super) fn spoil_the_entry(operation: &str, body: &mut Value) {
    if operation != TRANSACTION {
        return;
    }
    for write in body["TransactItems"].as_array_mut().unwrap() {
        let is_entry = write["Put"]["Item"]["pk"]["S"].as_str().is_some_and(|pk| pk.contains("#audit#"));
        if is_entry {
            write["Put"]["Item"].as_object_mut().unwrap().remove("sk");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_put_on_record_does_not_happen() {
    let steps = Steps::start().await;
    let Steps { world, scope, proxy, .. } = &steps;
    let (sessions, agents) = (world.sessions(), world.agents());
    let session = world.session(scope).await;
    let platform = SecretTarget::Platform;
    world.set(scope, &platform, &[secret("KEY", "k"), secret("GONE", "g")]).await.unwrap();
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    let configs = ProviderConfigs::new(world.table.clone());
    credentials.configure(scope, "fly", &name("KEY")).await.unwrap();
    let (booting, ready) = (
        agents.begin_boot(scope, &session, new_agent()).await.unwrap(),
        agents.begin_boot(scope, &session, new_agent()).await.unwrap(),
    );
    agents.transition(scope, &ready.id, AgentStatus::Ready, |_| {}).await.unwrap();
    let platforms = Platforms::new(world.table.clone(), operator());
    let (_, own_key) = platforms.create_key(scope.platform(), Mode::Live, "the caller's").await.unwrap();
    let (to_rotate, _) = platforms.create_key(scope.platform(), Mode::Live, "to be rotated").await.unwrap();
    let (to_revoke, _) = platforms.create_key(scope.platform(), Mode::Live, "to be revoked").await.unwrap();
    let claim = Claim::parse(&own_key.text).unwrap();
    let admitted = Credentials::new(world.table.clone(), RateLimits::default()).admit(&claim).await.unwrap();
    let caller = claim.prove(admitted.record.as_ref(), now_ms()).unwrap();
    let (keys, tokens) = (ApiKeys::new(world.table.clone()), SessionTokens::new(world.table.clone()));
    let new_key = NewApiKey { name: "another".into(), mode: Mode::Live, expires_at_ms: None };
    let rotation = PlatformRotation::new(world.table.clone(), world.keys.clone(), operator());
    let deletion = PlatformDeletion::new(world.table.clone(), operator());

    let closed = configs.close(scope, "fly").await.unwrap();
    let all = async || {
        vec![
            sessions.create(scope, &NewSession::default()).await.map(drop),
            sessions.change(scope, &session.id, &SessionChanges::default()).await.map(drop),
            agents.begin_boot(scope, &session, new_agent()).await.map(drop),
            sessions.change(scope, &session.id, &limits(9)).await.map(drop),
            world.set(scope, &own(&session), &[secret("A", "a")]).await,
            world.set(scope, &platform, &[secret("KEY", "another")]).await,
            world.delete(scope, &platform, "GONE").await,
            credentials.configure(scope, "e2b", &name("KEY")).await.map(drop),
            configs.remove(scope, &closed).await,
            agents.transition(scope, &booting.id, AgentStatus::Ready, |_| {}).await.map(drop),
            agents.transition(scope, &ready.id, AgentStatus::Completed, |_| {}).await.map(drop),
            keys.create(&caller, &new_key).await.map(drop),
            keys.rotate(&caller, &to_rotate, 0).await.map(drop),
            keys.revoke(scope, &to_revoke, true).await,
            platforms.create_key(scope.platform(), Mode::Test, "the operator's").await.map(drop),
            tokens.mint(&caller, &session, now_ms() + 60_000, Permissions { exec: true }).await.map(drop),
            tokens.revoke_all(scope, &session.id).await,
            sessions.terminate(scope, &session.id).await.map(drop),
            rotation.begin(scope.platform()).await.map(drop),
            deletion.begin(scope.platform()).await,
        ]
    };
    let before = world.scan().await;
    proxy.edit(Some(spoil_the_entry));
    for (index, outcome) in all().await.into_iter().enumerate() {
        // To change nothing needs no entry.
        assert_eq!(outcome.is_ok(), index == 1, "{index}: {outcome:?}");
    }
    assert!(world.scan().await == before, "something changed");
    proxy.edit(None);
    for (index, outcome) in all().await.into_iter().enumerate() {
        assert!(outcome.is_ok(), "{index}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_boot_whose_process_died_stays_started_until_its_end_writes_the_outcome() {
    let mut steps = Steps::start().await;
    let scope = steps.scope.clone();
    let session = steps.world.session(&scope).await;
    steps.new_entries().await;
    let agent = steps.world.agents().begin_boot(&scope, &session, booting_with(&["A"])).await.unwrap();
    let started = steps.expect(AuditAction::AgentBoot, AuditOutcome::Started, &["A"]).await;
    steps.expect_none("the process is dead").await;

    // Whoever finishes it acts in nobody's name but the deployment's.
    let system = operator().on_schedule().tenant(scope.platform(), Mode::Live);
    steps.world.agents().transition(&system, &agent.id, AgentStatus::Failed, |_| {}).await.unwrap();
    let entries = steps.new_entries().await;
    let [failed] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((failed.action, failed.outcome), (AuditAction::AgentBoot, AuditOutcome::Failed));
    assert_eq!((failed.principal.as_str(), &failed.agent), ("system", &Some(agent.id)));
    assert!(started.id < failed.id);
    let all = trail(&steps.world, &scope, &AuditFilter::default()).await;
    assert!(all.contains(&started), "the intent is still there, as it was");
}
