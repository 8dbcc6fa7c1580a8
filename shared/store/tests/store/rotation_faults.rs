//! Rotations while the key service fails, at each of the calls that a rotation makes of it: nothing is changed that was
//! not whole, values open all the while, and the rotation that goes on is as if nothing had been.

use crate::logs;
use crate::proxy::{Fault, Proxy};
use crate::rotation::{LIFE, LIFE_MS, Tenant, assert_opens, platforms, root, root_key, sealed_rows, tenant, world};
use crate::support::{DEPLOYMENT, World, aws, key_ring, operator, refused};
use futures_util::future::join_all;
use std::time::Duration;
use theazo_store::{KeyRing, KmsFailure, PlatformRotation, Retirement, RootProgress, RootRotation, StoreError, now_ms};
use theazo_tenancy::Mode;

const GENERATE: &str = "GenerateDataKeyWithoutPlaintext";
const RE_ENCRYPT: &str = "ReEncrypt";
const DECRYPT: &str = "Decrypt";
/// What the service says beside its code; it must go nowhere.
const CHATTER: &str = "chatter of the service";

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug)]
struct Failing {
    code: &'static str,
    status: u16,
    /// Whether the service does as it is asked, and only its answer is lost.
    forward: bool,
    failure: KmsFailure,
}

const THROTTLED: Failing = refusing("ThrottlingException", KmsFailure::Throttled);
const DENIED: Failing = refusing("AccessDeniedException", KmsFailure::Denied);
const DISABLED: Failing = refusing("DisabledException", KmsFailure::Disabled);
const PENDING_DELETION: Failing = refusing("KMSInvalidStateException", KmsFailure::PendingDeletion);
const BROKEN: Failing = Failing { status: 500, ..refusing("KMSInternalException", KmsFailure::Other) };
const UNHEARD: Failing = Failing { forward: true, ..BROKEN };

const fn refusing(code: &'static str, failure: KmsFailure) -> Failing {
    Failing { code, status: 400, forward: false, failure }
}

/// The steps of a rotation, each with the calls that it makes: an operation, and how many of it went before.
const STEPS: [(&str, &[(&str, usize)]); 4] = [
    ("begin", &[(RE_ENCRYPT, 0), (GENERATE, 0)]),
    ("switch", &[(RE_ENCRYPT, 0), (RE_ENCRYPT, 1)]),
    ("first pass", &[(RE_ENCRYPT, 0), (DECRYPT, 0), (DECRYPT, 1)]),
    ("last pass", &[(RE_ENCRYPT, 0)]),
];

/// A world with a tenant in each mode, and a rotation whose way to the key service can be disturbed.
struct Bed {
    world: World,
    tenants: [Tenant; 2],
    proxy: Proxy,
    now_ms: i64,
}

impl Bed {
    async fn make() -> Self {
        let world = world().await;
        let tenants = [tenant(&world, Mode::Live).await, tenant(&world, Mode::Test).await];
        let proxy = Proxy::start(&world.kms_url).await;
        Self { world, tenants, proxy, now_ms: now_ms() }
    }

    /// Keys behind the proxy, with nothing in memory.
    fn keys(&self) -> KeyRing {
        let aws = aws(&self.world.dynamodb_url, &self.proxy.url);
        key_ring(&aws, &self.world.table, DEPLOYMENT, &self.world.kms_key_arn, Duration::ZERO)
    }

    /// Does a step of a rotation of the root key by those who are disturbed.
    async fn step(&self, step: &str) -> Result<RootProgress, StoreError> {
        let rotation = RootRotation::new(self.world.table.clone(), self.keys(), operator(), LIFE);
        if step == "begin" { rotation.begin(self.now_ms).await } else { rotation.advance(self.now_ms).await }
    }

    async fn assert_opens(&self) {
        for tenant in &self.tenants {
            assert_opens(&self.world, tenant).await;
        }
    }

    /// A step fails for that reason, changes nothing, and tells nobody what the service said.
    async fn assert_fails(&self, step: &str, failure: KmsFailure) {
        let before = self.world.scan().await;
        logs::take();
        let error = refused(self.step(step).await);
        assert_eq!(error.kms_failure(), Some(failure), "{step}: {error:?}");
        let logged = logs::take();
        assert!(logged.contains(&format!("\"{}\"", failure.as_str())), "{step}: {logged}");
        assert!(!format!("{logged} {error} {error:?}").contains(CHATTER), "{step}");
        assert!(self.world.scan().await == before, "{step}: something changed");
    }

    /// Everything is under the new version, and the old one is needed by nothing.
    async fn assert_whole(&self) {
        assert_eq!(root(&self.world).progressed(self.now_ms).await.unwrap(), RootProgress::Idle);
        assert!(sealed_rows(&self.world).await.values().all(|(header, _)| header.root_version == 2));
        let retired = root(&self.world).retire(1, Duration::ZERO, self.now_ms + 2 * LIFE_MS).await.unwrap();
        assert_eq!(retired, Retirement::Retired);
        assert!(self.world.row(&root_key("version#0000000003")).await.is_none(), "no version was made in vain");
        self.assert_opens().await;
    }
}

