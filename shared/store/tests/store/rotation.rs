//! Rotation of the root key: its steps, what each refuses, and what it makes of rows that somebody with the table has
//! edited or moved.

use crate::agents::new_agent;
use crate::support::{Item, World, name, number, operator, own, pairs, refused, secret, text};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use theazo_store::{
    Agent, AgentCopies, DEFAULT_BACKUP_WINDOW, NewAgent, PlatformRotation, ProviderCredentials, Retirement,
    RootProgress, RootRotation, SealedSecrets, SecretSelection, SecretTarget, Session, StoreError, now_ms,
};
use theazo_tenancy::{Mode, PlatformId, TableKey, TenantScope};
use theazo_vault::RecordHeader;

pub const LIFE: Duration = Duration::from_secs(600);
pub const LIFE_MS: i64 = 600_000;
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A world whose key ring asks KMS every time, so that time is what a test says it is.
pub async fn world() -> World {
    let mut world = World::start().await;
    world.keys = world.cold_keys(Duration::ZERO);
    world
}

pub fn root(world: &World) -> RootRotation {
    RootRotation::new(world.table.clone(), world.keys.clone(), operator(), LIFE)
}

pub fn platforms(world: &World) -> PlatformRotation {
    PlatformRotation::new(world.table.clone(), world.keys.clone(), operator())
}

pub fn copies(world: &World) -> AgentCopies {
    AgentCopies::new(world.table.clone(), world.keys.clone())
}

/// Carries a rotation of the root key through, and gives the moment at which it was finished.
pub async fn rotate(world: &World, begin_ms: i64) -> i64 {
    let rotation = root(world);
    rotation.begin(begin_ms).await.unwrap();
    let mut now = begin_ms;
    for _ in 0..100 {
        match rotation.advance(now).await.unwrap() {
            RootProgress::Finished { .. } => return now,
            RootProgress::Resealing { .. } => {}
            _ => now += LIFE_MS,
        }
    }
    panic!("it does not end")
}

/// Walks until a platform's rotation is over, or stuck.
pub async fn walk(world: &World, platform: &PlatformId) -> theazo_store::PlatformWalk {
    for _ in 0..10 {
        let walk = platforms(world).walk(platform, now_ms()).await.unwrap();
        if walk.finished || walk.stuck {
            return walk;
        }
    }
    panic!("it does not end")
}

/// Every sealed row, by its key.
pub async fn sealed_rows(world: &World) -> BTreeMap<(String, String), (RecordHeader, Item)> {
    let rows = world.scan().await.into_iter().filter_map(|row| {
        let AttributeValue::B(blob) = row.get("blob")? else { return None };
        let header = RecordHeader::parse(blob.as_ref()).unwrap();
        let key = (row["pk"].as_s().unwrap().clone(), row["sk"].as_s().unwrap().clone());
        Some((key, (header, row)))
    });
    rows.collect()
}

pub async fn headers(world: &World) -> Vec<(u32, u32)> {
    let rows = sealed_rows(world).await;
    let mut headers: Vec<_> =
        rows.values().map(|(header, _)| (header.root_version, header.platform_key_version)).collect();
    headers.dedup();
    headers
}

/// Boots an agent as far as the store is concerned.
pub async fn boot(world: &World, scope: &TenantScope, session: &Session) -> Agent {
    let (sealed, opened) = open(world, scope, session).await;
    let secrets = opened.iter().map(|secret| secret.booted.clone()).collect();
    let new = NewAgent { secrets, ..new_agent() };
    let agent = world.agents().begin_boot(scope, session, new).await.unwrap();
    let kept = copies(world).seal(scope, &agent.id, &sealed, &opened, now_ms() + DAY_MS).await.unwrap();
    copies(world).keep(kept).await.unwrap();
    agent
}

