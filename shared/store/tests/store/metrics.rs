//! What is measured of agents, at a clock of the test's own: counted once with what happens, merged from wherever it was
//! written, and apart for live and test.

use crate::agents::new_agent;
use crate::support::{World, operator};
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use theazo_store::{
    AgentStatus, Agents, Clock, HOUR_MS, Intent, LogQueue, METRICS_KEPT_DAYS, Measure, Measured, Measurement,
    Measurements, Metrics, Quantiles, Table,
};
use theazo_tenancy::{Mode, TenantScope};

/// 2028-02-29T23:59:59Z: the last second of a month.
const NOW: i64 = 1_835_481_599_000;

struct Bed {
    world: World,
    table: Table,
    now: Arc<AtomicI64>,
    scope: TenantScope,
}

impl Bed {
    async fn start() -> Self {
        let world = World::start().await;
        let scope = world.tenant().await;
        let now = Arc::new(AtomicI64::new(NOW));
        let clock = now.clone();
        let table = world.table.clone().with_clock(Clock::new(move || clock.load(Ordering::Relaxed)));
        Self { world, table, now, scope }
    }

    fn agents(&self) -> Agents {
        Agents::new(self.table.clone())
    }

    fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }

    async fn of(&self, scope: &TenantScope, measure: Measure) -> Measured {
        let mut sum = Measured::default();
        let hours = Metrics::new(self.table.clone()).hours(scope, measure, NOW - HOUR_MS, NOW + 48 * HOUR_MS).await;
        hours.unwrap().into_values().for_each(|hour| sum += hour);
        sum
    }
}

#[tokio::test]
async fn a_boot_is_counted_in_the_hour_of_its_end_with_how_long_it_took_or_that_it_failed() {
    let bed = Bed::start().await;
    let session = bed.world.session(&bed.scope).await;
    let begin = async || bed.agents().begin_boot(&bed.scope, &session, new_agent()).await.unwrap();
    let become_ = async |id, status| bed.agents().transition(&bed.scope, id, status, |_| {}).await.unwrap();
    let (quick, slow, failing) = (begin().await, begin().await, begin().await);
    bed.pass(500);
    become_(&quick.id, AgentStatus::Ready).await;
    // Over midnight, and into the next month.
    bed.pass(2_500);
    become_(&slow.id, AgentStatus::Ready).await;
    become_(&failing.id, AgentStatus::Failed).await;
    // Said again, it does not happen again.
    become_(&slow.id, AgentStatus::Ready).await;
    let boots = bed.of(&bed.scope, Measure::BootTime).await;
    assert_eq!((boots.created(), boots.succeeded(), boots.failed()), (3, 2, 1));
    let Quantiles { p50, p99, .. } = boots.quantiles().unwrap();
    assert_eq!((p50, p99 / 10), (501, 300), "two digits are kept");
    let metrics = Metrics::new(bed.table.clone());
    let hours = metrics.hours(&bed.scope, Measure::BootTime, NOW, NOW + HOUR_MS).await.unwrap();
    let counts: Vec<_> = hours.iter().map(|(hour, sum)| (hour - NOW, sum.created(), sum.succeeded())).collect();
    assert_eq!(counts, [(1000 - HOUR_MS, 3, 1), (1000, 0, 1)]);

    // Booting again counts as a boot, and makes no agent; one that is lost has failed, one that ends well has not.
    bed.agents().begin_pause(&bed.scope, &slow.id, theazo_store::PausedBy::Platform).await.unwrap();
    let paused = bed.agents().finish_pause(&bed.scope, &slow.id, Some(1)).await.unwrap();
    bed.agents().begin_again(&bed.scope, &session, &paused, Intent::Resuming, Vec::new()).await.unwrap();
    bed.pass(40);
    become_(&slow.id, AgentStatus::Ready).await;
    become_(&slow.id, AgentStatus::Failed).await;
    become_(&quick.id, AgentStatus::Completed).await;
    let boots = bed.of(&bed.scope, Measure::BootTime).await;
    assert_eq!((boots.created(), boots.succeeded(), boots.failed()), (3, 3, 2));
    assert_eq!(boots.quantiles().unwrap().p50, 501);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_measured_at_one_moment_by_many_is_all_there_and_only_for_its_own_mode() {
    let bed = Bed::start().await;
    let platform = bed.scope.platform().clone();
    let test = operator().tenant(&platform, Mode::Test);
    for (scope, count) in [(&bed.scope, 60_u64), (&test, 3)] {
        let session = bed.world.session(scope).await;
        let begin = || async { bed.agents().begin_boot(scope, &session, new_agent()).await.unwrap() };
        let agents = join_all((0..3).map(|_| begin())).await;
        let queue = LogQueue::default();
        let measurements = Measurements::new(bed.table.clone(), queue.clone());
        for n in 0..count {
            let measured = if n % 6 == 5 { Measurement::Failed } else { Measurement::Took(n * 1000) };
            measurements.exec(scope, &agents[usize::try_from(n % 3).unwrap()], measured);
        }
        queue.flushed().await;
        let execs = bed.of(scope, Measure::ExecDuration).await;
        assert_eq!(execs.succeeded() + execs.failed(), count);
        assert_eq!(execs.failed(), count / 6);
    }
    let execs = bed.of(&bed.scope, Measure::ExecDuration).await;
    assert_eq!(execs.error_rate(), Some(0.166_667));
    assert_eq!(execs.quantiles().unwrap().p99 / 1000, 58);
    assert_eq!(bed.of(&bed.scope, Measure::BootTime).await.created(), 3);
    // Nobody else sees any of it.
    assert_eq!(bed.of(&bed.world.tenant().await, Measure::ExecDuration).await, Measured::default());
    // All of it expires together.
    let rows = bed.world.scan().await;
    let rows: Vec<_> = rows.iter().filter(|row| row["sk"].as_s().unwrap().starts_with("metric#")).collect();
    assert!(!rows.is_empty());
    let kept_s = METRICS_KEPT_DAYS * 24 * 3600;
    for row in rows {
        let ttl: i64 = row["ttl"].as_n().unwrap().parse().unwrap();
        assert!((NOW / 1000 + kept_s..NOW / 1000 + kept_s + 3602).contains(&ttl), "{row:?}");
    }
}

#[tokio::test]
async fn how_many_agents_are_active_is_noted_by_the_minute_and_the_last_to_note_it_is_right() {
    let bed = Bed::start().await;
    let measurements = Measurements::new(bed.table.clone(), LogQueue::default());
    let minute = NOW - NOW.rem_euclid(60_000);
    for (at_ms, agents) in [(NOW, 7), (NOW + 500, 5), (NOW + 1_000, 6), (NOW + 61_000, 0)] {
        measurements.active(&bed.scope, agents, at_ms).await.unwrap();
    }
    let metrics = Metrics::new(bed.table.clone());
    let noted = metrics.active(&bed.scope, NOW - HOUR_MS, NOW + HOUR_MS).await.unwrap();
    let noted: Vec<_> = noted.into_iter().map(|(at, agents)| ((at - minute) / 60_000, agents)).collect();
    assert_eq!(noted, [(0, 5), (1, 6), (2, 0)]);
    let from = minute + 60_000;
    assert_eq!(metrics.active(&bed.scope, from, from + 60_000).await.unwrap().into_values().collect::<Vec<_>>(), [6]);
}
