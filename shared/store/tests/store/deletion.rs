//! Deleting a whole platform: what is refused at once, what is left when it is interrupted anywhere, and what of others
//! is touched (nothing).

use crate::agents::new_agent;
use crate::proxy::Proxy;
use crate::support::{Item, World, aws, operator, own, refused, secret, text};
use std::collections::BTreeMap;
use theazo_store::{
    AgentStatus, Credentials, DeletionState, DeletionStretch, NewSession, PageRequest, PlatformDeletion, Platforms,
    ProviderAccess, ProviderCredentials, RateLimits, Replays, SecretSealer, SecretTarget, Sessions, StoreError, Table,
    WorkItem, now_ms,
};
use theazo_tenancy::{Claim, IssuedKey, Mode, PlatformId, TenantScope, UserId};

/// Later than the last rows of a platform that is deleted now.
fn later() -> i64 {
    now_ms() + 60 * 60 * 1000
}

pub fn deletion(table: &Table) -> PlatformDeletion {
    PlatformDeletion::new(table.clone(), operator())
}

/// Whether a request with this key would be served.
pub async fn is_accepted(table: &Table, key: &IssuedKey) -> bool {
    let claim = Claim::parse(&key.text).unwrap();
    let admission = Credentials::new(table.clone(), RateLimits::default()).admit(&claim).await.unwrap();
    claim.prove(admission.record.as_ref(), now_ms()).is_ok()
}

/// A platform with something of everything in both modes, and its keys.
pub struct Furnished {
    pub id: PlatformId,
    pub keys: Vec<IssuedKey>,
}

impl Furnished {
    pub async fn make(world: &World) -> Self {
        let made = Platforms::new(world.table.clone(), operator()).create("a company").await.unwrap();
        let id = made.platform.id;
        for scope in [Mode::Live, Mode::Test].map(|mode| operator().tenant(&id, mode)) {
            let user = UserId::parse("user").unwrap();
            let new = NewSession { user: Some(user), ..NewSession::default() };
            for session in [
                world.sessions().create(&scope, &new).await.unwrap(),
                world.session(&scope).await,
                world.session(&scope).await,
            ] {
                world.set(&scope, &own(&session), &[secret("A", "a"), secret("B", "b")]).await.unwrap();
            }
            let secrets = [secret("A", "a"), secret("SHARED", "s"), secret("E2B", "e")];
            world.set(&scope, &SecretTarget::Platform, &secrets).await.unwrap();
            let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
            credentials.configure(&scope, "e2b", &crate::support::name("E2B")).await.unwrap();
            Replays::new(world.table.clone()).remember(&scope, &[7; 32], "again".into()).await.unwrap();
        }
        Self { id, keys: vec![made.live, made.test] }
    }

    pub fn scope(&self) -> TenantScope {
        operator().tenant(&self.id, Mode::Live)
    }
}

fn key_of(row: &Item) -> (String, String) {
    (row["pk"].as_s().unwrap().clone(), row["sk"].as_s().unwrap().clone())
}

/// The names that an entry of the trail tells.
fn names_of(row: &Item) -> Vec<String> {
    row["names"].as_l().unwrap().iter().map(|name| name.as_s().unwrap().clone()).collect()
}

/// Rows that are of the platform, wherever they lie: their keys, or that they name it.
fn is_of(row: &Item, platform: &PlatformId) -> bool {
    let (pk, sk) = key_of(row);
    let names_it = row.get("platform").is_some_and(|value| value.as_s().is_ok_and(|id| id == platform.as_str()));
    pk.starts_with(platform.as_str()) || sk.contains(platform.as_str()) || names_it
}

/// All rows but the platform's, by key, without the counts of requests that the tests make.
async fn others(world: &World, platform: &PlatformId) -> BTreeMap<(String, String), Item> {
    let rows = world.scan().await.into_iter().filter(|row| !is_of(row, platform));
    let uncounted = rows.map(|mut row| {
        row.retain(|column, _| column != "window" && column != "hits");
        row
    });
    uncounted.map(|row| (key_of(&row), row)).collect()
}

async fn assert_others_are(world: &World, platform: &PlatformId, before: &BTreeMap<(String, String), Item>) {
    let after = others(world, platform).await;
    let differs = |key: &&(String, String)| before.get(*key) != after.get(*key);
    let different: Vec<_> = before.keys().chain(after.keys()).filter(differs).collect();
    assert!(different.is_empty(), "{different:?}");
}

