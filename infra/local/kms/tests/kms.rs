//! The emulator against the real AWS SDK: what the local stack's safety rests on.

#![allow(clippy::unwrap_used)] // clippy's own exception for tests does not reach the helpers of an integration test

use std::time::{Duration, Instant};

use aws_sdk_kms::Client;
use aws_sdk_kms::operation::generate_data_key::GenerateDataKeyOutput;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeySpec, KeyState, KeyUsageType, MacAlgorithmSpec};

#[path = "support/mod.rs"]
mod support;

#[path = "support/persistence.rs"]
mod persistence;
#[path = "support/protocol.rs"]
mod protocol;

use support::{Served, TestDir, make_key, refusal};

/// A data key of `key` with the context `session=one`.
async fn make_data_key(kms: &Client, key: &str) -> GenerateDataKeyOutput {
    let request = kms.generate_data_key().key_id(key).key_spec(DataKeySpec::Aes256);
    request.encryption_context("session", "one").send().await.unwrap()
}

#[tokio::test]
async fn a_data_key_opens_again_and_key_ids_are_arns() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    assert!(key.starts_with("arn:aws:kms:us-east-1:000000000000:key/"), "{key}");
    kms.create_alias().alias_name("alias/app").target_key_id(&key).send().await.unwrap();

    for name in [key.as_str(), key.rsplit('/').next().unwrap(), "alias/app"] {
        let made = make_data_key(kms, name).await;
        assert_eq!(made.key_id(), Some(key.as_str()), "asked by {name}");
        let blob = made.ciphertext_blob.unwrap();
        let opened =
            kms.decrypt().ciphertext_blob(blob).encryption_context("session", "one").key_id(name).send().await.unwrap();
        assert_eq!(opened.plaintext(), made.plaintext.as_ref());
        assert_eq!(opened.plaintext().unwrap().as_ref().len(), 32);
        assert_eq!(opened.key_id(), Some(key.as_str()));
    }

    let hidden = kms.generate_data_key_without_plaintext().key_id(&key).number_of_bytes(48).send().await.unwrap();
    assert_eq!(hidden.key_id(), Some(key.as_str()));
    let opened = kms.decrypt().ciphertext_blob(hidden.ciphertext_blob.unwrap()).send().await.unwrap();
    assert_eq!(opened.plaintext.unwrap().as_ref().len(), 48);

    let first = kms.encrypt().key_id(&key).plaintext(Blob::new("same")).send().await.unwrap();
    let second = kms.encrypt().key_id(&key).plaintext(Blob::new("same")).send().await.unwrap();
    assert_eq!(first.key_id(), Some(key.as_str()));
    assert_ne!(first.ciphertext_blob, second.ciphertext_blob);
}

#[tokio::test]
async fn a_wrong_a_missing_and_an_extra_encryption_context_are_refused() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    let blob = make_data_key(kms, &key).await.ciphertext_blob.unwrap();
    let contexts: [&[(&str, &str)]; 5] = [
        &[],
        &[("session", "two")],
        &[("Session", "one")],
        &[("session", "one"), ("more", "x")],
        &[("session", "one"), ("", "")],
    ];
    for context in contexts {
        let mut request = kms.decrypt().ciphertext_blob(blob.clone());
        for (name, value) in context {
            request = request.encryption_context(*name, *value);
        }
        assert_eq!(refusal(request.send().await), "InvalidCiphertextException", "{context:?}");
    }
    let bare = kms.encrypt().key_id(&key).plaintext(Blob::new("x")).send().await.unwrap().ciphertext_blob.unwrap();
    let with_context = kms.decrypt().ciphertext_blob(bare).encryption_context("session", "one");
    assert_eq!(refusal(with_context.send().await), "InvalidCiphertextException");
}

#[tokio::test]
async fn a_ciphertext_does_not_open_when_another_key_is_named() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let (key, other) = (make_key(kms).await, make_key(kms).await);
    let blob = make_data_key(kms, &key).await.ciphertext_blob.unwrap();
    let decrypt =
        |key: &str| kms.decrypt().ciphertext_blob(blob.clone()).encryption_context("session", "one").key_id(key).send();
    assert!(decrypt(&key).await.is_ok());
    assert_eq!(refusal(decrypt(&other).await), "IncorrectKeyException");
    assert_eq!(refusal(decrypt("alias/none").await), "NotFoundException");
    let move_on = kms.re_encrypt().ciphertext_blob(blob.clone()).source_encryption_context("session", "one");
    let refused = move_on.source_key_id(&other).destination_key_id(&other).send().await;
    assert_eq!(refusal(refused), "IncorrectKeyException");
}

