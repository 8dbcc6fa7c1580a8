//! Times and durations as the API writes them.

use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

const WIRE: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Unix milliseconds as ISO 8601 in UTC with milliseconds.
pub fn format_time(ms: i64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|time| time.format(WIRE).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00.000Z".into())
}

/// An ISO 8601 time with an offset, as Unix milliseconds.
pub fn parse_time_ms(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// `90s`, `5m`, `24h`, `7d`, `1500ms` or a bare number of milliseconds, as milliseconds.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}

/// Milliseconds for people: `"3m 12s"`, `"2h 5m"`, `"0s"`.
pub fn format_duration(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{}s", seconds % 60),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds_and_parse_back() {
        assert_eq!(format_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_time(1_790_000_000_123), "2026-09-21T14:13:20.123Z");
        assert_eq!(parse_time_ms("2026-09-21T14:13:20.123Z"), Some(1_790_000_000_123));
        assert_eq!(parse_time_ms("2026-09-21T16:13:20+02:00"), Some(1_790_000_000_000));
        for bad in ["", "yesterday", "2026-09-21", "2026-13-01T00:00:00Z"] {
            assert_eq!(parse_time_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_have_units_and_no_surprises() {
        for (text, ms) in [("90s", 90_000), ("5m", 300_000), ("24h", 86_400_000), ("7d", 604_800_000), ("250", 250)] {
            assert_eq!(parse_duration_ms(text), Some(ms));
        }
        for bad in ["", "s", "1.5h", "-5m", "5 m", "5M", "99999999999999999999d", "9223372036854775807d"] {
            assert_eq!(parse_duration_ms(bad), None, "{bad}");
        }
        assert_eq!(format_duration(192_000), "3m 12s");
        assert_eq!(format_duration(-5), "0s");
        assert_eq!(format_duration(7_500_000), "2h 5m");
        assert_eq!(format_duration(90_000_000), "1d 1h");
    }
}
