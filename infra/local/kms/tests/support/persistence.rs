//! The state file: kills, damage, modes, locks, and a disk that refuses.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kms::primitives::Blob;
use theazo_kms_emulator::{Emulator, EmulatorError};
use tokio::sync::Mutex;

use crate::support::{Process, Served, TestDir, make_key, refusal};

/// A key's ARN and a ciphertext under it, both acknowledged by the emulator.
type Kept = (String, Blob);

#[tokio::test]
async fn what_was_acknowledged_before_a_sigkill_is_there_after_it() {
    let dir = TestDir::make();
    let kept: Arc<Mutex<Vec<Kept>>> = Arc::default();
    for round in 0..4 {
        let process = Process::start(&dir.file()).await;
        let before = kept.lock().await.len();
        let writers: Vec<_> = (0..6)
            .map(|_| {
                let (kms, kept) = (process.client.clone(), kept.clone());
                tokio::spawn(async move {
                    for _ in 0..500 {
                        // Any failure here is the kill: what counts is what was acknowledged until then.
                        let Ok(made) = kms.create_key().send().await else { return };
                        let key = made.key_metadata.unwrap().arn.unwrap();
                        if kms.rotate_key_on_demand().key_id(&key).send().await.is_err() {
                            return;
                        }
                        let sealed = kms.encrypt().key_id(&key).plaintext(Blob::new(key.clone())).send().await;
                        let Ok(sealed) = sealed else { return };
                        kept.lock().await.push((key, sealed.ciphertext_blob.unwrap()));
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(700)).await;
        process.kill().await;
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(kept.lock().await.len() > before, "round {round}: nothing was written before the kill");

        let process = Process::start(&dir.file()).await;
        for (key, blob) in kept.lock().await.iter() {
            let opened = process.client.decrypt().ciphertext_blob(blob.clone()).key_id(key).send().await.unwrap();
            assert_eq!(opened.plaintext.unwrap().as_ref(), key.as_bytes());
        }
        process.kill().await;
    }
}

#[tokio::test]
async fn every_kind_of_change_survives_a_sigkill() {
    let dir = TestDir::make();
    let process = Process::start(&dir.file()).await;
    let kms = &process.client;
    let key = make_key(kms).await;
    let (off, doomed) = (make_key(kms).await, make_key(kms).await);
    let blob = kms.encrypt().key_id(&key).plaintext(Blob::new("x")).send().await.unwrap().ciphertext_blob.unwrap();
    kms.create_alias().alias_name("alias/app").target_key_id(&key).send().await.unwrap();
    kms.enable_key_rotation().key_id(&key).rotation_period_in_days(100).send().await.unwrap();
    kms.rotate_key_on_demand().key_id(&key).send().await.unwrap();
    kms.disable_key().key_id(&off).send().await.unwrap();
    kms.schedule_key_deletion().key_id(&doomed).send().await.unwrap();
    let described = kms.describe_key().key_id(&doomed).send().await.unwrap();
    process.kill().await;

    let process = Process::start(&dir.file()).await;
    let kms = &process.client;
    let opened = kms.decrypt().ciphertext_blob(blob).key_id("alias/app").send().await.unwrap();
    assert_eq!(opened.plaintext.unwrap().as_ref(), b"x");
    let status = kms.get_key_rotation_status().key_id(&key).send().await.unwrap();
    assert_eq!(status.rotation_period_in_days(), Some(100));
    assert_eq!(kms.list_key_rotations().key_id(&key).send().await.unwrap().rotations().len(), 1);
    let encrypt = |key: &str| kms.encrypt().key_id(key).plaintext(Blob::new("x")).send();
    assert_eq!(refusal(encrypt(&off).await), "DisabledException");
    assert_eq!(refusal(encrypt(&doomed).await), "KMSInvalidStateException");
    let again = kms.describe_key().key_id(&doomed).send().await.unwrap();
    assert_eq!(again.key_metadata(), described.key_metadata());
    process.kill().await;
}

#[tokio::test]
async fn ensure_key_makes_one_key_and_finds_it_again() {
    let dir = TestDir::make();
    let emulator = Emulator::open(&dir.file()).unwrap();
    let first = emulator.ensure_key("alias/theazo").unwrap();
    assert_eq!(emulator.ensure_key("alias/theazo").unwrap(), first);
    assert_ne!(emulator.ensure_key("alias/other").unwrap(), first);
    for bad in ["theazo", "alias/", "alias/aws/x", "alias/a b", ""] {
        assert!(matches!(emulator.ensure_key(bad), Err(EmulatorError::Refused { .. })), "{bad:?} was accepted");
    }
    drop(emulator);

    let emulator = Emulator::open(&dir.file()).unwrap();
    assert_eq!(emulator.ensure_key("alias/theazo").unwrap(), first);
    drop(emulator);
    let served = Served::start(&dir.file()).await;
    let sealed = served.client.encrypt().key_id("alias/theazo").plaintext(Blob::new("x")).send().await.unwrap();
    assert_eq!(sealed.key_id.unwrap(), first);
    assert_eq!(served.client.list_keys().send().await.unwrap().keys().len(), 2);
    served.stop().await;
}

#[test]
fn a_file_changed_in_any_byte_or_cut_short_anywhere_is_refused_and_left_alone() {
    let dir = TestDir::make();
    Emulator::open(&dir.file()).unwrap().ensure_key("alias/theazo").unwrap();
    let good = std::fs::read(dir.file()).unwrap();
    let changed = (0..good.len()).map(|index| {
        let mut bytes = good.clone();
        bytes[index] ^= 1;
        bytes
    });
    let cut = (0..good.len()).map(|length| good[..length].to_vec());
    for bytes in changed.chain(cut) {
        std::fs::write(dir.file(), &bytes).unwrap();
        let error = Emulator::open(&dir.file()).err().expect("a damaged file was opened");
        assert!(matches!(error, EmulatorError::Damaged { .. }), "{error}");
        assert_eq!(std::fs::read(dir.file()).unwrap(), bytes);
    }
    std::fs::write(dir.file(), &good).unwrap();
    assert!(Emulator::open(&dir.file()).is_ok());
}

#[test]
fn the_error_about_a_damaged_file_quotes_nothing_of_it() {
    let dir = TestDir::make();
    Emulator::open(&dir.file()).unwrap().ensure_key("alias/theazo").unwrap();
    let good = std::fs::read_to_string(dir.file()).unwrap();
    // The material where a number belongs: the JSON library's own text for this would repeat it.
    let material = good.split("\"material\":").nth(1).unwrap().split('"').nth(1).unwrap();
    let bad = good.replacen("\"created_ms\":", &format!("\"created_ms\":\"{material}\",\"x\":"), 1);
    std::fs::write(dir.file(), bad).unwrap();
    let error = Emulator::open(&dir.file()).err().unwrap();
    assert!(matches!(error, EmulatorError::Damaged { .. }));
    assert!(!format!("{error} {error:?}").contains(material));
}

#[tokio::test]
async fn the_file_is_for_its_owner_only_even_after_a_leftover_or_a_loose_mode() {
    let dir = TestDir::make();
    let mode = || std::fs::metadata(dir.file()).unwrap().permissions().mode() & 0o777;
    let emulator = Emulator::open(&dir.file()).unwrap();
    assert_eq!(mode(), 0o600);
    let leftover = dir.path().join("kms.json.tmp");
    std::fs::write(&leftover, "left by a crash").unwrap();
    std::fs::set_permissions(&leftover, std::fs::Permissions::from_mode(0o666)).unwrap();
    emulator.ensure_key("alias/theazo").unwrap();
    assert_eq!(mode(), 0o600);
    assert!(!leftover.exists());
    drop(emulator);

    std::fs::set_permissions(dir.file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(Emulator::open(&dir.file()).unwrap());
    assert_eq!(mode(), 0o600);
}

#[test]
fn a_second_emulator_on_the_same_file_is_refused() {
    let dir = TestDir::make();
    let first = Emulator::open(&dir.file()).unwrap();
    assert!(matches!(Emulator::open(&dir.file()), Err(EmulatorError::InUse { .. })));
    drop(first);
    assert!(Emulator::open(&dir.file()).is_ok());
}

#[tokio::test]
async fn a_change_that_cannot_be_saved_is_an_internal_error_and_is_not_made() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    let moved = dir.path().with_extension("moved");
    std::fs::rename(dir.path(), &moved).unwrap();
    let error = kms.disable_key().key_id(&key).send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 500);
    assert_eq!(refusal::<(), _, _>(Err(error)), "KMSInternalException");
    std::fs::rename(&moved, dir.path()).unwrap();
    let metadata = kms.describe_key().key_id(&key).send().await.unwrap().key_metadata.unwrap();
    assert!(metadata.enabled);
    kms.disable_key().key_id(&key).send().await.unwrap();
}