#[tokio::test]
async fn a_blob_changed_in_any_byte_is_refused() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    // A second generation, so that a changed material number can name material that exists.
    kms.rotate_key_on_demand().key_id(&key).send().await.unwrap();
    let blob = make_data_key(kms, &key).await.ciphertext_blob.unwrap().into_inner();
    for index in 0..blob.len() {
        for mask in [0x01, 0x80] {
            let mut changed = blob.clone();
            changed[index] ^= mask;
            let request = kms.decrypt().ciphertext_blob(Blob::new(changed)).encryption_context("session", "one");
            assert_eq!(refusal(request.send().await), "InvalidCiphertextException", "byte {index} ^ {mask}");
        }
    }
    let longer = [blob.as_slice(), &[0]].concat();
    let shorter = blob[..blob.len() - 1].to_vec();
    for changed in [longer, shorter, vec![1]] {
        let request = kms.decrypt().ciphertext_blob(Blob::new(changed)).encryption_context("session", "one");
        assert_eq!(refusal(request.send().await), "InvalidCiphertextException");
    }
}

#[tokio::test]
async fn re_encryption_moves_a_ciphertext_to_another_key_and_context() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let (from, to) = (make_key(kms).await, make_key(kms).await);
    let made = make_data_key(kms, &from).await;
    let blob = made.ciphertext_blob.unwrap();
    let move_on = |session: &str| {
        kms.re_encrypt()
            .ciphertext_blob(blob.clone())
            .source_encryption_context("session", session)
            .destination_key_id(&to)
            .destination_encryption_context("session", "two")
            .send()
    };
    assert_eq!(refusal(move_on("two").await), "InvalidCiphertextException");
    let moved = move_on("one").await.unwrap();
    assert_eq!((moved.source_key_id(), moved.key_id()), (Some(from.as_str()), Some(to.as_str())));

    let moved = moved.ciphertext_blob.unwrap();
    let decrypt =
        |session: &str| kms.decrypt().ciphertext_blob(moved.clone()).encryption_context("session", session).send();
    assert_eq!(refusal(decrypt("one").await), "InvalidCiphertextException");
    let opened = decrypt("two").await.unwrap();
    assert_eq!(opened.plaintext, made.plaintext);
    assert_eq!(opened.key_id.unwrap(), to);
}

/// Every operation that uses `key` is refused with `exception`.
async fn assert_refuses_use(kms: &Client, key: &str, blob: &Blob, exception: &str) {
    let data_key = kms.generate_data_key().key_id(key).number_of_bytes(32).send().await;
    assert_eq!(refusal(data_key), exception);
    let hidden = kms.generate_data_key_without_plaintext().key_id(key).number_of_bytes(32).send().await;
    assert_eq!(refusal(hidden), exception);
    assert_eq!(refusal(kms.encrypt().key_id(key).plaintext(Blob::new("x")).send().await), exception);
    let decrypt = kms.decrypt().ciphertext_blob(blob.clone()).encryption_context("session", "one");
    assert_eq!(refusal(decrypt.clone().send().await), exception);
    assert_eq!(refusal(decrypt.key_id(key).send().await), exception);
    let other = make_key(kms).await;
    let leave = kms.re_encrypt().ciphertext_blob(blob.clone()).source_encryption_context("session", "one");
    assert_eq!(refusal(leave.destination_key_id(&other).send().await), exception);
    let outside = kms.encrypt().key_id(&other).plaintext(Blob::new("x")).send().await.unwrap();
    let arrive = kms.re_encrypt().ciphertext_blob(outside.ciphertext_blob.unwrap()).destination_key_id(key);
    assert_eq!(refusal(arrive.send().await), exception);
    assert_eq!(refusal(kms.rotate_key_on_demand().key_id(key).send().await), exception);
    assert_eq!(refusal(kms.enable_key_rotation().key_id(key).send().await), exception);
}

