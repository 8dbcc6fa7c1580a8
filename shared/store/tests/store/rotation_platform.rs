//! Rotation of a platform's key.

use crate::agents::new_agent;
use crate::proxy::Proxy;
use crate::rotation::{
    DAY_MS, LIFE, LIFE_MS, assert_opens, copies, headers, masked, open, platforms, root, root_key, rotate, sealed_rows,
    tenant, values, walk, world,
};
use crate::support::{World, aws, operator, own, pairs, refused, secret, text};
use std::time::Duration;
use theazo_store::{NewAgent, PlatformRotation, Retirement, SecretSealer, SecretTarget, StoreError, Table, now_ms};
use theazo_tenancy::{Mode, PlatformId};

#[tokio::test]
async fn a_platforms_new_key_reaches_all_its_values_and_nobody_elses() {
    let world = world().await;
    let live = tenant(&world, Mode::Live).await;
    let stranger = tenant(&world, Mode::Live).await;
    let test = operator().tenant(live.scope.platform(), Mode::Test);
    let in_test = world.session(&test).await;
    world.set(&test, &SecretTarget::Platform, &[secret("A", "a")]).await.unwrap();
    world.set(&test, &own(&in_test), &[secret("B", "b")]).await.unwrap();
    let platform = live.scope.platform();
    let before = sealed_rows(&world).await;
    assert_eq!(platforms(&world).begin(platform).await.unwrap(), 2);
    assert_eq!(platforms(&world).begin(platform).await.unwrap(), 2, "it goes on with the one under way");
    assert_eq!(sealed_rows(&world).await, before);
    assert_opens(&world, &live).await;
    let waiting = platforms(&world).unfinished(now_ms(), LIFE).await.unwrap();
    assert_eq!(waiting, std::slice::from_ref(platform));

    let first = platforms(&world).walk(platform, now_ms()).await.unwrap();
    assert_eq!((first.resealed, first.unopened, first.finished), (10, 0, false));
    assert!(world.row(&live.scope.platform_key()).await.unwrap().contains_key("vault_previous"));
    assert_opens(&world, &live).await;
    let second = platforms(&world).walk(platform, now_ms()).await.unwrap();
    assert_eq!((second.resealed, second.finished), (0, true));
    assert!(!world.row(&live.scope.platform_key()).await.unwrap().contains_key("vault_previous"));
    assert!(platforms(&world).unfinished(now_ms(), LIFE).await.unwrap().is_empty());
    for tenant in [&live, &stranger] {
        assert_opens(&world, tenant).await;
    }
    assert_eq!(world.delivered(&test, &in_test.id).await.unwrap(), pairs(&[("A", "a"), ("B", "b")]));
    for ((pk, _), (header, row)) in sealed_rows(&world).await {
        let is_own = pk.starts_with(platform.as_str());
        assert_eq!(header.platform_key_version, if is_own { 2 } else { 1 });
        let mut expected = before[&(pk, row["sk"].as_s().unwrap().clone())].1.clone();
        expected.insert("blob".into(), row["blob"].clone());
        assert_eq!(row, expected);
    }
    let rotations = world.scan().await.into_iter().filter(|row| row.get("action") == Some(&text("platform.rotate")));
    assert_eq!(rotations.count(), 1);
    let absent = PlatformId::make();
    assert!(matches!(refused(platforms(&world).begin(&absent).await), StoreError::NotFound));
}

