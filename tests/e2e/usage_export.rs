//! What is exported for bookkeeping: the same to the micro-cent in every form, and as it is reported elsewhere.

use crate::limits::Priced;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use theazo_metering::{Day, Part, parts, to_cents};
use theazo_store::now_ms;

/// Micro-cents an hour: neither a day nor a second of it is a whole number of them.
const RATE: u64 = 60_000_011;
/// How long before midnight they began, two days ago.
const BEFORE_MIDNIGHT_MS: i64 = 4_000_007;

/// The export's rows of a user, or of a session without one, by their day.
fn rows_of(rows: &Value, name: &str, whose: &str) -> BTreeMap<String, (i64, i64)> {
    let own = rows.as_array().unwrap().iter().filter(|row| row[name] == whose);
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
    own.map(|row| {
        assert_eq!(row["cost"], money(number(row, "costMicrocents")), "{row}");
        (row["date"].as_str().unwrap().to_owned(), (number(row, "computeMs"), number(row, "costMicrocents")))
    })
    .collect()
}

fn money(microcents: i64) -> Value {
    json!({ "amount": to_cents(microcents), "currency": "usd" })
}

#[tokio::test]
async fn meter_events_of_days_that_are_over_say_to_the_micro_cent_what_the_other_forms_and_reports_say() {
    let bed = Priced::live("meter events", RATE).await;
    let user = "cus_1";
    let (status, session) = bed.call("POST", "/v1/sessions", json!({ "userId": user })).await;
    assert_eq!(status, 201);
    let (status, nobodys) = bed.call("POST", "/v1/sessions", json!({})).await;
    assert_eq!(status, 201);
    let [session, nobodys] = [session, nobodys].map(|session| session["id"].as_str().unwrap().to_owned());
    let today = Day::of(now_ms());
    let began_ms = today.plus(-1).start_ms() - BEFORE_MIDNIGHT_MS;
    // As if they had run since then.
    let mut agents = Vec::new();
    for session in [&session, &nobodys] {
        let agent = bed.agent(session, json!({})).await;
        let at = json!({ ":at": { "N": began_ms.to_string() } });
        let update = "SET meter.run.started_ms = :at, meter.run.booked_to_ms = :at, meter.run.claimed_to_ms = :at";
        bed.change("live", session, &agent, update, at).await;
        agents.push(agent);
    }
    // What that makes of the days before this one, whenever it ends.
    let expected = parts(RATE, began_ms, began_ms, today.start_ms());
    let days = [today.plus(-2), today.plus(-1)];
    assert_eq!(expected.iter().map(|part| part.day).collect::<Vec<_>>(), days);
    let export = async |format: &str| bed.get(&format!("/v1/usage/export?period=week&format={format}")).await;
    let running = export("stripe").await;
    for agent in &agents {
        let (status, ended) = bed.call("POST", &format!("/v1/agents/{agent}/terminate"), Value::Null).await;
        assert_eq!(status, 200, "{ended}");
    }
    let mut reports = BTreeMap::new();
    loop {
        let day = Day::of(now_ms());
        for path in ["users/cus_1?period=week", "daily?period=last_7_days", "by-provider?period=week"] {
            reports.insert(path, bed.get(&format!("/v1/usage/{path}")).await);
        }
        for format in ["csv", "json", "stripe"] {
            reports.insert(format, export(format).await);
        }
        // Of one day all, should another begin meanwhile.
        if Day::of(now_ms()) == day {
            break;
        }
    }

    let (rows, events) = (&reports["json"], reports["stripe"].as_array().unwrap());
    let of_user = rows_of(rows, "userId", user);
    let of_nobody = rows_of(rows, "sessionId", &nobodys);
    for Part { day, ms, cost } in &expected {
        for rows in [&of_user, &of_nobody] {
            assert_eq!(rows[&day.to_string()], (*ms, *cost), "{day}");
        }
    }
    // An event for each day that is over of each end user, and none for who has no end user.
    let known: Vec<&Value> = events.iter().take(expected.len()).collect();
    for (event, Part { day, cost, .. }) in known.iter().zip(&expected) {
        let digest = hex::encode(Sha256::digest(format!("{}#{day}#{user}", bed.platform.id)));
        let last_second = day.plus(1).start_ms() / 1000 - 1;
        let event_of_day = json!({
            "event_name": "theazo_compute_microcents",
            "identifier": format!("theazo-{day}-{}", digest.split_at(32).0),
            "timestamp": last_second,
            "payload": { "stripe_customer_id": user, "value": cost.to_string() },
        });
        assert_eq!(**event, event_of_day);
        assert_eq!(Day::of(last_second * 1000), *day);
    }
    // Today's is not among them; should another day have begun meanwhile, it is one of those that are over.
    let over = of_user.keys().filter(|day| **day < Day::of(now_ms()).to_string()).count();
    assert!(events.len() == over || events.len() == expected.len(), "{events:?}");
    // Nothing that was said of a day while they ran has to be corrected.
    assert_eq!(running.as_array().unwrap().len(), expected.len());
    assert_eq!(running.as_array().unwrap().iter().collect::<Vec<_>>(), known);

    // The table says the same as the rows, line by line.
    let table = reports["csv"].as_str().unwrap();
    let mut lines: Vec<String> = table.lines().skip(1).map(str::to_owned).collect();
    let of_rows = rows.as_array().unwrap().iter().map(|row| {
        let (ms, cost) = (row["computeMs"].as_i64().unwrap(), row["costMicrocents"].as_i64().unwrap());
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
        let dollars = format!("{}.{:08}", cost / 100_000_000, cost % 100_000_000);
        format!("{},{},{},{seconds},{dollars},0.000000", text("date"), text("userId"), text("sessionId"))
    });
    let mut of_rows: Vec<String> = of_rows.collect();
    lines.sort();
    of_rows.sort();
    assert_eq!(lines, of_rows);

    // And so do the reports, as exactly as they show it.
    let total: i64 = of_user.values().map(|(_, cost)| cost).sum();
    let shown = &reports["users/cus_1?period=week"];
    assert_eq!((&shown["total"], &shown["compute"]["cost"]), (&money(total), &money(total)), "{shown}");
    let breakdown = shown["breakdown"].as_array().unwrap().iter().filter(|day| day["total"]["amount"] != 0);
    let breakdown: BTreeMap<_, _> = breakdown.map(|day| (day["date"].as_str().unwrap(), &day["total"])).collect();
    for (day, (_, cost)) in of_user.iter().filter(|(_, (_, cost))| to_cents(*cost) > 0) {
        assert_eq!(breakdown.get(day.as_str()), Some(&&money(*cost)), "{day}: {shown}");
    }
    let all: i64 = total + of_nobody.values().map(|(_, cost)| cost).sum::<i64>();
    assert_eq!(reports["by-provider?period=week"], json!({ "docker": money(all) }));
    let daily = reports["daily?period=last_7_days"].as_array().unwrap();
    for day in daily {
        let date = day["date"].as_str().unwrap();
        let cost = |rows: &BTreeMap<String, (i64, i64)>| rows.get(date).map_or(0, |(_, cost)| *cost);
        assert_eq!(day["cost"], money(cost(&of_user) + cost(&of_nobody)), "{date}");
    }
    for session in [session, nobodys] {
        bed.terminate(&session).await;
    }
}

