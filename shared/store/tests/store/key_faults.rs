//! A key service that fails: the vault stays closed, our logs say why, and nothing else is told.

use crate::logs;
use crate::proxy::{Fault, Proxy};
use crate::support::{
    DEPLOYMENT, Item, World, aws, key_ring, name, number, operator, own, pairs, refused, secret, text,
};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use theazo_store::{
    Aws, KeyRing, KmsFailure, ProviderCredentials, RootRotation, SecretOpener, SecretSealer, SecretSelection,
    SecretTarget, Session, StoreError, now_ms,
};
use theazo_tenancy::{TableKey, TenantScope};

const HOUR: Duration = Duration::from_secs(3600);
/// Attempts of one call by the SDK.
const ATTEMPTS: usize = 3;
/// How long a call may take, as the store promises.
const CALL_LIMIT: Duration = Duration::from_secs(12);
/// What the service says beside its code; it must go nowhere.
const CHATTER: &str = "chatter of the service";

/// A world with a session that has a secret, and a platform that has one.
struct Bed {
    world: World,
    scope: TenantScope,
    session: Session,
}

fn root_rows() -> [TableKey; 2] {
    ["active", "version#0000000001"].map(|row| operator().root_keys().row(row))
}

fn decrypt_fails_with(code: &str, times: usize) -> Fault {
    let body = serde_json::json!({ "__type": code, "message": CHATTER }).to_string();
    Fault { operation: "Decrypt", times, forward: false, status: 400, body }
}

impl Bed {
    async fn make() -> Self {
        let world = World::start().await;
        let scope = world.tenant().await;
        let session = world.session(&scope).await;
        world.set(&scope, &own(&session), &[secret("OLD", "old value")]).await.unwrap();
        world.set(&scope, &SecretTarget::Platform, &[secret("KEY", "a credential")]).await.unwrap();
        Self { world, scope, session }
    }

    fn keys_of(&self, aws: &Aws, kms_key_arn: &str, ttl: Duration) -> KeyRing {
        key_ring(aws, &self.world.table, DEPLOYMENT, kms_key_arn, ttl)
    }

    /// Keys behind a key service at that address, and nothing in memory.
    fn keys_at(&self, kms_url: &str, ttl: Duration) -> KeyRing {
        self.keys_of(&aws(&self.world.dynamodb_url, kms_url), &self.world.kms_key_arn, ttl)
    }

    /// Whatever seals or opens fails with that keys for that reason, and changes nothing. Gives what was logged.
    async fn assert_closed(&self, keys: &KeyRing, failure: KmsFailure) -> String {
        let Self { world, scope, session } = self;
        let before = world.scan().await;
        logs::take();
        let sealer = SecretSealer::new(world.table.clone(), keys.clone());
        let opener = SecretOpener::new(world.table.clone(), keys.clone());
        let credentials = ProviderCredentials::new(world.table.clone(), keys.clone());
        let mut errors = vec![refused(keys.active().await), refused(keys.version(1).await)];
        for target in [own(session), SecretTarget::Platform] {
            let read = sealer.load(scope, &target).await.unwrap();
            errors.push(refused(sealer.set(scope, &target, read, &[secret("NEW", "new value")]).await));
        }
        let sealed = opener.load(scope, &session.id).await.unwrap();
        errors.push(refused(opener.open(scope, &sealed, &SecretSelection::All, now_ms()).await));
        errors.push(refused(credentials.configure(scope, "e2b", &name("KEY")).await));
        for error in &errors {
            assert_eq!(error.kms_failure(), Some(failure), "{error:?}");
            assert!(!format!("{error} {error:?}").contains(CHATTER));
        }
        assert!(world.scan().await == before, "something changed");
        let logged = logs::take();
        let lines = logged.lines().filter(|line| line.contains("the key service refused")).collect::<Vec<_>>();
        assert!(lines.len() >= errors.len(), "{logged}");
        let said = format!("\"{}\"", failure.as_str());
        assert!(lines.iter().all(|line| line.contains(&said) && line.contains("Decrypt")), "{logged}");
        assert!(!logged.contains(CHATTER), "{logged}");
        logged
    }

    async fn assert_open(&self, keys: &KeyRing) {
        let opener = SecretOpener::new(self.world.table.clone(), keys.clone());
        let sealed = opener.load(&self.scope, &self.session.id).await.unwrap();
        let opened = opener.open(&self.scope, &sealed, &SecretSelection::All, now_ms()).await.unwrap();
        assert!(opened.iter().any(|secret| secret.booted.name == "OLD" && secret.value.expose() == b"old value"));
        let sealer = SecretSealer::new(self.world.table.clone(), keys.clone());
        let read = sealer.load(&self.scope, &own(&self.session)).await.unwrap();
        sealer.set(&self.scope, &own(&self.session), read, &[secret("OLD", "old value")]).await.unwrap();
    }

