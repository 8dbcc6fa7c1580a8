//! `cargo dev bench vault`: sealing and opening, a session's secrets as an agent gets them, and masking.
//!
//! The baseline of sealing and opening is AES-256-GCM by the same crate with nothing around it: one key for all, its
//! schedule computed once, no derivation, no commitment, no padding, a counter as the nonce. That of masking is a
//! search for the values as they stand, without their encodings and without writing the masked text.

use super::world::World;
use super::{Failure, Report, Row, Unit};
use aes_gcm::aead::{AeadInOut, inout::InOutBuf};
use aes_gcm::{Aes256Gcm, KeyInit};
use aho_corasick::AhoCorasick;
use std::hint::black_box;
use std::time::{Duration, Instant};
use theazo_redaction::{Masked, Redactor};
use theazo_store::{
    KeyRing, NewSecret, NewSession, SecretName, SecretOpener, SecretSealer, SecretSelection, SecretTarget, Session,
    Sessions, now_ms,
};
use theazo_tenancy::make_random_bytes;
use theazo_vault::{Context, Flags, Purpose, RootKey, Scope, SecretValue};
use zeroize::Zeroizing;

/// Bytes of a value that is sealed and opened.
const VALUE_BYTES: usize = 256;
/// The same padded, which is what the baseline encrypts.
const PADDED_BYTES: usize = 320;
/// Secrets of a bundle: half a session's own, half inherited from its platform.
const BUNDLE: usize = 50;
/// Values to mask, and the bytes of each.
const MASKED: usize = 100;
const MASKED_BYTES: usize = 40;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Samples of sealing and opening.
    pub samples: usize,
    /// Records per sample.
    pub records: usize,
    /// Bundles that are resolved with the keys in memory.
    pub bundles: usize,
    /// Bundles that are resolved without.
    pub cold_bundles: usize,
    /// Samples of masking.
    pub texts: usize,
    /// Bytes of the text that is masked.
    pub text_bytes: usize,
}

impl Effort {
    /// Takes some ten seconds, optimised.
    pub const FULL: Self =
        Self { samples: 300, records: 200, bundles: 200, cold_bundles: 10, texts: 40, text_bytes: 4 << 20 };

    /// The same with another number of samples, and of all else in proportion; at least one.
    pub fn of(samples: usize) -> Self {
        let share = |of: usize| (of * samples / Self::FULL.samples).max(1);
        Self {
            samples: samples.max(1),
            bundles: share(Self::FULL.bundles),
            cold_bundles: share(Self::FULL.cold_bundles),
            texts: share(Self::FULL.texts),
            ..Self::FULL
        }
    }
}

/// Measures the vault.
///
/// # Errors
/// When the embedded services do not start, or something that was sealed does not open.
pub async fn run(effort: Effort) -> Result<Report, Failure> {
    let [seal, open] = measure_records(effort)?;
    let [bundle, cold, warm] = measure_bundles(effort).await?;
    let redact = measure_masking(effort)?;
    Ok(Report::new("vault", vec![seal, open, bundle, cold, warm, redact]))
}

/// AES-256-GCM and nothing else.
struct Raw {
    cipher: Aes256Gcm,
    aad: [u8; 128],
    count: u64,
}

impl Raw {
    fn new() -> Self {
        Self { cipher: Aes256Gcm::new(&make_random_bytes::<32>().into()), aad: make_random_bytes(), count: 0 }
    }

