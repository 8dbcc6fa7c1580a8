//! `GET /v1/usage/export`

use super::{money, read_period, with_live};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use theazo_http::{Answer, ApiError, Call, ErrorCode, MAX_PAYLOAD_BYTES, payload_len};
use theazo_metering::{Day, to_gb_hours};
use theazo_store::{Agents, Payer, Sum, Usage, now_ms, unbooked};
use theazo_tenancy::{PlatformId, ReadScope};

/// What our events are called at Stripe; the meter adds their values up.
const STRIPE_EVENT: &str = "theazo_compute_microcents";

#[derive(Clone, Copy)]
enum Format {
    Csv,
    Json,
    Stripe,
}

type Rows = BTreeMap<(Day, Payer), Sum>;

/// Usage by day and end user, for bookkeeping: exact, in units that need no rounding.
pub async fn handle(call: Call, usage: Usage, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let read = |scope: ReadScope| {
        let (call, usage, agents) = (&call, &usage, &agents);
        async move {
            let query = call.query()?;
            let days = read_period(&query, now)?;
            let format = query.one_of("format", |name| match name {
                "csv" => Some(Format::Csv),
                "json" => Some(Format::Json),
                "stripe" => Some(Format::Stripe),
                _ => None,
            })?;
            let (sums, live) = with_live(agents, &scope, || usage.by_payer(&scope, days)).await?;
            Ok((format.unwrap_or(Format::Csv), days, sums, live))
        }
    };
    let (principal, (format, days, mut rows, live)) = call.authenticate_with(read).await?;
    for (agent, day, sum) in unbooked(&live, days, now) {
        *rows.entry((day, Payer::of(agent))).or_default() += sum;
    }
    match format {
        Format::Csv => whole(csv(&rows)).map(Answer::csv),
        Format::Json => whole(Value::from(json_rows(&rows)).to_string()).map(|body| Answer::again(200, body)),
        Format::Stripe => {
            let running = live.iter().filter(|agent| agent.status.takes_place());
            let silent = running.filter_map(|agent| Some(agent.silence?.since_ms));
            let events = stripe(principal.scope().platform(), &rows, open_since(silent, now));
            whole(Value::from(events).to_string()).map(|body| Answer::again(200, body))
        }
    }
}

fn whole(body: String) -> Result<String, ApiError> {
    if payload_len(body.as_bytes()) > MAX_PAYLOAD_BYTES {
        let why = "the export is larger than an answer may be: ask for a shorter period";
        return Err(ApiError::new(ErrorCode::UnprocessableEntity, why));
    }
    Ok(body)
}

/// The user, or the session that has none.
fn names(payer: &Payer) -> (Option<&str>, Option<&str>) {
    match payer {
        Payer::User(user) => (Some(user), None),
        Payer::Session(session) => (None, Some(session)),
    }
}

/// RFC 4180. A cell that a spreadsheet would take for a formula gets an apostrophe in front, and so does what would be one
/// where cells end at semicolons or tabs.
fn csv(rows: &Rows) -> String {
    let mut text = String::from("date,userId,sessionId,computeSeconds,costUsd,storageGbHours\r\n");
    for ((day, payer), sum) in rows {
        let (user, session) = names(payer);
        let cells = [
            day.to_string(),
            cell(user.unwrap_or_default()),
            cell(session.unwrap_or_default()),
            format!("{}.{:03}", sum.compute_ms / 1000, sum.compute_ms % 1000),
            format!("{}.{:08}", sum.cost / 100_000_000, sum.cost % 100_000_000),
            format!("{:.6}", to_gb_hours(sum.storage)),
        ];
        text += &cells.join(",");
        text += "\r\n";
    }
    text
}

/// What a formula may begin with.
const FORMULA: [char; 13] =
    ['=', '+', '-', '@', '\t', '\r', '\n', '|', '%', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];