#[tokio::test]
async fn what_a_paused_agents_files_take_is_reported_while_it_is_paused_and_after_its_end() {
    let bed = Priced::live("stored", RATE).await;
    let (status, session) = bed.call("POST", "/v1/sessions", json!({ "userId": "keeper" })).await;
    assert_eq!(status, 201);
    let session = session["id"].as_str().unwrap();
    let agent = bed.agent(session, json!({})).await;
    let act = async |what: &str| {
        let (status, told) = bed.call("POST", &format!("/v1/agents/{agent}/{what}"), Value::Null).await;
        assert_eq!(status, 200, "{told}");
    };
    let stored = async || {
        let user = bed.get("/v1/usage/users/keeper?period=week").await;
        let rows = bed.get("/v1/usage/export?period=week&format=json").await;
        let rows: f64 = rows.as_array().unwrap().iter().map(|row| row["storageGbHours"].as_f64().unwrap()).sum();
        let table = bed.get("/v1/usage/export?period=week&format=csv").await;
        let cells = table.as_str().unwrap().lines().skip(1).map(|line| line.rsplit(',').next().unwrap());
        let cells: f64 = cells.map(|cell| cell.parse::<f64>().unwrap()).sum();
        [user["storage"]["gbHours"].as_f64().unwrap(), rows, cells]
    };
    assert_eq!(stored().await, [0.0; 3]);
    act("pause").await;
    // As if a gigabyte of it had been kept for two hours.
    let values = json!({
        ":at": { "N": (now_ms() - 2 * 3_600_000).to_string() }, ":bytes": { "N": "1000000000" },
    });
    bed.change("live", session, &agent, "SET since_ms = :at, #snapshot.#bytes = :bytes", values).await;
    let while_paused = stored().await;
    act("terminate").await;
    let after = stored().await;
    // Each was asked for some moments later than the one before.
    for gb_hours in while_paused.iter().chain(&after) {
        assert!((2.0..2.1).contains(gb_hours), "{while_paused:?}, then {after:?}");
    }
    assert_eq!(stored().await, after, "what is over takes no more");
    bed.terminate(session).await;
}