/// Has rotations fail in that way at each of their calls.
async fn fail_everywhere(failing: Failing) {
    logs::capture();
    let Failing { code, status, forward, failure } = failing;
    let body = serde_json::json!({ "__type": code, "message": CHATTER }).to_string();
    let fault = |operation| Fault { operation, times: usize::MAX, forward, status, body: body.clone() };
    let mut bed = Bed::make().await;
    let rows = sealed_rows(&bed.world).await.len() as u64;
    for (step, calls) in STEPS {
        for &(operation, spared) in calls {
            bed.proxy.inject_after(spared, fault(operation));
            bed.assert_fails(step, failure).await;
            bed.proxy.mend();
            bed.assert_opens().await;
        }
        let progress = bed.step(step).await.unwrap();
        let is_right = match step {
            "begin" => matches!(progress, RootProgress::Published { version: 2, .. }),
            "switch" => matches!(progress, RootProgress::Switched { version: 2, .. }),
            "first pass" => progress == RootProgress::Resealing { version: 2, resealed: rows, unopened: 0 },
            _ => progress == RootProgress::Finished { version: 2, resealed: rows, unopened: 0 },
        };
        assert!(is_right, "{step}: {progress:?}");
        bed.now_ms += LIFE_MS;
        bed.assert_opens().await;
    }
    bed.assert_whole().await;

    let platform = bed.tenants[0].scope.platform();
    assert_eq!(platforms(&bed.world).begin(platform).await.unwrap(), 2);
    let disturbed = || PlatformRotation::new(bed.world.table.clone(), bed.keys(), operator());
    for spared in [0, 2] {
        bed.proxy.inject_after(spared, fault(DECRYPT));
        let error = refused(disturbed().walk(platform, now_ms()).await);
        assert_eq!(error.kms_failure(), Some(failure), "{error:?}");
        assert!(!logs::take().contains(CHATTER));
        bed.proxy.mend();
        bed.assert_opens().await;
    }
    for _ in 0..5 {
        if disturbed().walk(platform, now_ms()).await.unwrap().finished {
            break;
        }
    }
    assert!(!bed.world.row(&bed.tenants[0].scope.platform_key()).await.unwrap().contains_key("vault_previous"));
    for ((pk, _), (header, _)) in sealed_rows(&bed.world).await {
        assert_eq!(header.platform_key_version, if pk.starts_with(platform.as_str()) { 2 } else { 1 });
    }
    bed.assert_opens().await;
}

#[tokio::test(flavor = "current_thread")]
async fn rotations_that_are_throttled_at_any_call_change_nothing_there_and_end_whole() {
    fail_everywhere(THROTTLED).await;
}

#[tokio::test(flavor = "current_thread")]
async fn rotations_that_are_denied_any_call_change_nothing_there_and_end_whole() {
    fail_everywhere(DENIED).await;
}

#[tokio::test(flavor = "current_thread")]
async fn rotations_whose_key_is_disabled_at_any_call_change_nothing_there_and_end_whole() {
    fail_everywhere(DISABLED).await;
}

#[tokio::test(flavor = "current_thread")]
async fn rotations_whose_key_is_to_be_deleted_at_any_call_change_nothing_there_and_end_whole() {
    fail_everywhere(PENDING_DELETION).await;
}

#[tokio::test(flavor = "current_thread")]
async fn rotations_under_which_the_service_fails_at_any_call_change_nothing_there_and_end_whole() {
    fail_everywhere(BROKEN).await;
}

#[tokio::test(flavor = "current_thread")]
async fn rotations_to_which_any_answer_is_lost_change_nothing_there_and_end_whole() {
    fail_everywhere(UNHEARD).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_kms_key_that_is_disabled_or_to_be_deleted_halfway_stops_a_rotation_until_that_is_taken_back() {
    logs::capture();
    let mut bed = Bed::make().await;
    for (step, _) in STEPS {
        let (kms, arn) = (&bed.world.kms, &bed.world.kms_key_arn);
        kms.disable_key().key_id(arn).send().await.unwrap();
        bed.assert_fails(step, KmsFailure::Disabled).await;
        kms.schedule_key_deletion().key_id(arn).pending_window_in_days(7).send().await.unwrap();
        bed.assert_fails(step, KmsFailure::PendingDeletion).await;
        kms.cancel_key_deletion().key_id(arn).send().await.unwrap();
        kms.enable_key().key_id(arn).send().await.unwrap();
        bed.step(step).await.unwrap();
        bed.now_ms += LIFE_MS;
        bed.assert_opens().await;
    }
    bed.assert_whole().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_key_service_that_is_slow_delays_a_rotation_and_one_that_does_not_answer_stops_it_in_time() {
    logs::capture();
    // Side by side, because each waits out the time limit of a call.
    let stopped = (0..STEPS.len()).map(|stops_at| async move {
        let mut bed = Bed::make().await;
        for (number, (step, _)) in STEPS.into_iter().enumerate() {
            if number == stops_at {
                let before = bed.world.scan().await;
                bed.proxy.delay(Duration::from_secs(60));
                let error = refused(bed.step(step).await);
                assert_eq!(error.kms_failure(), Some(KmsFailure::TimedOut), "{step}: {error:?}");
                assert!(bed.world.scan().await == before, "{step}: something changed");
                bed.proxy.delay(Duration::from_millis(50));
            }
            bed.step(step).await.unwrap();
            bed.proxy.mend();
            bed.now_ms += LIFE_MS;
        }
        bed.assert_whole().await;
    });
    join_all(stopped).await;
}
