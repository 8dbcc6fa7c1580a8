//! Rotations of the root key and of a platform's, while its users go on: they fail no request and lose no write.

use crate::rotation::sealed_rows;
use crate::support::{Delivered, World, operator, own, secret};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use theazo_store::{PlatformRotation, Retirement, RootProgress, RootRotation, SecretTarget, now_ms};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_rotations_fail_no_request_and_lose_no_write() {
    const TTL: Duration = Duration::from_millis(200);
    // Longer than the instances keep keys, as it must be; the rest is for a machine that has much else to do.
    const WAIT: Duration = Duration::from_millis(1500);
    let mut world = World::start().await;
    world.keys = world.cold_keys(TTL);
    let world = Arc::new(world);
    let scope = world.tenant().await;
    let over = Arc::new(AtomicBool::new(false));
    world.set(&scope, &SecretTarget::Platform, &[secret("SHARED", "shared value")]).await.unwrap();
    let mut users = Vec::new();
    for user in 0..4 {
        let (world, scope, over) = (world.clone(), scope.clone(), over.clone());
        users.push(tokio::spawn(async move {
            let session = world.session(&scope).await;
            let (mut written, mut own_values) = (0_u32, Delivered::new());
            while !over.load(Ordering::Relaxed) {
                written += 1;
                let name = ["A", "B", "C"][written as usize % 3];
                let value = format!("user {user} wrote {written}");
                world.set(&scope, &own(&session), &[secret(name, &value)]).await.unwrap();
                own_values.insert(name.into(), value);
                if written % 5 == 0 {
                    world.delete(&scope, &own(&session), name).await.unwrap();
                    own_values.remove(name);
                }
                let mut expected = own_values.clone();
                expected.insert("SHARED".into(), "shared value".into());
                assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), expected);
                assert!(world.versions(&scope, &own(&session)).await.keys().eq(own_values.keys()));
            }
            (session, own_values, written)
        }));
    }
    let rotation = RootRotation::new(world.table.clone(), world.keys.clone(), operator(), WAIT);
    let platform = PlatformRotation::new(world.table.clone(), world.keys.clone(), operator());
    for version in 2..=3 {
        rotation.begin(now_ms()).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(Instant::now() < deadline);
            if matches!(rotation.advance(now_ms()).await.unwrap(), RootProgress::Finished { .. }) {
                break;
            }
            platform.begin(scope.platform()).await.unwrap();
            let _ = platform.walk(scope.platform(), now_ms()).await.unwrap();
        }
        assert_eq!(world.keys.version(version).await.unwrap().version(), version);
    }
    while !platform.walk(scope.platform(), now_ms()).await.unwrap().finished {}
    over.store(true, Ordering::Relaxed);
    for user in users {
        let (session, own_values, written) = user.await.unwrap();
        assert!(written >= 3, "{written}");
        let mut expected = own_values;
        expected.insert("SHARED".into(), "shared value".into());
        assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), expected);
    }
    assert!(sealed_rows(&world).await.values().all(|(header, _)| header.root_version == 3));
    for old in [1, 2] {
        let retired = rotation.retire(old, Duration::ZERO, now_ms() + 60_000).await.unwrap();
        assert_eq!(retired, Retirement::Retired);
    }
}
