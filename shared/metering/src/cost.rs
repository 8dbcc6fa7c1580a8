//! Rates, costs, and cutting a stretch of time at midnights.

use crate::Day;

/// Micro-cents in a cent.
pub const MICROCENTS_PER_CENT: i64 = 1_000_000;

const HOUR_MS: i128 = 3_600_000;

/// What falls on one day: of a whole, or of a difference, which may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The UTC day.
    pub day: Day,
    /// Milliseconds of it.
    pub ms: i64,
    /// What they cost, micro-cents.
    pub cost: i64,
}

/// What running that many milliseconds costs at a rate in micro-cents an hour, rounded down to a whole micro-cent.
/// Nothing for no time, or less than none.
pub fn cost_of(rate: u64, elapsed_ms: i64) -> i64 {
    let cost = i128::from(rate) * i128::from(elapsed_ms.max(0)) / HOUR_MS;
    i64::try_from(cost).unwrap_or(i64::MAX)
}

/// The longest time, in milliseconds, that costs at most that many micro-cents. `i64::MAX` for what costs nothing.
pub fn affordable_ms(rate: u64, microcents: i64) -> i64 {
    if microcents < 0 {
        return 0;
    }
    if rate == 0 {
        return i64::MAX;
    }
    // The last millisecond before the cost reaches the next whole micro-cent.
    let next = (i128::from(microcents) + 1) * HOUR_MS;
    let reached = next.div_euclid(i128::from(rate)) + i128::from(next % i128::from(rate) != 0);
    i64::try_from(reached - 1).unwrap_or(i64::MAX)
}

/// Micro-cents as cents, rounded half up. For showing only: nothing is ever added up from these.
pub fn to_cents(microcents: i64) -> i64 {
    let half = MICROCENTS_PER_CENT / 2;
    microcents.saturating_add(half).div_euclid(MICROCENTS_PER_CENT)
}

/// Byte-milliseconds as gigabyte-hours (10^9 bytes), to a millionth. For showing only.
pub fn to_gb_hours(byte_ms: i128) -> f64 {
    const MILLIONTH: i128 = 1_000_000_000 * HOUR_MS / 1_000_000;
    let millionths = (byte_ms.saturating_add(MILLIONTH / 2)).div_euclid(MILLIONTH);
    millionths as f64 / 1e6
}

/// What lies between two moments of a run that began at `started_ms`, by day. Backwards, every part is negative: what
/// was counted ahead is given back.
pub fn parts(rate: u64, started_ms: i64, from_ms: i64, to_ms: i64) -> Vec<Part> {
    if from_ms > to_ms {
        let back = parts(rate, started_ms, to_ms, from_ms).into_iter();
        return back.map(|part| Part { ms: -part.ms, cost: -part.cost, ..part }).collect();
    }
    let mut parts = Vec::new();
    let mut from = from_ms;
    while from < to_ms {
        let day = Day::of(from);
        let to = day.plus(1).start_ms().min(to_ms);
        if to <= from {
            // The end of what a day can be counted in.
            break;
        }
        let cost = cost_of(rate, to.saturating_sub(started_ms)) - cost_of(rate, from.saturating_sub(started_ms));
        parts.push(Part { day, ms: to - from, cost });
        from = to;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_rounded_down_and_no_time_costs_nothing() {
        assert_eq!(cost_of(3_600_000, 1), 1);
        assert_eq!(cost_of(3_599_999, 1), 0);
        assert_eq!(cost_of(10_890_000, 3_600_000), 10_890_000);
        assert_eq!(cost_of(10_890_000, 1_000), 3_025);
        for ms in [0, -1, i64::MIN] {
            assert_eq!(cost_of(u64::MAX, ms), 0);
        }
        assert_eq!(cost_of(u64::MAX, i64::MAX), i64::MAX);
    }

    #[test]
    fn cents_are_rounded_half_up() {
        for (microcents, cents) in
            [(0, 0), (499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2), (i64::MAX, i64::MAX / 1_000_000)]
        {
            assert_eq!(to_cents(microcents), cents, "{microcents}");
        }
    }

    #[test]
    fn gigabyte_hours_are_of_a_thousand_million_bytes() {
        let hour = i128::from(1_000_000_000_i64) * HOUR_MS;
        for (byte_ms, shown) in
            [(0, 0.0), (hour, 1.0), (hour * 744 * 10_000, 7_440_000.0), (hour / 3, 0.333_333), (1, 0.0)]
        {
            assert_eq!(to_gb_hours(byte_ms), shown, "{byte_ms}");
        }
        assert!(to_gb_hours(i128::MAX) > 0.0);
    }

    #[test]
    fn a_run_over_midnight_has_a_part_on_each_day() {
        let midnight = Day::of(1_795_564_800_000).start_ms();
        // A third of a micro-cent a millisecond: the parts are differences, not roundings of their own.
        let cut = parts(1_200_000, midnight - 2, midnight - 2, midnight + 2);
        let days: Vec<_> = cut.iter().map(|part| (part.day.to_string(), part.ms, part.cost)).collect();
        assert_eq!(days, [("2026-11-24".to_owned(), 2, 0), ("2026-11-25".to_owned(), 2, 1)]);
        assert!(parts(1, 5, 7, 7).is_empty());
    }

    #[test]
    fn what_is_counted_backwards_is_the_same_with_the_other_sign() {
        let forth = parts(7_777_777, 0, 5, 200_000_000);
        let back = parts(7_777_777, 0, 200_000_000, 5);
        assert_eq!(forth.len(), 3);
        for (forth, back) in forth.iter().zip(&back) {
            assert_eq!((forth.day, -forth.ms, -forth.cost), (back.day, back.ms, back.cost));
        }
    }
}