#[tokio::test]
async fn a_write_that_began_under_a_platforms_old_key_ends_under_the_new_one() {
    let world = world().await;
    let tenant = tenant(&world, Mode::Live).await;
    let sealer = SecretSealer::new(world.table.clone(), world.keys.clone());
    let read = sealer.load(&tenant.scope, &own(&tenant.session)).await.unwrap();
    // An agent that is booting: it has opened its secrets and sealed copies of them, and written none yet.
    let (sealed, opened) = open(&world, &tenant.scope, &tenant.session).await;
    let secrets = opened.iter().map(|secret| secret.booted.clone()).collect();
    let new = NewAgent { secrets, ..new_agent() };
    let agent = world.agents().begin_boot(&tenant.scope, &tenant.session, new).await.unwrap();
    let late = copies(&world).seal(&tenant.scope, &agent.id, &sealed, &opened, now_ms() + DAY_MS).await.unwrap();

    platforms(&world).begin(tenant.scope.platform()).await.unwrap();
    assert!(walk(&world, tenant.scope.platform()).await.finished);
    sealer.set(&tenant.scope, &own(&tenant.session), read, &[secret("OWN", "own value")]).await.unwrap();
    copies(&world).keep(late).await.unwrap();
    assert_eq!(headers(&world).await, [(1, 2)]);
    assert_opens(&world, &tenant).await;
    assert_eq!(masked(&world, &tenant.scope, &agent).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_platforms_old_salt_stays_while_a_row_that_does_not_open_names_it() {
    let world = world().await;
    let tenant = tenant(&world, Mode::Live).await;
    let platform = tenant.scope.platform();
    let (from, to) =
        (values(&tenant.scope, &tenant.session).row("OWN"), tenant.scope.secret_values().unwrap().row("OWN"));
    let stray = world.row(&from).await.unwrap();
    world.put(&to, stray.clone()).await;
    platforms(&world).begin(platform).await.unwrap();
    let stuck = walk(&world, platform).await;
    assert_eq!((stuck.finished, stuck.stuck, stuck.unopened), (false, true, 1));
    assert_eq!(stuck.unopened_places, [format!("{} OWN", to.pk())]);
    assert_eq!(world.row(&to).await.unwrap()["blob"], stray["blob"]);
    assert!(world.row(&tenant.scope.platform_key()).await.unwrap().contains_key("vault_previous"));
    // Upkeep leaves it alone for a while, and looks again then.
    let now = now_ms();
    assert!(platforms(&world).unfinished(now, LIFE).await.unwrap().is_empty());
    assert_eq!(platforms(&world).unfinished(now + LIFE_MS, LIFE).await.unwrap(), std::slice::from_ref(platform));
    // A note that was removed ends nothing early.
    let note = root_key(&format!("platform#{platform}"));
    world.remove(&note).await;
    assert!(walk(&world, platform).await.stuck);
    assert_eq!(platforms(&world).begin(platform).await.unwrap(), 2);
    assert!(world.row(&note).await.is_some());

    world.remove(&to).await;
    assert!(walk(&world, platform).await.finished);
    assert!(world.row(&note).await.is_none());
    assert_opens(&world, &tenant).await;
}

#[tokio::test]
async fn a_walk_over_many_values_is_done_in_pieces_and_goes_on_in_another_process_where_it_stopped() {
    // Keys stay in memory: hundreds of values are opened.
    let world = World::start().await;
    let scope = world.tenant().await;
    let platform = scope.platform();
    let mut sessions = Vec::new();
    for index in 0..3 {
        let session = world.session(&scope).await;
        let many: Vec<_> = (0..80).map(|n| secret(&format!("S{n}"), &format!("value {index} {n}"))).collect();
        world.set(&scope, &own(&session), &many).await.unwrap();
        sessions.push(session);
    }
    platforms(&world).begin(platform).await.unwrap();
    let first = platforms(&world).walk(platform, now_ms()).await.unwrap();
    assert_eq!((first.resealed, first.finished, first.stuck), (240, false, false));
    let status = root(&world).status(now_ms()).await.unwrap().platforms;
    let [shown] = &status[..] else { panic!("{status:?}") };
    assert_eq!((&shown.platform, shown.key_version, shown.resealed), (platform, 2, 240));
    assert!(shown.touched_at_ms.is_some() && shown.walked_at_ms.is_none() && !shown.stuck, "{shown:?}");
    // Whoever begins the same rotation again begins no new walk.
    platforms(&world).begin(platform).await.unwrap();

    let proxy = Proxy::start(&world.dynamodb_url).await;
    let table = Table::new(&aws(&proxy.url, &world.kms_url), "theazo");
    let elsewhere = PlatformRotation::new(table, world.cold_keys(Duration::ZERO), operator());
    let second = elsewhere.walk(platform, now_ms()).await.unwrap();
    assert_eq!((second.resealed, second.finished, second.stuck), (0, false, false));
    let read = proxy.calls("Query");
    assert!(!read.is_empty() && read.iter().all(|call| !call.to_string().contains("#live#ses")), "{read:?}");
    assert!(root(&world).status(now_ms()).await.unwrap().platforms[0].walked_at_ms.is_some());

    // A walk that finds nothing is the last one.
    let third = elsewhere.walk(platform, now_ms()).await.unwrap();
    assert_eq!((third.resealed, third.finished), (0, true));
    assert!(proxy.calls("Query").iter().any(|call| call.to_string().contains("#live#ses")));
    assert!(root(&world).status(now_ms()).await.unwrap().platforms.is_empty());
    assert_eq!(headers(&world).await, [(1, 2)]);
    for (index, session) in sessions.iter().enumerate() {
        let delivered = world.delivered(&scope, &session.id).await.unwrap();
        assert_eq!((delivered.len(), delivered["S79"].as_str()), (80, format!("value {index} 79").as_str()));
    }
}

#[tokio::test]
async fn what_somebody_puts_beside_the_root_keys_hides_no_platform_whose_key_is_being_rotated() {
    let world = world().await;
    let (first, second) = (world.platform().await, world.platform().await);
    let scope = operator().tenant(&first, Mode::Live);
    world.set(&scope, &SecretTarget::Platform, &[secret("A", "a")]).await.unwrap();
    for platform in [&first, &second] {
        platforms(&world).begin(platform).await.unwrap();
    }
    let note = world.row(&root_key(&format!("platform#{first}"))).await.unwrap();
    let absent = PlatformId::make();
    for sort_key in ["version#x", "version#0000000009", "platform#x", "x", &format!("platform#{absent}")] {
        world.put(&root_key(sort_key), note.clone()).await;
    }
    assert!(matches!(refused(root(&world).progressed(now_ms()).await), StoreError::Corrupt(_)));
    // The one first that was longest left alone.
    assert!(!platforms(&world).walk(&first, now_ms()).await.unwrap().finished);
    let unfinished = platforms(&world).unfinished(now_ms(), LIFE).await.unwrap();
    assert_eq!(unfinished, [second, first]);
}

#[tokio::test]
async fn a_root_rotation_beside_a_platforms_loses_nothing() {
    let world = world().await;
    let tenant = tenant(&world, Mode::Live).await;
    let now = now_ms();
    platforms(&world).begin(tenant.scope.platform()).await.unwrap();
    let finished = rotate(&world, now).await;
    assert_eq!(headers(&world).await, [(2, 2)], "rows go under the platform's present key as well");
    assert!(walk(&world, tenant.scope.platform()).await.finished);
    let retired = root(&world).retire(1, Duration::ZERO, finished + LIFE_MS).await.unwrap();
    assert_eq!(retired, Retirement::Retired);
    assert_opens(&world, &tenant).await;
}