    fn seal(&mut self, text: &mut [u8]) -> Result<([u8; 12], [u8; 16]), Failure> {
        self.count += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.count.to_be_bytes());
        let sealed = self.cipher.encrypt_inout_detached((&nonce).into(), &self.aad, InOutBuf::from(text));
        Ok((nonce, sealed.map_err(|_| "AES-GCM does not seal")?.into()))
    }

    fn open(&self, nonce: &[u8; 12], text: &mut [u8], tag: &[u8; 16]) -> Result<(), Failure> {
        let opened = self.cipher.decrypt_inout_detached(nonce.into(), &self.aad, InOutBuf::from(text), tag.into());
        Ok(opened.map_err(|_| "AES-GCM does not open")?)
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(T, Duration), Failure> {
    let begun = Instant::now();
    let outcome = work()?;
    Ok((outcome, begun.elapsed()))
}

fn rate(count: usize, taken: Duration) -> f64 {
    count as f64 / taken.as_secs_f64()
}

fn ms(taken: Duration) -> f64 {
    taken.as_secs_f64() * 1e3
}

fn measure_records(effort: Effort) -> Result<[Row; 2], Failure> {
    let root = RootKey::from_bytes(1, Zeroizing::new(make_random_bytes()));
    let key = root.derive_platform_key("plt_bench", &make_random_bytes(), 1);
    let context = Context {
        deployment: "bench",
        platform: "plt_bench",
        mode: "live",
        scope: Scope::Session("ses_bench"),
        purpose: Purpose::AgentSecret,
        name: "DATABASE_URL",
        version: 1,
        expires_at_ms: None,
        flags: Flags { mask: true, inherit: true },
    };
    let value = SecretValue::from_bytes(vec![b'v'; VALUE_BYTES]);
    let mut raw = Raw::new();
    let [mut seals, mut raw_seals, mut opens, mut raw_opens] = [const { Vec::new() }; 4];
    for _ in 0..effort.samples {
        let mut records = Vec::with_capacity(effort.records);
        let (_, taken) = timed(|| {
            for _ in 0..effort.records {
                records.push(theazo_vault::seal(&key, &context, black_box(&value))?);
            }
            Ok(())
        })?;
        seals.push(rate(effort.records, taken));

        let mut texts = Vec::with_capacity(effort.records);
        let (_, taken) = timed(|| {
            for _ in 0..effort.records {
                let mut text = vec![b'v'; PADDED_BYTES];
                let (nonce, tag) = raw.seal(black_box(&mut text))?;
                texts.push((nonce, text, tag));
            }
            Ok(())
        })?;
        raw_seals.push(rate(effort.records, taken));

        let (_, taken) = timed(|| {
            for record in &records {
                black_box(theazo_vault::open(&key, &context, black_box(record))?);
            }
            Ok(())
        })?;
        opens.push(rate(effort.records, taken));

        let (_, taken) = timed(|| {
            for (nonce, text, tag) in &mut texts {
                raw.open(nonce, black_box(text), tag)?;
            }
            Ok(())
        })?;
        raw_opens.push(rate(effort.records, taken));
    }
    Ok([
        Row::new(
            "seal",
            Unit::PerSecond,
            seals,
            Some(raw_seals),
            "values of 256 bytes sealed; baseline: AES-256-GCM alone, same crate, one key",
        ),
        Row::new(
            "open",
            Unit::PerSecond,
            opens,
            Some(raw_opens),
            "the same records opened; baseline: AES-256-GCM alone, same crate, one key",
        ),
    ])
}

/// A session with its half of a bundle, and the platform with the other.
async fn make_bundle(world: &World, keys: &KeyRing) -> Result<Session, Failure> {
    let session = Sessions::new(world.table.clone()).create(&world.scope, &NewSession::default()).await?;
    let sealer = SecretSealer::new(world.table.clone(), keys.clone());
    for (target, prefix) in [(SecretTarget::Platform, "SHARED"), (SecretTarget::Session(session.id.clone()), "OWN")] {
        let secrets = (0..BUNDLE / 2).map(|index| {
            let name = SecretName::parse(&format!("{prefix}_{index}"))?;
            let value = SecretValue::from_bytes(vec![b'v'; VALUE_BYTES]);
            Ok(NewSecret { name, value, expires_at_ms: None, mask: true, inherit: true })
        });
        let secrets = secrets.collect::<Result<Vec<_>, Failure>>()?;
        let read = sealer.load(&world.scope, &target).await?;
        sealer.set(&world.scope, &target, read, &secrets).await?;
    }
    Ok(session)
}

/// Resolves a bundle; how long that took, and how many calls to the key service.
async fn resolve(world: &World, keys: &KeyRing, session: &Session) -> Result<(Duration, usize), Failure> {
    let opener = SecretOpener::new(world.table.clone(), keys.clone());
    let (calls, begun) = (world.kms_calls(), Instant::now());
    let sealed = opener.load(&world.scope, &session.id).await?;
    let opened = opener.open(&world.scope, &sealed, &SecretSelection::All, now_ms()).await?;
    let taken = begun.elapsed();
    if opened.len() != BUNDLE {
        return Err(format!("{} secrets instead of {BUNDLE}", opened.len()).into());
    }
    Ok((taken, world.kms_calls() - calls))
}

async fn measure_bundles(effort: Effort) -> Result<[Row; 3], Failure> {
    let world = World::start().await?;
    let keys = world.cold_keys();
    let session = make_bundle(&world, &keys).await?;
    let (mut cold, mut warm, mut times, mut raw_times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.cold_bundles {
        cold.push(resolve(&world, &world.cold_keys(), &session).await?.1 as f64);
    }
    resolve(&world, &keys, &session).await?;
    let mut raw = Raw::new();
    for _ in 0..effort.bundles {
        let (taken, calls) = resolve(&world, &keys, &session).await?;
        times.push(ms(taken));
        warm.push(calls as f64);

        let mut texts = vec![vec![b'v'; PADDED_BYTES]; BUNDLE];
        let sealed = texts.iter_mut().map(|text| raw.seal(text)).collect::<Result<Vec<_>, _>>()?;
        let (_, taken) = timed(|| {
            texts.iter_mut().zip(&sealed).try_for_each(|(text, (nonce, tag))| raw.open(nonce, black_box(text), tag))
        })?;
        raw_times.push(ms(taken));
    }
    Ok([
        Row::new(
            "bundle50",
            Unit::Milliseconds,
            times,
            Some(raw_times),
            "50 secrets of 256 bytes read from the embedded table and opened, keys in memory; baseline: AES-256-GCM alone",
        ),
        Row::new("kms_cold", Unit::Calls, cold, None, "KMS calls for such a bundle with nothing in memory"),
        Row::new("kms_warm", Unit::Calls, warm, None, "KMS calls for such a bundle with the keys in memory"),
    ])
}

/// What a program prints: a log, with a value in every fiftieth line, every fourth of these in hex.
fn make_log(values: &[Vec<u8>], len: usize) -> Vec<u8> {
    let mut log = Vec::with_capacity(len + 256);
    for line in 0_usize.. {
        if log.len() >= len {
            break;
        }
        let id = hex::encode(make_random_bytes::<8>());
        let millis = line % 1000;
        let start = format!("2026-03-14T09:26:53.{millis:03}Z INFO worker-{} request {id} took {line} us", line % 8);
        log.extend_from_slice(start.as_bytes());
        if line % 50 == 0 {
            let value = &values[line / 50 % values.len()];
            log.extend_from_slice(b", token=");
            match line % 200 {
                0 => log.extend_from_slice(hex::encode(value).as_bytes()),
                _ => log.extend_from_slice(value),
            }
        }
        log.push(b'\n');
    }
    log
}

fn measure_masking(effort: Effort) -> Result<Row, Failure> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let make = |_| make_random_bytes::<MASKED_BYTES>().map(|byte| ALPHABET[usize::from(byte % 64)]).to_vec();
    let values: Vec<Vec<u8>> = (0..MASKED).map(make).collect();
    let log = make_log(&values, effort.text_bytes);

    let names: Vec<String> = (0..MASKED).map(|index| format!("SECRET_{index}")).collect();
    let secrets: Vec<SecretValue> = values.iter().cloned().map(SecretValue::from_bytes).collect();
    let redactor = Redactor::new(names.iter().zip(&secrets).map(|(name, value)| Masked { name, value }));
    let plain = AhoCorasick::new(&values)?;
    let is_in = |text: &[u8]| plain.is_match(text);
    if !is_in(&log) || is_in(&redactor.redact(&log)) {
        return Err("the values are not masked".into());
    }

    let megabytes = log.len() as f64 / 1e6;
    let (mut ours, mut baseline) = (Vec::new(), Vec::new());
    for _ in 0..effort.texts {
        let (_, taken) = timed(|| Ok(black_box(redactor.redact(black_box(&log)))))?;
        ours.push(megabytes / taken.as_secs_f64());
        let (_, taken) = timed(|| Ok(black_box(plain.find_iter(black_box(&log)).count())))?;
        baseline.push(megabytes / taken.as_secs_f64());
    }
    Ok(Row::new(
        "redact",
        Unit::MegabytesPerSecond,
        ours,
        Some(baseline),
        "a log masked, 100 secrets of 40 bytes; baseline: `aho-corasick` finding the raw values, no encodings, no output",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_run_has_every_row_and_the_shape_that_is_promised() {
        let effort = Effort { samples: 3, records: 2, bundles: 3, cold_bundles: 2, texts: 2, text_bytes: 20_000 };
        let report = run(effort).await.unwrap();
        let file = std::env::temp_dir().join(format!("theazo-bench-{}.json", hex::encode(make_random_bytes::<6>())));
        report.publish(Some(&file)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        std::fs::remove_file(&file).unwrap();

        assert_eq!(json["bench"], "vault");
        let rows = json["rows"].as_array().unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["seal", "open", "bundle50", "kms_cold", "kms_warm", "redact"]);
        let units: Vec<&str> = rows.iter().map(|row| row["unit"].as_str().unwrap()).collect();
        assert_eq!(units, ["1/s", "1/s", "ms", "calls", "calls", "MB/s"]);
        for row in rows {
            let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
            assert_eq!(keys.len(), 5, "{keys:?}");
            let figures = |of: &serde_json::Value| ["p50", "p95", "p99"].map(|key| of[key].as_f64().unwrap());
            let [p50, p95, p99] = figures(&row["ours"]);
            let rising = if row["unit"].as_str().unwrap().ends_with("/s") { [p99, p95, p50] } else { [p50, p95, p99] };
            assert!(rising.is_sorted(), "{row}");
            assert!(row["ours"]["n"].as_u64().unwrap() >= 2);
            if row["unit"] == "calls" {
                assert!(row["baseline"].is_null() && row["ratio"].is_null(), "{row}");
            } else {
                assert!(figures(&row["baseline"]).iter().all(|figure| *figure > 0.0), "{row}");
                assert!(row["ratio"].as_f64().unwrap() > 0.0 && p50 > 0.0, "{row}");
            }
        }
        let calls = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap()["ours"]["p99"].as_f64().unwrap();
        assert_eq!((calls("kms_cold"), calls("kms_warm")), (1.0, 0.0), "one key for all fifty, and then none");
    }
}