#[tokio::test]
async fn a_disabled_key_refuses_use_until_it_is_enabled_again() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    let blob = make_data_key(kms, &key).await.ciphertext_blob.unwrap();
    kms.disable_key().key_id(&key).send().await.unwrap();
    assert_refuses_use(kms, &key, &blob, "DisabledException").await;
    let metadata = kms.describe_key().key_id(&key).send().await.unwrap().key_metadata.unwrap();
    assert_eq!((metadata.enabled, metadata.key_state), (false, Some(KeyState::Disabled)));

    kms.enable_key().key_id(&key).send().await.unwrap();
    let opened = kms.decrypt().ciphertext_blob(blob).encryption_context("session", "one").send().await;
    assert!(opened.is_ok());
}

#[tokio::test]
async fn a_key_pending_deletion_refuses_use_and_comes_back_disabled() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    let blob = make_data_key(kms, &key).await.ciphertext_blob.unwrap();
    for days in [6, 31] {
        let refused = kms.schedule_key_deletion().key_id(&key).pending_window_in_days(days).send().await;
        assert_eq!(refusal(refused), "ValidationException", "{days} days");
    }
    let scheduled = kms.schedule_key_deletion().key_id(&key).pending_window_in_days(7).send().await.unwrap();
    assert_eq!(scheduled.key_id(), Some(key.as_str()));
    assert_eq!(scheduled.key_state(), Some(&KeyState::PendingDeletion));
    assert_eq!(scheduled.pending_window_in_days(), Some(7));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let left = scheduled.deletion_date().unwrap().as_secs_f64() - now;
    assert!((left - 7.0 * 86_400.0).abs() < 60.0, "{left} s left");

    assert_refuses_use(kms, &key, &blob, "KMSInvalidStateException").await;
    let metadata = kms.describe_key().key_id(&key).send().await.unwrap().key_metadata.unwrap();
    assert_eq!(metadata.deletion_date(), scheduled.deletion_date());
    assert_eq!(refusal(kms.enable_key().key_id(&key).send().await), "KMSInvalidStateException");
    assert_eq!(refusal(kms.disable_key().key_id(&key).send().await), "KMSInvalidStateException");
    assert_eq!(refusal(kms.schedule_key_deletion().key_id(&key).send().await), "KMSInvalidStateException");
    let alias = kms.create_alias().alias_name("alias/late").target_key_id(&key).send().await;
    assert_eq!(refusal(alias), "KMSInvalidStateException");

    kms.cancel_key_deletion().key_id(&key).send().await.unwrap();
    assert_eq!(refusal(kms.cancel_key_deletion().key_id(&key).send().await), "KMSInvalidStateException");
    assert_refuses_use(kms, &key, &blob, "DisabledException").await;
    kms.enable_key().key_id(&key).send().await.unwrap();
    assert!(kms.decrypt().ciphertext_blob(blob).encryption_context("session", "one").send().await.is_ok());
}

#[tokio::test]
async fn ciphertexts_from_before_a_rotation_open_and_rotations_are_listed() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    let mut blobs = vec![make_data_key(kms, &key).await];
    for _ in 0..25 {
        kms.rotate_key_on_demand().key_id(&key).send().await.unwrap();
        blobs.push(make_data_key(kms, &key).await);
    }
    assert_eq!(refusal(kms.rotate_key_on_demand().key_id(&key).send().await), "LimitExceededException");
    for made in blobs {
        let request = kms.decrypt().ciphertext_blob(made.ciphertext_blob.unwrap());
        let opened = request.encryption_context("session", "one").send().await.unwrap();
        assert_eq!(opened.plaintext, made.plaintext);
    }
    let mut pages = kms.list_key_rotations().key_id(&key).limit(10).into_paginator().send();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        sizes.push(page.unwrap().rotations().len());
    }
    assert_eq!(sizes, [10, 10, 5]);
}