    /// Edits both of the root key's rows, and gives them as they were.
    async fn edit_rows(&self, edit: impl Fn(&mut Item)) -> Vec<(TableKey, Item)> {
        let mut good = Vec::new();
        for key in root_rows() {
            let mut row = self.world.row(&key).await.unwrap();
            good.push((key.clone(), row.clone()));
            edit(&mut row);
            self.world.put(&key, row).await;
        }
        good
    }

    async fn put_back(&self, rows: Vec<(TableKey, Item)>) {
        for (key, row) in rows {
            self.world.put(&key, row).await;
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_key_that_is_disabled_or_pending_deletion_closes_the_vault_until_that_is_taken_back() {
    logs::capture();
    let bed = Bed::make().await;
    let (kms, arn) = (&bed.world.kms, &bed.world.kms_key_arn);
    kms.disable_key().key_id(arn).send().await.unwrap();
    let cold = bed.world.cold_keys(HOUR);
    bed.assert_closed(&cold, KmsFailure::Disabled).await;
    kms.schedule_key_deletion().key_id(arn).pending_window_in_days(7).send().await.unwrap();
    bed.assert_closed(&cold, KmsFailure::PendingDeletion).await;
    kms.cancel_key_deletion().key_id(arn).send().await.unwrap();
    kms.enable_key().key_id(arn).send().await.unwrap();
    bed.assert_open(&cold).await;
}

#[tokio::test(flavor = "current_thread")]
async fn another_context_a_damaged_key_and_another_kms_key_are_told_apart() {
    logs::capture();
    let bed = Bed::make().await;
    let good = bed.edit_rows(|row| drop(row.insert("created_at_ms".into(), number(1)))).await;
    bed.assert_closed(&bed.world.cold_keys(HOUR), KmsFailure::InvalidCiphertext).await;
    bed.put_back(good).await;

    let good = bed
        .edit_rows(|row| {
            let AttributeValue::B(ciphertext) = &row["ciphertext"] else { panic!("a binary") };
            let mut damaged = ciphertext.as_ref().to_vec();
            *damaged.last_mut().unwrap() ^= 1;
            row.insert("ciphertext".into(), AttributeValue::B(Blob::new(damaged)));
        })
        .await;
    bed.assert_closed(&bed.world.cold_keys(HOUR), KmsFailure::InvalidCiphertext).await;
    bed.put_back(good).await;

    let other = bed.world.kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap();
    let good = bed.edit_rows(|row| drop(row.insert("kms_key_arn".into(), text(&other)))).await;
    let direct = aws(&bed.world.dynamodb_url, &bed.world.kms_url);
    bed.assert_closed(&bed.keys_of(&direct, &other, HOUR), KmsFailure::IncorrectKey).await;
    // Nor is a row of another KMS key wrapped anew or vouched for, though KMS could tell by itself which key that is.
    let rotation =
        RootRotation::new(bed.world.table.clone(), bed.keys_of(&direct, &other, HOUR), operator(), Duration::ZERO);
    let refusal = refused(rotation.begin(now_ms()).await);
    assert!(matches!(&refusal, StoreError::Kms { code, .. } if code == "IncorrectKeyException"), "{refusal:?}");
    let absent = other.rsplit_once('/').unwrap().0.to_owned() + "/00000000-0000-0000-0000-000000000000";
    bed.edit_rows(|row| drop(row.insert("kms_key_arn".into(), text(&absent)))).await;
    bed.assert_closed(&bed.keys_of(&direct, &absent, HOUR), KmsFailure::NoSuchKey).await;
    bed.put_back(good).await;
    bed.assert_open(&bed.world.cold_keys(HOUR)).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_passing_throttle_is_survived_and_a_lasting_one_closes_the_vault() {
    logs::capture();
    let bed = Bed::make().await;
    let proxy = Proxy::start(&bed.world.kms_url).await;
    let keys = bed.keys_at(&proxy.url, HOUR);
    proxy.inject(decrypt_fails_with("ThrottlingException", usize::MAX));
    assert!(keys.active().await.is_err());
    assert_eq!(proxy.count(), ATTEMPTS);
    bed.assert_closed(&keys, KmsFailure::Throttled).await;
    proxy.inject(decrypt_fails_with("ThrottlingException", ATTEMPTS - 1));
    bed.assert_open(&keys).await;
    assert_eq!(logs::take(), "", "what is survived is not an error");
}

#[tokio::test(flavor = "current_thread")]
async fn those_who_wait_while_the_key_service_fails_learn_of_it_together_and_who_comes_later_asks_anew() {
    logs::capture();
    let bed = Bed::make().await;
    let proxy = Proxy::start(&bed.world.kms_url).await;
    let keys = bed.keys_at(&proxy.url, HOUR);
    // One call's attempts fail; whoever asked for itself after that would be answered.
    proxy.inject(decrypt_fails_with("ThrottlingException", ATTEMPTS));
    for outcome in join_all((0..20).map(|_| keys.active())).await {
        assert_eq!(refused(outcome).kms_failure(), Some(KmsFailure::Throttled));
    }
    assert_eq!(proxy.count(), ATTEMPTS, "asked for all of them at once");
    for outcome in join_all((0..20).map(|_| keys.active())).await {
        assert!(outcome.is_ok());
    }
    assert_eq!(proxy.count(), ATTEMPTS + 1);
}

#[tokio::test(flavor = "current_thread")]
async fn a_refusal_is_not_asked_for_again_and_other_failures_have_their_own_names() {
    logs::capture();
    let bed = Bed::make().await;
    let proxy = Proxy::start(&bed.world.kms_url).await;
    for (code, failure) in [
        ("AccessDeniedException", KmsFailure::Denied),
        ("UnrecognizedClientException", KmsFailure::Denied),
        ("KeyUnavailableException", KmsFailure::Other),
    ] {
        let keys = bed.keys_at(&proxy.url, HOUR);
        proxy.inject(decrypt_fails_with(code, usize::MAX));
        let before = proxy.count();
        assert!(keys.active().await.is_err());
        assert!(failure == KmsFailure::Other || proxy.count() == before + 1, "{code}");
        let logged = bed.assert_closed(&keys, failure).await;
        assert!(logged.contains(code), "{logged}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_key_service_that_is_not_there_closes_the_vault() {
    logs::capture();
    let bed = Bed::make().await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let keys = bed.keys_at(&nobody, HOUR);
    let error = refused(keys.active().await);
    assert!(error.is_unreachable(), "{error:?}");
    bed.assert_closed(&keys, KmsFailure::Unreachable).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_key_service_or_table_that_does_not_answer_is_given_up_in_time() {
    logs::capture();
    let bed = Bed::make().await;
    let (kms, table) = (Proxy::start(&bed.world.kms_url).await, Proxy::start(&bed.world.dynamodb_url).await);
    for proxy in [&kms, &table] {
        proxy.delay(2 * CALL_LIMIT);
    }
    let before = bed.world.scan().await;
    let keys = bed.keys_at(&kms.url, HOUR);
    let disturbed = aws(&table.url, &bed.world.kms_url);
    let sessions = theazo_store::Sessions::new(theazo_store::Table::new(&disturbed, "theazo"));
    let began = Instant::now();
    let (key, read, written) = futures_util::future::join3(
        keys.active(),
        sessions.get(&bed.scope, &bed.session.id),
        sessions.create(&bed.scope, &theazo_store::NewSession::default()),
    )
    .await;
    let took = began.elapsed();
    assert!(took < CALL_LIMIT + Duration::from_secs(3), "{took:?}");
    let error = refused(key);
    assert_eq!(error.kms_failure(), Some(KmsFailure::TimedOut), "{error:?}");
    assert!(error.is_unreachable() && logs::take().contains("\"timed out\""));
    for error in [refused(read), refused(written)] {
        assert!(matches!(error, StoreError::Table { .. }) && error.is_unreachable(), "{error:?}");
    }
    // An attempt that hangs is given up earlier, so that another one has its chance.
    assert!(kms.count() >= 2 && table.count() >= 2);
    assert!(bed.world.scan().await == before, "something changed");
    kms.delay(Duration::from_millis(300));
    bed.assert_open(&keys).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_key_in_memory_is_used_for_its_life_and_no_longer_whatever_the_failure_and_is_not_logged() {
    logs::capture();
    let bed = Bed::make().await;
    let proxy = Proxy::start(&bed.world.kms_url).await;
    let (warm, brief) = (bed.keys_at(&proxy.url, HOUR), bed.keys_at(&proxy.url, Duration::from_millis(400)));
    warm.active().await.unwrap();
    brief.active().await.unwrap();
    let plaintext = STANDARD.decode(proxy.answers("Decrypt")[0]["Plaintext"].as_str().unwrap()).unwrap();
    assert_eq!(plaintext.len(), 32);
    tokio::time::sleep(Duration::from_millis(410)).await;
    let mut logged = String::new();
    for (code, failure) in
        [("ThrottlingException", KmsFailure::Throttled), ("AccessDeniedException", KmsFailure::Denied)]
    {
        proxy.inject(decrypt_fails_with(code, usize::MAX));
        logged += &bed.assert_closed(&brief, failure).await;
        let asked = proxy.count();
        bed.assert_open(&warm).await;
        assert_eq!(proxy.count(), asked, "a key in its life needs nobody");
    }
    let wrapped = proxy.calls("Decrypt")[0]["CiphertextBlob"].as_str().unwrap().to_owned();
    let debug = format!("{plaintext:?}");
    let inside = debug.trim_matches(['[', ']']);
    for form in [STANDARD.encode(&plaintext), hex::encode(&plaintext), inside.to_owned(), wrapped] {
        assert!(!logged.contains(&form), "key material is logged");
    }
    assert_eq!(
        bed.world.delivered(&bed.scope, &bed.session.id).await.unwrap()["OLD"],
        pairs(&[("OLD", "old value")])["OLD"]
    );
}