/// Asserts that the audit trail and the tombstone are all that is left.
async fn assert_only_a_tombstone_is_left(world: &World, platform: &PlatformId) {
    let rows = world.scan_without_audit().await;
    let left: Vec<_> = rows.iter().filter(|row| is_of(row, platform)).collect();
    assert_eq!(left.iter().map(|row| key_of(row)).collect::<Vec<_>>(), [(platform.to_string(), "platform".to_owned())]);
    let mut columns: Vec<_> = left[0].keys().map(String::as_str).collect();
    columns.sort_unstable();
    assert_eq!(columns, ["created_at_ms", "deleted_at_ms", "gone_at_ms", "id", "pk", "sk"]);
    let trail = world.scan().await.into_iter().filter(|row| key_of(row).0.contains("#audit#"));
    let deleted = trail.filter(|row| is_of(row, platform) && row["action"].as_s().unwrap() == "platform.delete");
    let mut removed: Vec<_> = deleted.map(|row| (key_of(&row).0.contains("#test#"), names_of(&row))).collect();
    removed.sort_unstable();
    let names = ["A", "E2B", "SHARED"].map(str::to_owned).to_vec();
    assert_eq!(removed, [(false, names.clone()), (true, names)], "one entry in each trail, with what went");
}

/// Sealed values of the platform that an agent could be given.
async fn values_for_agents(world: &World, platform: &PlatformId) -> usize {
    let rows = world.scan().await.into_iter().filter(|row| is_of(row, platform) && row.contains_key("blob"));
    rows.filter(|row| row["provider"].as_bool() != Ok(&true)).count()
}

#[tokio::test]
async fn a_deleted_platform_takes_no_key_of_anothers_with_it_to_which_a_row_of_its_own_was_led() {
    let world = World::start().await;
    let (gone, other) = (Furnished::make(&world).await, Furnished::make(&world).await);
    let shown = format!("{}#keys", gone.id);
    let mut rows = world.scan().await;
    for row in rows.iter_mut().filter(|row| *row["pk"].as_s().unwrap() == shown) {
        row.insert("hash".into(), text(&hex::encode(other.keys[0].hash)));
    }
    world.put_back(&rows).await;
    let deletion = deletion(&world.table);
    deletion.begin(&gone.id).await.unwrap();
    deletion.advance(&gone.id, now_ms()).await.unwrap();
    assert!(is_accepted(&world.table, &other.keys[0]).await);
}

#[tokio::test]
async fn whoever_waits_for_a_deletion_is_told_of_every_stretch_of_sessions() {
    let world = World::start().await;
    let scope = world.tenant().await;
    for _ in 0..120 {
        world.session(&scope).await;
    }
    let deletion = deletion(&world.table);
    deletion.begin(scope.platform()).await.unwrap();
    let (mut ended, mut removed) = (Vec::new(), Vec::new());
    let mut tell = |stretch| match stretch {
        DeletionStretch::Ended(sessions) => ended.push(sessions),
        DeletionStretch::Removed(sessions) => removed.push(sessions),
    };
    deletion.advance_telling(scope.platform(), now_ms(), &mut tell).await.unwrap();
    deletion.advance_telling(scope.platform(), later(), &mut tell).await.unwrap();
    // What has ended is not told of again.
    assert_eq!((ended, removed), (vec![100, 20], vec![100, 20]));
}

#[tokio::test]
async fn a_deleted_platforms_keys_are_refused_and_its_secrets_gone_at_once() {
    let world = World::start().await;
    let (gone, other) = (Furnished::make(&world).await, Furnished::make(&world).await);
    let before = others(&world, &gone.id).await;
    let (_, third) =
        Platforms::new(world.table.clone(), operator()).create_key(&gone.id, Mode::Live, "x").await.unwrap();
    for key in gone.keys.iter().chain([&third]) {
        assert!(is_accepted(&world.table, key).await);
    }
    let deletion = deletion(&world.table);
    deletion.begin(&gone.id).await.unwrap();
    let state = deletion.advance(&gone.id, now_ms()).await.unwrap();
    assert!(matches!(state, DeletionState::UnderWay { agents: 0, until_ms } if until_ms > now_ms()), "{state:?}");
    for key in gone.keys.iter().chain([&third]) {
        assert!(!is_accepted(&world.table, key).await);
    }
    for key in &other.keys {
        assert!(is_accepted(&world.table, key).await);
    }
    assert_eq!(values_for_agents(&world, &gone.id).await, 0);
    assert!(values_for_agents(&world, &other.id).await > 0);
    // Nothing is made for it any more.
    let platforms = Platforms::new(world.table.clone(), operator());
    assert!(matches!(platforms.create_key(&gone.id, Mode::Live, "late").await, Err(StoreError::NotFound)));
    let late = refused(world.set(&gone.scope(), &SecretTarget::Platform, &[secret("LATE", "x")]).await);
    assert!(matches!(late, StoreError::NotFound), "{late:?}");
    // The directory says that it is being deleted, and the work list that there is something to do.
    let listed = platforms.list(&PageRequest { limit: 100, after: None }).await.unwrap().rows;
    let shown = |id: &PlatformId| listed.iter().find(|platform| platform.id == *id).unwrap().deleted_at_ms;
    assert!(shown(&gone.id).is_some() && shown(&other.id).is_none());
    assert!(world.work().list().await.unwrap().contains(&WorkItem::Platform(gone.id.clone())));
    // Saying it again changes nothing.
    deletion.begin(&gone.id).await.unwrap();
    assert!(matches!(deletion.advance(&gone.id, now_ms()).await.unwrap(), DeletionState::UnderWay { .. }));

    assert_eq!(deletion.advance(&gone.id, later()).await.unwrap(), DeletionState::Gone);
    assert_only_a_tombstone_is_left(&world, &gone.id).await;
    assert_others_are(&world, &gone.id, &before).await;
    deletion.begin(&gone.id).await.unwrap();
    assert_eq!(deletion.advance(&gone.id, later()).await.unwrap(), DeletionState::Gone);
    // What is left on the list is the other's configured provider.
    assert_eq!(world.work().list().await.unwrap(), []);
    let left = world.work().providers().await.unwrap();
    let is_others = |(platform, ..): &(PlatformId, Mode, String)| *platform == other.id;
    assert!(!left.is_empty() && left.iter().all(is_others), "{left:?}");
    assert_only_a_tombstone_is_left(&world, &gone.id).await;
}

