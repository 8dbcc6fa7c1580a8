//! UTC days and months, by which costs are reported and limited.

use std::fmt;
use time::{Date, Month as CalendarMonth};

/// A UTC day in milliseconds. Unix time has no leap seconds.
pub const DAY_MS: i64 = 86_400_000;
/// The Julian day number of 1970-01-01.
const UNIX_EPOCH: i64 = 2_440_588;

/// A UTC day. Shown as `2026-11-25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

/// A calendar month in UTC. Shown as `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(i64);

impl Day {
    /// The day of a moment in Unix milliseconds.
    pub const fn of(ms: i64) -> Self {
        Self(ms.div_euclid(DAY_MS))
    }

    /// When it begins, Unix milliseconds.
    pub const fn start_ms(self) -> i64 {
        self.0.saturating_mul(DAY_MS)
    }

    /// The day this many days later, or earlier.
    #[must_use]
    pub const fn plus(self, days: i64) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// The month it lies in.
    pub fn month(self) -> Month {
        let date = self.date();
        Month(i64::from(date.year()) * 12 + i64::from(u8::from(date.month())) - 1)
    }

    /// Dates past what the calendar of the `time` crate holds, years -9999 to 9999, are its last.
    fn date(self) -> Date {
        let julian = i32::try_from(self.0.saturating_add(UNIX_EPOCH)).ok();
        let edge = if self.0 < 0 { Date::MIN } else { Date::MAX };
        julian.and_then(|julian| Date::from_julian_day(julian).ok()).unwrap_or(edge)
    }
}

impl Month {
    /// Its first day.
    pub fn first_day(self) -> Day {
        let month =
            u8::try_from(self.0.rem_euclid(12) + 1).ok().and_then(|number| CalendarMonth::try_from(number).ok());
        let year = i32::try_from(self.0.div_euclid(12)).unwrap_or(i32::MAX);
        let date = Date::from_calendar_date(year, month.unwrap_or(CalendarMonth::January), 1).unwrap_or(Date::MAX);
        Day(i64::from(date.to_julian_day()) - UNIX_EPOCH)
    }

    /// The month this many months later, or earlier.
    #[must_use]
    pub const fn plus(self, months: i64) -> Self {
        Self(self.0.saturating_add(months))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.date();
        write!(formatter, "{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:02}", self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_and_ends_a_millisecond_before_the_next() {
        let midnight = 1_795_564_800_000;
        let day = Day::of(midnight);
        assert_eq!((day.to_string(), day.start_ms()), ("2026-11-25".to_owned(), midnight));
        assert_eq!(Day::of(midnight - 1).to_string(), "2026-11-24");
        assert_eq!(Day::of(midnight + DAY_MS - 1), day);
        assert_eq!(Day::of(-1).to_string(), "1969-12-31");
        assert_eq!(day.plus(6).to_string(), "2026-12-01");
    }

    #[test]
    fn months_end_where_the_calendar_says_leap_years_included() {
        for (last, next, month) in [
            ("2028-02-29", "2028-03-01", "2028-02"),
            ("2027-02-28", "2027-03-01", "2027-02"),
            ("2026-12-31", "2027-01-01", "2026-12"),
            ("2100-02-28", "2100-03-01", "2100-02"),
        ] {
            let found = (0..80_000).map(Day).find(|day| day.to_string() == last).unwrap();
            assert_eq!(found.month().to_string(), month);
            assert_eq!(found.plus(1).to_string(), next);
            assert_eq!(found.month().plus(1), found.plus(1).month());
            assert_eq!(found.month().plus(1).first_day(), found.plus(1));
        }
    }

    #[test]
    fn no_number_of_milliseconds_is_too_large_to_be_shown() {
        for ms in [i64::MIN, i64::MAX, 0] {
            let day = Day::of(ms);
            assert!(!day.to_string().is_empty() && !day.month().to_string().is_empty());
            let _ = day.month().first_day();
        }
    }
}