fn cell(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 1);
    let mut begins = true;
    for letter in text.chars() {
        if begins && FORMULA.contains(&letter) {
            shown.push('\'');
        }
        begins = matches!(letter, ';' | '\t' | '\r' | '\n') || (begins && matches!(letter, ' ' | '"' | '\''));
        shown.push(letter);
    }
    let text = shown;
    match text.contains([',', ';', '\t', '"', '\r', '\n', '\'']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

fn json_rows(rows: &Rows) -> Vec<Value> {
    let row = |((day, payer), sum): (&(Day, Payer), &Sum)| {
        let (user, session) = names(payer);
        json!({
            "date": day.to_string(),
            "userId": user,
            "sessionId": session,
            "computeMs": sum.compute_ms,
            "cost": money(sum.cost),
            "costMicrocents": sum.cost,
            "storageGbHours": to_gb_hours(sum.storage),
        })
    };
    rows.iter().map(row).collect()
}

/// How long after a day something of it may still become known, milliseconds: a host's silence is noted by the next run of
/// reconciling.
const KNOWN_AFTER_MS: i64 = 10 * 60_000;

/// The first day of which something may yet change. What an agent runs on a host that is silent is booked when the host
/// answers again; `silent_since_ms` says since when those are.
fn open_since(silent_since_ms: impl Iterator<Item = i64>, now_ms: i64) -> Day {
    Day::of(silent_since_ms.min().unwrap_or(i64::MAX).min(now_ms - KNOWN_AFTER_MS))
}

/// Meter events (<https://docs.stripe.com/api/billing/meter-event/create>), one for each user and day of which nothing
/// changes any more, so that an event never has to be corrected. The same event has the same identifier at every
/// export, but Stripe refuses one that it has seen for about a day only, and adds up what comes later: each day is to
/// be sent once. The user id stands where Stripe expects its customer's.
fn stripe(platform: &PlatformId, rows: &Rows, open_since: Day) -> Vec<Value> {
    let over = rows.iter().filter(|((day, _), sum)| *day < open_since && sum.cost > 0);
    let event = |((day, payer), sum): (&(Day, Payer), &Sum)| {
        let (Some(user), _) = names(payer) else { return None };
        let digest = Sha256::digest(format!("{platform}#{day}#{user}"));
        let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Some(json!({
            "event_name": STRIPE_EVENT,
            "identifier": format!("theazo-{day}-{hex}"),
            "timestamp": day.plus(1).start_ms() / 1000 - 1,
            "payload": { "stripe_customer_id": user, "value": sum.cost.to_string() },
        }))
    };
    over.filter_map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let day = Day::of(1_795_564_800_000);
        let sum = Sum { cost: 123_456_789_012, compute_ms: 61_005, storage: 5_400_000_000_000_000 };
        let user = |name: &str| Payer::User(name.to_owned());
        Rows::from([
            ((day, user("=cmd|'/c calc'!A0")), sum),
            ((day, user("a,\"b\"")), Sum { cost: 5, compute_ms: 1, storage: 0 }),
            ((day, Payer::Session("ses_1".into())), sum),
            ((day.plus(1), user("plain")), sum),
        ])
    }

    #[test]
    fn a_table_is_exact_and_no_cell_of_it_is_a_formula() {
        let text = csv(&rows());
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(
            lines,
            [
                "date,userId,sessionId,computeSeconds,costUsd,storageGbHours",
                "2026-11-25,\"'=cmd|'/c calc'!A0\",,61.005,1234.56789012,1.500000",
                "2026-11-25,\"a,\"\"b\"\"\",,0.001,0.00000005,0.000000",
                "2026-11-25,,ses_1,61.005,1234.56789012,1.500000",
                "2026-11-26,plain,,61.005,1234.56789012,1.500000",
                "",
            ]
        );
        for first in ["=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "\u{ff1d}", "\u{ff0b}", "\u{ff0d}", "\u{ff20}"] {
            let shown = cell(&format!("{first}1"));
            assert!(shown.trim_start_matches('"').starts_with('\''), "{shown}");
        }
        // Where a list's separator is the semicolon, or the text is pasted, these are cells of their own.
        for (text, shown) in [
            ("a;=1+1;b", "\"a;'=1+1;b\""),
            ("a\t@x", "\"a\t'@x\""),
            ("a; =1", "\"a; '=1\""),
            ("a;\"=1", "\"a;\"\"'=1\""),
            ("it's", "\"it's\""),
            ("a=1;b", "\"a=1;b\""),
        ] {
            assert_eq!(cell(text), shown);
        }
    }

    #[test]
    fn what_is_larger_than_an_answer_may_be_is_refused_and_not_cut() {
        let most = MAX_PAYLOAD_BYTES;
        let plain = |length: usize| whole("x".repeat(length));
        assert_eq!(plain(most).unwrap().len(), most);
        assert_eq!(plain(most + 1).unwrap_err().code(), ErrorCode::UnprocessableEntity);
        // As it is counted, in the form in which it is carried.
        assert!(whole("\"".repeat(most)).is_err());
    }

    #[test]
    fn a_day_is_open_until_what_was_silent_in_it_has_been_heard_of() {
        let day = Day::of(1_795_564_800_000);
        let midnight = day.plus(1).start_ms();
        let since = |silent: &[i64], now| open_since(silent.iter().copied(), now);
        assert_eq!(since(&[], midnight - 1), day);
        assert_eq!(since(&[], midnight + KNOWN_AFTER_MS - 1), day);
        assert_eq!(since(&[], midnight + KNOWN_AFTER_MS), day.plus(1));
        let hour = 3_600_000;
        assert_eq!(since(&[midnight + hour, midnight - 1], midnight + 2 * hour), day);
        assert_eq!(since(&[midnight + hour], midnight + 30 * hour), day.plus(1));
    }

    #[test]
    fn meter_events_are_of_users_and_of_days_that_are_over_and_keep_their_identifiers() {
        let platform = PlatformId::make();
        let today = Day::of(1_795_564_800_000).plus(1);
        let events = stripe(&platform, &rows(), today);
        let customers: Vec<_> = events.iter().map(|event| event["payload"]["stripe_customer_id"].clone()).collect();
        assert_eq!(customers, [json!("=cmd|'/c calc'!A0"), json!("a,\"b\"")]);
        assert_eq!((&events[1]["payload"]["value"], &events[1]["timestamp"]), (&json!("5"), &json!(1_795_651_199)));
        assert_eq!(stripe(&platform, &rows(), today), events);
        assert_eq!(stripe(&platform, &rows(), today.plus(1)).len(), 3);
        assert_ne!(stripe(&PlatformId::make(), &rows(), today)[0]["identifier"], events[0]["identifier"]);
    }
}