pub async fn open(
    world: &World,
    scope: &TenantScope,
    session: &Session,
) -> (SealedSecrets, Vec<theazo_store::OpenedSecret>) {
    let opener = world.opener();
    let sealed = opener.load(scope, &session.id).await.unwrap();
    let opened = opener.open(scope, &sealed, &SecretSelection::All, now_ms()).await.unwrap();
    (sealed, opened)
}

pub async fn masked(world: &World, scope: &TenantScope, agent: &Agent) -> Result<BTreeMap<String, String>, StoreError> {
    let copies = copies(world);
    let sealed = copies.load(scope, &agent.id).await?;
    let opened = copies.open(scope, agent, &sealed).await?;
    let text = |value: &theazo_vault::SecretValue| String::from_utf8(value.expose().to_vec()).unwrap();
    Ok(opened.iter().map(|(name, value)| (name.clone(), text(value))).collect())
}

/// A platform with every kind of sealed value, and what its agents get.
pub struct Tenant {
    pub scope: TenantScope,
    pub session: Session,
    pub agent: Agent,
}

pub async fn tenant(world: &World, mode: Mode) -> Tenant {
    let scope = operator().tenant(&world.platform().await, mode);
    let session = world.session(&scope).await;
    let secrets = [secret("SHARED", "shared value"), secret("DOCKER", "credential")];
    world.set(&scope, &SecretTarget::Platform, &secrets).await.unwrap();
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    credentials.configure(&scope, "docker", &name("DOCKER")).await.unwrap();
    let expiring = theazo_store::NewSecret { expires_at_ms: Some(now_ms() + DAY_MS), ..secret("BRIEF", "brief value") };
    world.set(&scope, &own(&session), &[secret("OWN", "own value"), expiring]).await.unwrap();
    let agent = boot(world, &scope, &session).await;
    Tenant { scope, session, agent }
}

pub async fn assert_opens(world: &World, tenant: &Tenant) {
    let all = pairs(&[("BRIEF", "brief value"), ("OWN", "own value"), ("SHARED", "shared value")]);
    assert_eq!(world.delivered(&tenant.scope, &tenant.session.id).await.unwrap(), all);
    assert_eq!(masked(world, &tenant.scope, &tenant.agent).await.unwrap(), all);
    // A credential is opened when it is made one of another provider.
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    credentials.configure(&tenant.scope, "docker", &name("DOCKER")).await.unwrap();
}

pub fn root_key(sk: &str) -> TableKey {
    operator().root_keys().row(sk)
}

pub fn values(scope: &TenantScope, session: &Session) -> theazo_tenancy::Partition {
    scope.session(&session.id).unwrap().secret_values()
}

