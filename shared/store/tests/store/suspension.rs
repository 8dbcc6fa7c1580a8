//! A platform's standing, as the operator changes it.

use crate::deletion::deletion;
use crate::support::{World, operator, refused};
use theazo_store::{AuditAction, AuditFilter, PlatformSuspension, StoreError};
use theazo_tenancy::PlatformId;

#[tokio::test]
async fn a_platform_is_suspended_and_resumed_once_however_often_that_is_said_and_only_where_there_is_one() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let (platform, bystander) = (scope.platform().clone(), world.platform().await);
    let suspension = PlatformSuspension::new(world.table.clone(), operator());
    let is_suspended = async |platform: &PlatformId| suspension.is_suspended(platform).await.unwrap();

    for round in 1..=2 {
        assert!(!is_suspended(&platform).await);
        suspension.resume(&platform).await.unwrap();
        assert!(!is_suspended(&platform).await);
        for _ in 0..2 {
            suspension.suspend(&platform).await.unwrap();
            assert!(is_suspended(&platform).await);
            assert!(!is_suspended(&bystander).await);
        }
        for _ in 0..2 {
            suspension.resume(&platform).await.unwrap();
            assert!(!is_suspended(&platform).await);
        }
        // What stands so already leaves no entry.
        let trail = crate::audit::trail(&world, &scope, &AuditFilter::default()).await;
        let of = |action| trail.iter().filter(|entry| entry.action == action).count();
        assert_eq!((of(AuditAction::PlatformSuspend), of(AuditAction::PlatformResume)), (round, round));
    }

    // One that is being deleted has no standing to change, whatever it is.
    suspension.suspend(&platform).await.unwrap();
    for platform in [&platform, &bystander] {
        deletion(&world.table).begin(platform).await.unwrap();
    }
    for platform in [&platform, &bystander, &PlatformId::make()] {
        let before = world.scan().await;
        let refusals = [suspension.suspend(platform).await, suspension.resume(platform).await];
        for refusal in refusals {
            assert!(matches!(refused(refusal), StoreError::NotFound), "{platform}");
        }
        assert!(world.scan().await == before);
    }
}