#[tokio::test]
async fn the_rotation_period_is_kept_and_must_be_90_to_2560_days() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    let status = || async {
        let status = kms.get_key_rotation_status().key_id(&key).send().await.unwrap();
        (status.key_rotation_enabled(), status.rotation_period_in_days())
    };
    assert_eq!(status().await, (false, None));
    kms.enable_key_rotation().key_id(&key).send().await.unwrap();
    assert_eq!(status().await, (true, Some(365)));
    for days in [90, 2560] {
        kms.enable_key_rotation().key_id(&key).rotation_period_in_days(days).send().await.unwrap();
        assert_eq!(status().await, (true, Some(days)));
    }
    for days in [89, 2561, 0, -1] {
        let refused = kms.enable_key_rotation().key_id(&key).rotation_period_in_days(days).send().await;
        assert_eq!(refusal(refused), "ValidationException", "{days} days");
    }
    assert_eq!(status().await, (true, Some(2560)));
    kms.disable_key_rotation().key_id(&key).send().await.unwrap();
    assert_eq!(status().await, (false, None));
}

#[tokio::test]
async fn a_plaintext_has_1_to_4096_bytes() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let key = make_key(kms).await;
    let largest = Blob::new(vec![7; 4096]);
    let sealed = kms.encrypt().key_id(&key).plaintext(largest.clone()).send().await.unwrap();
    let opened = kms.decrypt().ciphertext_blob(sealed.ciphertext_blob.unwrap()).send().await.unwrap();
    assert_eq!(opened.plaintext.unwrap(), largest);
    for length in [0, 4097] {
        let refused = kms.encrypt().key_id(&key).plaintext(Blob::new(vec![7; length])).send().await;
        assert_eq!(refusal(refused), "ValidationException", "{length} bytes");
    }
    let refused = kms.decrypt().ciphertext_blob(Blob::new(vec![1; 6145])).send().await;
    assert_eq!(refusal(refused), "ValidationException");
}

#[tokio::test]
async fn a_mac_verifies_for_its_message_and_key_only() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let kms = &served.client;
    let make = || async {
        let request = kms.create_key().key_spec(KeySpec::Hmac256).key_usage(KeyUsageType::GenerateVerifyMac);
        request.send().await.unwrap().key_metadata.unwrap().arn.unwrap()
    };
    let (key, other, symmetric) = (make().await, make().await, make_key(kms).await);
    let algorithm = MacAlgorithmSpec::HmacSha256;
    let generate = |key: &str, algorithm: &MacAlgorithmSpec| {
        kms.generate_mac().key_id(key).message(Blob::new("m")).mac_algorithm(algorithm.clone()).send()
    };
    let made = generate(&key, &algorithm).await.unwrap();
    assert_eq!(made.key_id(), Some(key.as_str()));
    let mac = made.mac.unwrap().into_inner();
    let verify = |key: &str, message: &str, mac: &[u8]| {
        let request = kms.verify_mac().key_id(key).message(Blob::new(message)).mac(Blob::new(mac));
        request.mac_algorithm(algorithm.clone()).send()
    };
    assert!(verify(&key, "m", &mac).await.unwrap().mac_valid());
    let mut changed = mac.clone();
    changed[31] ^= 1;
    assert_eq!(refusal(verify(&key, "m", &changed).await), "KMSInvalidMacException");
    assert_eq!(refusal(verify(&key, "m", &mac[..16]).await), "KMSInvalidMacException");
    assert_eq!(refusal(verify(&key, "n", &mac).await), "KMSInvalidMacException");
    assert_eq!(refusal(verify(&other, "m", &mac).await), "KMSInvalidMacException");

    assert_eq!(refusal(generate(&symmetric, &algorithm).await), "InvalidKeyUsageException");
    assert_eq!(refusal(generate(&key, &MacAlgorithmSpec::HmacSha512).await), "InvalidKeyUsageException");
    let encrypt = kms.encrypt().key_id(&key).plaintext(Blob::new("x")).send().await;
    assert_eq!(refusal(encrypt), "InvalidKeyUsageException");
    let rotate = kms.rotate_key_on_demand().key_id(&key).send().await;
    assert_eq!(refusal(rotate), "UnsupportedOperationException");
    kms.disable_key().key_id(&key).send().await.unwrap();
    assert_eq!(refusal(verify(&key, "m", &mac).await), "DisabledException");
}

#[tokio::test]
async fn a_hundred_data_keys_take_well_under_ten_seconds() {
    let dir = TestDir::make();
    let served = Served::start(&dir.file()).await;
    let key = make_key(&served.client).await;
    let start = Instant::now();
    for _ in 0..100 {
        make_data_key(&served.client, &key).await;
    }
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
}