#[tokio::test]
async fn a_deletion_that_is_interrupted_at_any_write_is_finished_by_repeating_it() {
    let world = World::start().await;
    let other = Furnished::make(&world).await;
    for writes in [1, 2, 3, 7] {
        let gone = Furnished::make(&world).await;
        let before = others(&world, &gone.id).await;
        let proxy = Proxy::start(&world.dynamodb_url).await;
        let disturbed = deletion(&Table::new(&aws(&proxy.url, &world.kms_url), "theazo"));
        let mut interruptions = 0;
        let gone_at = loop {
            proxy.allow_writes(writes);
            let is_marked =
                async || world.row(&gone.scope().platform_key()).await.unwrap().contains_key("deleted_at_ms");
            let done = async {
                if !is_marked().await {
                    disturbed.begin(&gone.id).await?;
                }
                disturbed.advance(&gone.id, later()).await
            };
            match done.await {
                Ok(state) => break state,
                Err(StoreError::Table { code, .. }) if code == "AccessDeniedException" => interruptions += 1,
                Err(error) => panic!("{error:?}"),
            }
            assert!(interruptions < 300, "it makes no progress");
            // Until it is over, the work list knows of it.
            let is_listed = world.work().list().await.unwrap().contains(&WorkItem::Platform(gone.id.clone()));
            assert_eq!(is_listed, is_marked().await);
        };
        assert_eq!(gone_at, DeletionState::Gone);
        assert!(interruptions > 3, "{interruptions} interruptions");
        assert_only_a_tombstone_is_left(&world, &gone.id).await;
        assert_others_are(&world, &gone.id, &before).await;
        for key in &gone.keys {
            assert!(!is_accepted(&world.table, key).await);
        }
    }
    for key in &other.keys {
        assert!(is_accepted(&world.table, key).await);
    }
}

#[tokio::test]
async fn secrets_whose_setting_began_before_the_deletion_leave_no_value_behind() {
    let world = World::start().await;
    let gone = Furnished::make(&world).await;
    let scope = gone.scope();
    let session = world.session(&scope).await;
    let sealer = SecretSealer::new(world.table.clone(), world.keys.clone());
    let targets = [SecretTarget::Platform, own(&session)];
    let mut begun = Vec::new();
    for target in &targets {
        begun.push(sealer.load(&scope, target).await.unwrap());
    }
    let deletion = deletion(&world.table);
    deletion.begin(&gone.id).await.unwrap();
    for (target, read) in targets.iter().zip(begun) {
        let late = refused(sealer.set(&scope, target, read, &[secret("LATE", "x")]).await);
        assert!(matches!(late, StoreError::NotFound), "{late:?}");
    }
    deletion.advance(&gone.id, now_ms()).await.unwrap();
    assert_eq!(values_for_agents(&world, &gone.id).await, 0);
    // Side by side, whoever is first: nothing stays.
    let race = Furnished::make(&world).await;
    let scope = race.scope();
    let sets = futures_util::future::join_all((0..20).map(|n| {
        let (world, scope) = (&world, &scope);
        async move { world.set(scope, &SecretTarget::Platform, &[secret(&format!("N{n}"), "x")]).await.is_ok() }
    }));
    let delete = async {
        deletion.begin(&race.id).await.unwrap();
        deletion.advance(&race.id, now_ms()).await.unwrap();
    };
    futures_util::future::join(sets, delete).await;
    deletion.advance(&race.id, now_ms()).await.unwrap();
    assert_eq!(values_for_agents(&world, &race.id).await, 0);
}