#[tokio::test]
async fn a_rotation_waits_between_its_steps_and_every_value_opens_all_the_time() {
    let world = world().await;
    let tenants = [tenant(&world, Mode::Live).await, tenant(&world, Mode::Test).await];
    let before = sealed_rows(&world).await;
    assert_eq!(before.len(), 2 * (2 + 2 + 3 + 1), "the last vouches for the list of the copies");
    let rotation = root(&world);
    let began = now_ms();
    let published = RootProgress::Published { version: 2, switch_at_ms: began + LIFE_MS };
    assert_eq!(rotation.begin(began).await.unwrap(), published);
    assert_eq!(rotation.begin(began + 5).await.unwrap(), published, "it goes on with the one under way");
    assert_eq!(rotation.advance(began + LIFE_MS - 1).await.unwrap(), published);
    assert_eq!(world.keys.active().await.unwrap().version(), 1);
    assert_eq!(world.keys.version(2).await.unwrap().version(), 2, "whoever reads finds it");

    let switched_at = began + LIFE_MS + 7;
    let switched = RootProgress::Switched { version: 2, reseal_at_ms: switched_at + LIFE_MS };
    assert_eq!(rotation.advance(switched_at).await.unwrap(), switched);
    assert_eq!(world.keys.active().await.unwrap().version(), 2);
    assert_eq!(rotation.advance(switched_at + LIFE_MS - 1).await.unwrap(), switched);
    assert_eq!(sealed_rows(&world).await, before, "nothing is sealed anew before everyone has the key");
    for tenant in &tenants {
        assert_opens(&world, tenant).await;
    }
    let mut last = switched;
    for _ in 0..10 {
        last = rotation.advance(switched_at + LIFE_MS).await.unwrap();
        for tenant in &tenants {
            assert_opens(&world, tenant).await;
        }
        if matches!(last, RootProgress::Finished { .. }) {
            break;
        }
    }
    assert_eq!(last, RootProgress::Finished { version: 2, resealed: 16, unopened: 0 });
    assert_eq!(rotation.advance(switched_at + LIFE_MS).await.unwrap(), RootProgress::Idle);
    let after = sealed_rows(&world).await;
    assert!(after.keys().eq(before.keys()));
    for (key, (header, row)) in &after {
        assert_eq!(*header, RecordHeader { root_version: 2, platform_key_version: 1 });
        let mut expected = before[key].1.clone();
        expected.insert("blob".into(), row["blob"].clone());
        assert_eq!(*row, expected, "only the record differs");
    }
    let status = rotation.status(switched_at + LIFE_MS).await.unwrap();
    let counts: Vec<_> = status.versions.iter().map(|one| (one.version, one.active, one.values)).collect();
    assert_eq!(counts, [(1, false, 0), (2, true, 16)]);
    assert_eq!(status.versions[0].replaced_at_ms, Some(switched_at));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_rotate_at_once_make_one_rotation() {
    let world = world().await;
    let tenant = tenant(&world, Mode::Live).await;
    let now = now_ms();
    for at in [now, now + LIFE_MS, now + 2 * LIFE_MS, now + 2 * LIFE_MS] {
        let all = (0..8).map(|_| {
            let rotation = root(&world);
            tokio::spawn(async move {
                if at == now {
                    rotation.begin(at).await?;
                }
                rotation.advance(at).await
            })
        });
        for outcome in join_all(all).await {
            outcome.unwrap().unwrap();
        }
    }
    while root(&world).advance(now + 2 * LIFE_MS).await.unwrap() != RootProgress::Idle {}
    let status = root(&world).status(now + 2 * LIFE_MS).await.unwrap();
    let counts: Vec<_> = status.versions.iter().map(|one| (one.version, one.values)).collect();
    assert_eq!(counts, [(1, 0), (2, 8)]);
    assert_opens(&world, &tenant).await;
}

#[tokio::test]
async fn a_rotation_begins_and_switches_only_from_an_active_row_that_kms_vouches_for() {
    let world = world().await;
    let good = world.row(&root_key("active")).await.unwrap();
    let created: i64 = good["created_at_ms"].as_n().unwrap().parse().unwrap();
    let mut edited = good.clone();
    edited.insert("created_at_ms".into(), number(created - 1));
    world.put(&root_key("active"), edited.clone()).await;
    let now = now_ms();
    assert!(matches!(refused(root(&world).begin(now).await), StoreError::Kms { operation: "ReEncrypt", .. }));
    assert!(world.row(&root_key("version#0000000002")).await.is_none());

    world.put(&root_key("active"), good.clone()).await;
    root(&world).begin(now).await.unwrap();
    world.put(&root_key("active"), edited.clone()).await;
    assert!(matches!(refused(root(&world).advance(now + LIFE_MS).await), StoreError::Kms { .. }));
    assert_eq!(world.row(&root_key("active")).await.unwrap()["ciphertext"], edited["ciphertext"]);
    world.put(&root_key("active"), good).await;
    assert!(matches!(root(&world).advance(now + LIFE_MS).await.unwrap(), RootProgress::Switched { .. }));
}

#[tokio::test]
async fn a_version_that_somebody_else_wrote_into_the_table_never_becomes_active() {
    let world = world().await;
    let mut forged = world.row(&root_key("version#0000000001")).await.unwrap();
    forged.insert("version".into(), number(9));
    world.put(&root_key("version#0000000009"), forged).await;
    let error = refused(root(&world).advance(now_ms() + LIFE_MS).await);
    assert!(matches!(error, StoreError::Kms { operation: "ReEncrypt", .. }), "{error:?}");
    assert_eq!(world.keys.active().await.unwrap().version(), 1);
}

#[tokio::test]
async fn a_version_is_retired_only_when_nothing_can_need_it_any_more() {
    let world = world().await;
    let tenant = tenant(&world, Mode::Live).await;
    let rotation = root(&world);
    let now = now_ms();
    let retire = async |version, at| rotation.retire(version, DEFAULT_BACKUP_WINDOW, at).await.unwrap();
    assert_eq!(retire(1, now + 100 * DAY_MS).await, Retirement::Active);
    assert_eq!(retire(2, now).await, Retirement::Unknown);
    rotation.begin(now).await.unwrap();
    assert_eq!(retire(2, now).await, Retirement::UnderWay);
    let switched_at = now + LIFE_MS;
    rotation.advance(switched_at).await.unwrap();
    assert_eq!(retire(1, switched_at + 100 * DAY_MS).await, Retirement::UnderWay);
    assert_eq!(retire(2, switched_at + 100 * DAY_MS).await, Retirement::Active);
    let old = sealed_rows(&world).await;
    rotate(&world, switched_at).await;

    let due = switched_at + 35 * DAY_MS;
    assert_eq!(retire(1, due - 1).await, Retirement::TooEarly(due));
    // However short the window is said to be, writers are given their time.
    let least = switched_at + 2 * LIFE_MS;
    let early = rotation.retire(1, Duration::ZERO, least - 1).await.unwrap();
    assert_eq!(early, Retirement::TooEarly(least));

    // A value that somebody brings back is in the way until it is sealed anew.
    let place = values(&tenant.scope, &tenant.session).row("OWN");
    let row = old[&(place.pk().to_owned(), place.sk().to_owned())].1.clone();
    world.put(&place, row.clone()).await;
    assert_eq!(retire(1, due).await, Retirement::InUse(1));
    assert!(world.keys.version(1).await.is_ok());
    while rotation.advance(due).await.unwrap() != RootProgress::Idle {}
    assert_eq!(retire(1, due).await, Retirement::Retired);
    assert!(matches!(refused(world.keys.version(1).await), StoreError::NoRootKey));
    assert_eq!(retire(1, due).await, Retirement::Unknown);
    assert_opens(&world, &tenant).await;

    // Its number is never used again.
    world.put(&place, row).await;
    assert!(matches!(refused(world.delivered(&tenant.scope, &tenant.session.id).await), StoreError::NoRootKey));
    world.set(&tenant.scope, &own(&tenant.session), &[secret("OWN", "own value")]).await.unwrap();
    rotate(&world, due).await;
    assert_eq!(headers(&world).await, [(3, 1)]);
    assert_opens(&world, &tenant).await;
}

#[tokio::test]
async fn the_time_that_a_version_was_replaced_cannot_be_put_back() {
    let world = world().await;
    let now = now_ms();
    let finished = rotate(&world, now).await;
    rotate(&world, finished).await;
    let rotation = root(&world);
    // Whatever the rotation's row says: the next version's own row, and the active one's, say when they came to be.
    for edit in [Some(AttributeValue::L(Vec::new())), None] {
        let mut row = world.row(&root_key("rotation")).await.unwrap();
        match &edit {
            Some(empty) => row.insert("replaced".into(), empty.clone()),
            None => {
                let AttributeValue::L(list) = row.get_mut("replaced").unwrap() else { panic!("a list") };
                for one in list {
                    let AttributeValue::M(one) = one else { panic!("a map") };
                    one.insert("at_ms".into(), number(0));
                }
                None
            }
        };
        for (version, least) in [(1, now), (2, finished + LIFE_MS)] {
            let outcome = rotation.retire(version, DEFAULT_BACKUP_WINDOW, now + 35 * DAY_MS - 1).await.unwrap();
            assert!(matches!(outcome, Retirement::TooEarly(at) if at >= least + 35 * DAY_MS), "{version}: {outcome:?}");
        }
        world.put(&root_key("rotation"), row).await;
    }
}

#[tokio::test]
async fn a_row_that_was_moved_stays_as_it_is_and_is_reported() {
    let world = world().await;
    let (one, other) = (tenant(&world, Mode::Live).await, tenant(&world, Mode::Live).await);
    let from = values(&one.scope, &one.session).row("OWN");
    let moved = world.row(&from).await.unwrap();
    let places = [
        values(&one.scope, &one.session).row("MOVED"),
        values(&other.scope, &other.session).row("OWN"),
        one.scope.secret_values().unwrap().row("OWN"),
        one.scope.agent_copies(&one.agent.id).unwrap().row("MOVED"),
        one.scope.platform_wide().unwrap().agents().row("elsewhere"),
    ];
    let mut originals = Vec::new();
    for place in &places {
        originals.push(world.row(place).await);
        world.put(place, moved.clone()).await;
    }
    let mut edited = world.row(&values(&one.scope, &one.session).row("BRIEF")).await.unwrap();
    edited.insert("expires_at_ms".into(), number(now_ms() + 1000 * DAY_MS));
    world.put(&values(&one.scope, &one.session).row("BRIEF"), edited.clone()).await;
    let finished = rotate(&world, now_ms()).await;
    let status = root(&world).status(finished).await.unwrap();
    assert_eq!((status.unopened, status.unopened_places.len(), status.versions[0].values), (6, 6, 6));
    for place in &places {
        assert_eq!(world.row(place).await.unwrap()["blob"], moved["blob"]);
        assert!(status.unopened_places.contains(&format!("{} {}", place.pk(), place.sk())));
    }
    assert_eq!(world.row(&values(&one.scope, &one.session).row("BRIEF")).await.unwrap(), edited);
    let outcome = root(&world).retire(1, Duration::ZERO, finished + DAY_MS).await.unwrap();
    assert_eq!(outcome, Retirement::InUse(6));
    assert!(world.keys.version(1).await.is_ok());

    // Put right again, they are sealed anew like all others.
    for (place, original) in places.iter().zip(originals) {
        match original {
            Some(row) => world.put(place, row).await,
            None => world.remove(place).await,
        }
    }
    while root(&world).advance(finished + DAY_MS).await.unwrap() != RootProgress::Idle {}
    assert_eq!(root(&world).status(finished).await.unwrap().unopened, 1, "the edited one");
}

#[tokio::test]
async fn whoever_edits_the_rotations_row_can_delay_and_mislead_and_lose_nothing() {
    let world = world().await;
    let tenant = tenant(&world, Mode::Live).await;
    let cursor = |pk: &str| Some(AttributeValue::M([("pk".into(), text(pk)), ("sk".into(), text("~"))].into()));
    let edits: [(&str, Option<AttributeValue>); 14] = [
        ("finished_at_ms", Some(number(1))),
        ("cursor", cursor("~~~~")),
        ("cursor", cursor("")),
        ("cursor", cursor(&"x".repeat(3000))),
        ("cursor", Some(text("nonsense"))),
        ("target", Some(number(77))),
        ("target", Some(text("nonsense"))),
        ("target", None),
        ("revision", Some(text("nonsense"))),
        ("revision", None),
        ("replaced", None),
        ("found", Some(number(-1))),
        ("phase", Some(text("nonsense"))),
        ("the whole row", None),
    ];
    let mut now = now_ms();
    for (version, (column, value)) in (1..).zip(edits) {
        root(&world).begin(now).await.unwrap();
        root(&world).advance(now + LIFE_MS).await.unwrap();
        now += 2 * LIFE_MS;
        let mut row = world.row(&root_key("rotation")).await.unwrap();
        match value {
            Some(value) => drop(row.insert(column.into(), value)),
            None => drop(row.remove(column)),
        }
        match column {
            "the whole row" => world.remove(&root_key("rotation")).await,
            _ => world.put(&root_key("rotation"), row).await,
        }
        for _ in 0..3 {
            root(&world).advance(now).await.unwrap();
        }
        assert_opens(&world, &tenant).await;
        // A pass that was made to skip rows, or not to take place: the count decides, and a new pass follows.
        now += 2 * LIFE_MS;
        let mut outcome = root(&world).retire(version, Duration::ZERO, now).await.unwrap();
        for _ in 0..10 {
            if outcome == Retirement::Retired {
                break;
            }
            assert!(matches!(outcome, Retirement::InUse(_) | Retirement::UnderWay), "{column}: {outcome:?}");
            root(&world).advance(now).await.unwrap();
            assert_opens(&world, &tenant).await;
            outcome = root(&world).retire(version, Duration::ZERO, now).await.unwrap();
        }
        assert_eq!(outcome, Retirement::Retired, "{column}");
        assert_eq!(headers(&world).await, [(version + 1, 1)]);
        assert_opens(&world, &tenant).await;
    }
}

#[tokio::test]
async fn what_was_read_before_it_was_sealed_anew_is_read_again() {
    let world = world().await;
    let tenant = tenant(&world, Mode::Live).await;
    let opener = world.opener();
    let sealed = opener.load(&tenant.scope, &tenant.session.id).await.unwrap();
    let beside = copies(&world).load(&tenant.scope, &tenant.agent.id).await.unwrap();
    let finished = rotate(&world, now_ms()).await;
    let retired = root(&world).retire(1, Duration::ZERO, finished + LIFE_MS).await.unwrap();
    assert_eq!(retired, Retirement::Retired);
    platforms(&world).begin(tenant.scope.platform()).await.unwrap();
    assert!(walk(&world, tenant.scope.platform()).await.finished);
    assert_eq!(headers(&world).await, [(2, 2)]);
    let opened = opener.open(&tenant.scope, &sealed, &SecretSelection::All, now_ms()).await.unwrap();
    assert_eq!(opened.len(), 3);
    assert_eq!(copies(&world).open(&tenant.scope, &tenant.agent, &beside).await.unwrap().len(), 3);
}

#[tokio::test]
async fn more_values_than_one_piece_holds_are_sealed_anew_piece_by_piece() {
    let world = world().await;
    let scope = world.tenant().await;
    let mut sessions = Vec::new();
    for index in 0..6 {
        let session = world.session(&scope).await;
        let many: Vec<_> = (0..80).map(|n| secret(&format!("S{n}"), &format!("value {index} {n}"))).collect();
        world.set(&scope, &own(&session), &many).await.unwrap();
        sessions.push(session);
    }
    let now = now_ms();
    let rotation = root(&world);
    rotation.begin(now).await.unwrap();
    rotation.advance(now + LIFE_MS).await.unwrap();
    let (mut pieces, mut seen) = (0, Vec::new());
    loop {
        pieces += 1;
        assert!(pieces < 20);
        match rotation.advance(now + 2 * LIFE_MS).await.unwrap() {
            RootProgress::Resealing { resealed, .. } => seen.push(resealed),
            RootProgress::Finished { resealed, unopened, .. } => {
                assert_eq!((resealed, unopened), (480, 0));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.len() >= 2 && seen.is_sorted(), "{seen:?}");
    for (index, session) in sessions.iter().enumerate() {
        let delivered = world.delivered(&scope, &session.id).await.unwrap();
        assert_eq!((delivered.len(), delivered["S79"].as_str()), (80, format!("value {index} 79").as_str()));
    }
}
