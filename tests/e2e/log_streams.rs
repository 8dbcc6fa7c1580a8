//! How much goes through streams of log entries: many readers that are cut off, and one that has a thousand a second.
//! `THEAZO_LOG_ENTRIES` says how many entries, where there is more time than a test may take.

use crate::harness::{Client, EventStream, Platform, serve_deployment};
use crate::logs::{Lines, with_streams};
use std::io::Write;
use std::time::{Duration, Instant};
use theazo_http::StreamLimits;
use theazo_tenancy::Mode;

/// How many entries are followed: `THEAZO_LOG_ENTRIES`, or as many as a test may take.
fn entries_to_follow() -> usize {
    std::env::var("THEAZO_LOG_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_readers_that_are_cut_off_again_and_again_end_with_exactly_the_sequence() {
    let count = entries_to_follow();
    let platform = Platform::make("ten readers").await;
    let session = platform.client.session("u").await;
    let lines = Lines::of(&platform.id, Mode::Live, &session).await;
    // A busy machine may take seconds for a write.
    let limits = StreamLimits { settle: Duration::from_secs(6), ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(limits).await).await, Some(&platform.live_key));
    let readers: Vec<_> = (0..10_usize)
        .map(|reader| {
            let client = client.clone();
            // Half of them follow the platform, half the session.
            let path = match reader % 2 {
                0 => "/v1/logs/stream?search=entry".to_owned(),
                _ => format!("/v1/logs/stream?search=entry&sessionId={session}"),
            };
            tokio::spawn(async move {
                let (mut seen, mut last_id, mut connections) = (Vec::new(), None::<String>, 0);
                while seen.len() < count {
                    let mut stream = EventStream::open(&client, &path, last_id.as_deref()).await;
                    connections += 1;
                    // Cut off in the middle of things: what was sent and not read is lost with the connection.
                    let until = seen.len() + (reader + 1) * count / 60 + count / 12;
                    while seen.len() < until.min(count) {
                        let event = stream.next().await.expect("an open stream");
                        assert_eq!(event.name, "log");
                        seen.push(event.json()["message"].as_str().unwrap().to_owned());
                        last_id = stream.last_id.clone();
                    }
                }
                (seen, connections)
            })
        })
        .collect();
    let expected: Vec<String> = (0..count).map(|n| format!("entry {n}")).collect();
    for batch in expected.chunks(12) {
        lines.write(batch.iter().cloned()).await;
    }
    for reader in readers {
        let (seen, connections) = reader.await.unwrap();
        assert!(seen == expected, "{} of {count} in another order or not at all", seen.len());
        assert!(connections > 3, "{connections}");
    }
    platform.client.terminate(&session).await;
}

/// Entries in each write, so that twenty writes a second are a thousand entries.
const AT_ONCE: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_carries_a_thousand_entries_a_second_as_they_are_written() {
    let count = entries_to_follow().next_multiple_of(AT_ONCE);
    let platform = Platform::make("a thousand a second").await;
    let session = platform.client.session("u").await;
    let lines = Lines::of(&platform.id, Mode::Live, &session).await;
    // A busy machine may take seconds for a write.
    let limits = StreamLimits { settle: Duration::from_secs(6), ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(limits).await).await, Some(&platform.live_key));
    let mut stream = EventStream::open(&client, "/v1/logs/stream?search=entry", None).await;
    let began = Instant::now();
    let reading = tokio::spawn(async move {
        let mut arrived = Vec::with_capacity(count);
        for n in 0..count {
            let event = stream.next().await.expect("an open stream");
            assert_eq!((event.name.as_str(), event.json()["message"].as_str()), ("log", Some(&*format!("entry {n}"))));
            arrived.push(Instant::now());
        }
        arrived
    });
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    for start in (0..count).step_by(AT_ONCE) {
        tick.tick().await;
        lines.write((start..start + AT_ONCE).map(|n| format!("entry {n}"))).await;
    }
    let written = began.elapsed();
    let arrived = reading.await.unwrap();
    let taken = arrived[count - 1].duration_since(arrived[0]);
    let rate = |time: Duration| count as f64 / time.as_secs_f64();
    let line = format!(
        "{count} entries: written at {:.0} a second, read at {:.0}; the last one was read {:.1} s after it was written\n",
        rate(written),
        rate(taken),
        arrived[count - 1].duration_since(began + written).as_secs_f64(),
    );
    let _ = std::io::stderr().write_all(line.as_bytes());
    platform.client.terminate(&session).await;
}
