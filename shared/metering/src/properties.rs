//! Whatever happens when, nothing is lost and nothing counts twice.

use crate::{Changes, DAY_MS, Day, Meter, Part, affordable_ms, cost_of, parts};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// 2028-02-28T00:00Z: a leap day and a month's end lie ahead.
const BEFORE_LEAP_DAY: i64 = 1_835_308_800_000;

fn rate() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1_u64..5, 1_u64..100_000_000, Just(10_890_000), Just(1_000_000_000_000)]
}

fn totals(parts: &[Part]) -> (i64, i64) {
    parts.iter().fold((0, 0), |(ms, cost), part| (ms + part.ms, cost + part.cost))
}

#[derive(Clone, Debug)]
enum Step {
    Claim(i64),
    Start,
    Charge { ahead_ms: i64, dies: bool },
    Stop { dies: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0_i64..120_000).prop_map(Step::Claim),
        3 => Just(Step::Start),
        4 => (0_i64..120_000, any::<bool>()).prop_map(|(ahead_ms, dies)| Step::Charge { ahead_ms, dies }),
        2 => any::<bool>().prop_map(|dies| Step::Stop { dies }),
    ]
}

/// Time that passes before a step; now and then the clock is put back.
fn pause() -> impl Strategy<Value = i64> {
    prop_oneof![
        5 => 0_i64..10_000,
        2 => 0_i64..3 * DAY_MS,
        1 => Just(DAY_MS),
        1 => -7_200_000_i64..0,
    ]
}

/// Counters as the table would have them.
#[derive(Default)]
struct Books {
    booked: BTreeMap<Day, (i64, i64)>,
    claimed: BTreeMap<Day, (i64, i64)>,
}

impl Books {
    fn add(&mut self, changes: &Changes) {
        for (book, parts) in [(&mut self.booked, &changes.booked), (&mut self.claimed, &changes.claimed)] {
            for part in parts {
                let day = book.entry(part.day).or_default();
                *day = (day.0 + part.ms, day.1 + part.cost);
            }
        }
    }

    fn sum(book: &BTreeMap<Day, (i64, i64)>) -> (i64, i64) {
        book.values().fold((0, 0), |sum, day| (sum.0 + day.0, sum.1 + day.1))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_parts_of_a_run_add_up_to_the_whole_wherever_it_is_cut(
        rate in rate(),
        start in BEFORE_LEAP_DAY..BEFORE_LEAP_DAY + DAY_MS,
        mut cuts in vec(0_i64..40 * DAY_MS, 1..12),
    ) {
        cuts.sort_unstable();
        let (mut from, mut ms, mut cost) = (start, 0, 0);
        for cut in &cuts {
            for part in parts(rate, start, from, start + cut) {
                prop_assert!(part.ms > 0 && part.ms <= DAY_MS && part.cost >= 0);
                prop_assert!(part.day >= Day::of(from) && part.day <= Day::of(start + cut));
                (ms, cost) = (ms + part.ms, cost + part.cost);
            }
            from = start + cut;
        }
        let whole = cuts.last().copied().unwrap();
        prop_assert_eq!((ms, cost), (whole, cost_of(rate, whole)));
    }

    #[test]
    fn what_can_be_afforded_costs_no_more_and_a_millisecond_later_would(rate in rate(), money in 0_i64..10_000_000_000) {
        let ms = affordable_ms(rate, money);
        prop_assert!(cost_of(rate, ms) <= money);
        if ms < i64::MAX {
            prop_assert!(cost_of(rate, ms + 1) > money);
        }
    }

    #[test]
    fn counters_agree_with_the_meter_through_pauses_deaths_midnights_and_clock_steps(
        rate in rate(),
        start in BEFORE_LEAP_DAY..BEFORE_LEAP_DAY + 2 * DAY_MS,
        steps in vec((pause(), step()), 1..40),
    ) {
        let (mut meter, mut books, mut now) = (Meter::default(), Books::default(), start);
        let mut last = (0, 0);
        for (passed, step) in steps {
            now += passed;
            let before = meter.clone();
            let (changes, dies) = match step {
                Step::Claim(ms) => (meter.claim(rate, now, ms), false),
                Step::Start => (meter.start(now), false),
                Step::Charge { ahead_ms, dies } => (meter.advance(now, now + ahead_ms), dies),
                Step::Stop { dies } => (meter.stop(now), dies),
            };
            if dies {
                // The process ends before its transaction: the row is as it was, and so are the counters.
                meter = before;
            } else {
                books.add(&changes);
            }
            prop_assert!(changes.booked.iter().all(|part| part.ms > 0 && part.cost >= 0), "{changes:?}");
            // Nothing is ever taken back from what has been booked.
            let booked = Books::sum(&books.booked);
            prop_assert!(booked.0 >= last.0 && booked.1 >= last.1);
            last = booked;
            let (ms, cost) = totals(&meter.unbooked(now));
            prop_assert_eq!((booked.0 + ms, booked.1 + cost), (meter.ran_ms(now), meter.cost(now)));
            let (ms, cost) = totals(&meter.unused(now));
            let claimed = Books::sum(&books.claimed);
            prop_assert_eq!((claimed.0 + ms, claimed.1 + cost), (meter.ran_ms(now), meter.cost(now)));
            prop_assert!(claimed.0 >= booked.0 && claimed.1 >= booked.1);
        }
        books.add(&meter.stop(now));
        prop_assert_eq!(Books::sum(&books.booked), (meter.ran_ms(now), meter.cost(now)));
        // With nothing running, nothing is claimed, and that holds of every day.
        books.claimed.retain(|_, sums| *sums != (0, 0));
        prop_assert_eq!(books.claimed, books.booked);
    }
}