#[tokio::test]
async fn a_deletion_waits_for_agents_and_keeps_what_their_end_may_need() {
    let world = World::start().await;
    let gone = Furnished::make(&world).await;
    let scope = gone.scope();
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = agents.begin_boot(&scope, &session, new_agent()).await.unwrap();
    let ended = agents.begin_boot(&scope, &session, new_agent()).await.unwrap();
    agents.transition(&scope, &ended.id, AgentStatus::Failed, |_| {}).await.unwrap();
    agents.settle(&scope, &ended.id).await.unwrap();
    let deletion = deletion(&world.table);
    deletion.begin(&gone.id).await.unwrap();
    let waiting = deletion.advance(&gone.id, later()).await.unwrap();
    assert!(matches!(waiting, DeletionState::UnderWay { agents: 1, .. }), "{waiting:?}");
    let row = world.row(&scope.platform_key()).await.unwrap();
    assert!(row.contains_key("retired_vault_salt") && !row.contains_key("vault_salt"));
    assert!(world.row(&scope.secret_values().unwrap().row("E2B")).await.is_some());
    assert!(world.row(&scope.providers().unwrap().row("e2b")).await.is_some());
    // Whoever ends its last agents opens the credential of the provider where they are; nothing else opens any more.
    let access = ProviderAccess::new(world.table.clone(), world.keys.clone());
    let (_, credential) = access.open(&scope, "e2b").await.unwrap().unwrap();
    assert_eq!(credential.expose(), b"e");
    assert!(matches!(refused(world.opener().load(&scope, &session.id).await), StoreError::NotFound));
    // Its session is on the list from which agents are ended.
    let work = world.work().list().await.unwrap();
    assert!(work.contains(&WorkItem::Session(gone.id.clone(), Mode::Live, session.id.clone())));
    agents.transition(&scope, &agent.id, AgentStatus::Failed, |_| {}).await.unwrap();
    agents.settle(&scope, &agent.id).await.unwrap();
    assert_eq!(deletion.advance(&gone.id, later()).await.unwrap(), DeletionState::Gone);
    assert_only_a_tombstone_is_left(&world, &gone.id).await;
    assert!(world.work().list().await.unwrap().is_empty());
    assert!(access.open(&scope, "e2b").await.is_ok_and(|found| found.is_none()));
}

#[tokio::test]
async fn more_keys_than_fit_into_one_transaction_are_all_refused() {
    let world = World::start().await;
    let mut gone = Furnished::make(&world).await;
    let platforms = Platforms::new(world.table.clone(), operator());
    for _ in 0..120 {
        gone.keys.push(platforms.create_key(&gone.id, Mode::Test, "one of many").await.unwrap().1);
    }
    let deletion = deletion(&world.table);
    deletion.begin(&gone.id).await.unwrap();
    deletion.advance(&gone.id, now_ms()).await.unwrap();
    for key in &gone.keys {
        assert!(!is_accepted(&world.table, key).await);
    }
    assert_eq!(deletion.advance(&gone.id, later()).await.unwrap(), DeletionState::Gone);
    assert_only_a_tombstone_is_left(&world, &gone.id).await;
}

#[tokio::test]
async fn a_session_that_is_made_while_its_platform_goes_goes_with_it() {
    let world = World::start().await;
    let gone = Furnished::make(&world).await;
    let deletion = deletion(&world.table);
    deletion.begin(&gone.id).await.unwrap();
    deletion.advance(&gone.id, now_ms()).await.unwrap();
    // A request that was authenticated before its key was revoked.
    Sessions::new(world.table.clone()).create(&gone.scope(), &NewSession::default()).await.unwrap();
    assert_eq!(deletion.advance(&gone.id, later()).await.unwrap(), DeletionState::Gone);
    assert_only_a_tombstone_is_left(&world, &gone.id).await;
}

#[tokio::test]
async fn what_is_not_there_or_not_marked_is_not_deleted() {
    let world = World::start().await;
    let kept = Furnished::make(&world).await;
    let before = world.scan().await;
    let deletion = deletion(&world.table);
    assert!(matches!(deletion.begin(&PlatformId::make()).await, Err(StoreError::NotFound)));
    assert!(matches!(deletion.advance(&kept.id, later()).await, Err(StoreError::Conflict(_))));
    assert_eq!(world.scan().await, before);
}
