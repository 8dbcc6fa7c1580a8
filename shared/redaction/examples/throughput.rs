//! Measures masking: `cargo run --release -p theazo-redaction --example throughput`.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;
use theazo_redaction::{Masked, Redactor};
use theazo_vault::SecretValue;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const MIB: usize = 1 << 20;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn text(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| ALPHABET[self.next() as usize % 64]).collect()
    }
}

/// Resident memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or_default()
}

fn redactor(values: &[Vec<u8>]) -> Redactor {
    let values: Vec<SecretValue> = values.iter().map(|value| SecretValue::from_bytes(value.clone())).collect();
    Redactor::new(values.iter().map(|value| Masked { name: "NAME", value }))
}

/// Repeats what `line` makes up to 16 MiB.
fn fill(mut line: impl FnMut() -> Vec<u8>) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < 16 * MIB {
        text.extend_from_slice(&line());
    }
    text
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let mut random = Random(1);
    let pem = |random: &mut Random, lines: usize| {
        let body: Vec<Vec<u8>> = (0..lines).map(|_| random.text(64)).collect();
        [&b"-----BEGIN PRIVATE KEY-----\n"[..], &body.join(&b'\n'), b"\n-----END PRIVATE KEY-----\n"].concat()
    };
    let ordinary: Vec<Vec<u8>> = (0..100).map(|n| random.text(20 + n * 40 / 100)).collect();
    let sets: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("100 of 32 B", (0..100).map(|_| random.text(32)).collect()),
        ("100 of 5 KiB", (0..100).map(|_| random.text(5 << 10)).collect()),
        ("100 of 32 KiB", (0..100).map(|_| random.text(32 << 10)).collect()),
        ("16 of 32 KiB", (0..16).map(|_| random.text(32 << 10)).collect()),
        ("100 PEM of 50 lines", (0..100).map(|_| pem(&mut random, 50)).collect()),
        (
            "16 of 32 KiB in lines of 6 B",
            (0..16).map(|_| (0..4681).map(|_| random.text(6)).collect::<Vec<_>>().join(&b'\n')).collect(),
        ),
    ];
    for (what, values) in &sets {
        let before = resident();
        let begun = Instant::now();
        let redactor = redactor(values);
        let took = begun.elapsed();
        let log =
            fill(|| b"2026-01-02T03:04:05.678Z INFO request done method=GET path=/v1/agents status=200\n".to_vec());
        let after = resident() - log.len() / 1024;
        let begun = Instant::now();
        black_box(redactor.redact(&log));
        let rate = log.len() as f64 / 1e6 / begun.elapsed().as_secs_f64();
        writeln!(out, "{what}: built in {took:?}, {} KiB more resident, {rate:.0} MB/s", after.saturating_sub(before))?;
    }

    let redactor = redactor(&ordinary);
    let words: Vec<Vec<u8>> = (0..2000)
        .map(|_| {
            let len = 2 + random.next() as usize % 9;
            random.text(len).to_ascii_lowercase()
        })
        .collect();
    let texts: Vec<(&str, Vec<u8>)> = vec![
        (
            "log lines",
            fill(|| {
                format!(
                    "2026-01-02T03:04:{:02}.{:03}Z INFO request done method=GET path=/v1/agents/{} status=200 ms={}\n",
                    random.next() % 60,
                    random.next() % 1000,
                    random.next(),
                    random.next() % 5000
                )
                .into_bytes()
            }),
        ),
        (
            "words",
            fill(|| {
                let mut line: Vec<u8> =
                    (0..12).flat_map(|_| [&words[random.next() as usize % 2000][..], b" "].concat()).collect();
                line.push(b'\n');
                line
            }),
        ),
        (
            "JSON",
            fill(|| {
                format!("{{\"id\":\"{}\",\"text\":\"line\\nand \\\"quoted\\\"\",\"n\":[{},2,3],\"url\":\"https://a.b/c?d={}\"}}\n",
            random.next(), random.next(), random.next()).into_bytes()
            }),
        ),
        ("base64, 76 columns", fill(|| [&random.text(76)[..], b"\n"].concat())),
        ("hex", fill(|| format!("{:016x}", random.next() * random.next()).into_bytes())),
        ("percent escapes", fill(|| format!("a%20b%2Fc%3D{}&", random.next()).into_bytes())),
        (
            "prefixes of values",
            fill(|| {
                let value = &ordinary[random.next() as usize % 100];
                value[..value.len() - 1].to_vec()
            }),
        ),
        (
            "first characters of values",
            fill(|| {
                let value = &ordinary[random.next() as usize % 100];
                value[..9].to_vec()
            }),
        ),
        ("values", fill(|| ordinary[random.next() as usize % 100].clone())),
    ];
    for (what, text) in &texts {
        let mut best = 0f64;
        for _ in 0..3 {
            let begun = Instant::now();
            black_box(redactor.redact(text));
            best = best.max(text.len() as f64 / 1e6 / begun.elapsed().as_secs_f64());
        }
        writeln!(out, "{what}: {best:.0} MB/s")?;
    }
    Ok(())
}
