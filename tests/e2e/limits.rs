//! Limits of money, minutes and age, and what agents cost: on the simulated provider, at prices of the test's own.

use crate::harness::{Platform, stack};
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_functions::deployment::{Deployment, DeploymentConfig};
use theazo_functions::reconcile::{Boots, reconcile};
use theazo_functions::routes::ROUTES;
use theazo_functions::{Incoming, serve};
use theazo_store::{Aws, AwsEndpoints};

/// A minute, which is what a start claims, costs a cent.
const CENT_A_MINUTE: u64 = 60_000_000;
/// A cent lasts some 36 milliseconds.
const CENT_A_MOMENT: u64 = 100_000_000_000;

/// The shared stack's table behind a deployment with its own price of simulated agents.
struct Priced {
    deployment: Deployment,
    platform: Platform,
    key: String,
}

impl Priced {
    /// For calls with a test key.
    async fn make(name: &str, rate: u64) -> Self {
        let bed = Self::live(name, rate).await;
        Self { key: bed.platform.test_key.clone(), ..bed }
    }

    /// For calls with a live key.
    async fn live(name: &str, rate: u64) -> Self {
        let platform = Platform::make(name).await;
        let stack = stack();
        let endpoints = AwsEndpoints { dynamodb: stack.dynamodb_url(), kms: Some(stack.kms_url()) };
        let prices = json!({ "simulated": { "standard": rate }, "docker": { "standard": rate } }).to_string();
        let prices = theazo_metering::Prices::parse(&prices).unwrap();
        let config = DeploymentConfig { prices, ..stack.deployment().config().clone() };
        let key = platform.live_key.clone();
        Self { deployment: Deployment::new(&Aws::local(&endpoints), config).unwrap(), platform, key }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {}", self.key).parse().unwrap());
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let incoming = Incoming {
            method: method.parse().unwrap(),
            source_ip: None,
            raw_path: path.split('?').next().unwrap().to_owned(),
            raw_query: path.split_once('?').map_or(String::new(), |(_, query)| query.to_owned()),
            headers,
            body,
        };
        let (response, _) = serve(&self.deployment, ROUTES, incoming).await;
        let status = response.status().as_u16();
        let text = String::from_utf8(response.into_body().collect().await.to_vec()).unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn session(&self, limits: Value) -> String {
        let (status, session) = self.call("POST", "/v1/sessions", json!({ "limits": limits })).await;
        assert_eq!((status, &session["limits"]), (201, &limits), "{session}");
        session["id"].as_str().unwrap().to_owned()
    }

    async fn create(&self, session: &str, body: Value) -> (u16, Value) {
        self.call("POST", &format!("/v1/sessions/{session}/agents"), body).await
    }

    async fn agent(&self, session: &str, body: Value) -> String {
        let (status, agent) = self.create(session, body).await;
        assert_eq!(status, 201, "{agent}");
        agent["id"].as_str().unwrap().to_owned()
    }

    async fn status(&self, agent: &str) -> Value {
        self.get(&format!("/v1/agents/{agent}/status")).await["status"].clone()
    }

    /// Reconciles until the agent has stopped; the stack's own loop does the same now and then.
    async fn until_stopped(&self, agent: &str) {
        let started = Instant::now();
        while self.status(agent).await == "ready" {
            assert!(started.elapsed() < Duration::from_secs(60), "no limit stopped {agent}");
            reconcile(&self.deployment, Boots::UnderWay).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn terminate(&self, session: &str) {
        let (status, _) = self.call("POST", &format!("/v1/sessions/{session}/terminate"), Value::Null).await;
        assert_eq!(status, 200);
    }
}

fn day(amount: u32) -> Value {
    json!({ "maxCost": { "amount": amount, "currency": "usd", "period": "day" } })
}

#[tokio::test]
async fn twenty_parallel_creates_against_one_cost_limit_are_never_one_too_many() {
    let bed = Priced::make("spends at once", CENT_A_MINUTE).await;
    for (limits, limit, max) in [
        (day(3), "maxCost", 3),
        (json!({ "maxCost": { "amount": 4, "currency": "usd", "period": "month" } }), "maxCost", 4),
        (json!({ "maxComputeMinutes": 2 }), "maxComputeMinutes", 2),
    ] {
        let session = bed.session(limits).await;
        let answers = join_all((0..20).map(|_| bed.create(&session, json!({})))).await;
        let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(status, _)| *status == 201);
        assert_eq!(made.len(), max);
        for (status, body) in refused {
            assert_eq!((status, &body["error"]["code"]), (402, &json!("session_limit_exceeded")), "{body}");
            assert_eq!(body["error"]["details"], json!({ "limit": limit, "used": max, "max": max }));
        }
        bed.terminate(&session).await;
    }
}

#[tokio::test]
async fn a_session_that_has_spent_its_money_is_stopped_and_gets_no_agent_until_the_limit_is_raised() {
    let bed = Priced::make("spent", CENT_A_MOMENT).await;
    let session = bed.session(day(20)).await;
    let (first, limits) = (bed.agent(&session, json!({})).await, format!("/v1/sessions/{session}/limits"));
    bed.until_stopped(&first).await;
    let shown = bed.get(&limits).await["maxCost"].clone();
    assert!(shown["used"].as_u64().unwrap() >= 20 && shown["percentage"].as_f64().unwrap() >= 100.0, "{shown}");
    assert_eq!(
        (&shown["limit"], &shown["remaining"], &shown["currency"], &shown["period"]),
        (&json!(20), &json!(0), &json!("usd"), &json!("day"))
    );
    let (status, refused) = bed.create(&session, json!({})).await;
    let details = &refused["error"]["details"];
    assert_eq!((status, &details["limit"], &details["max"]), (402, &json!("maxCost"), &json!(20)));
    assert!(details["used"].as_u64().unwrap() >= 20, "{refused}");
    let raised = bed.call("PATCH", &limits, day(100_000)).await;
    assert_eq!((raised.0, &raised.1["maxCost"]["limit"]), (200, &json!(100_000)));
    let second = bed.agent(&session, json!({})).await;
    reconcile(&bed.deployment, Boots::UnderWay).await.unwrap();
    assert_eq!(bed.status(&second).await, "ready");
    let lifted = bed.call("PATCH", &limits, json!({ "maxCost": null, "maxAgents": 1 })).await;
    assert_eq!(lifted.1, json!({ "maxAgents": { "limit": 1, "used": 1, "remaining": 0, "percentage": 100.0 } }));
    // Test keys are not metered, whatever their limits count.
    let usage = bed.get(&format!("/v1/sessions/{session}/usage")).await;
    assert_eq!((&usage["cost"]["amount"], &usage["computeMinutes"]), (&json!(0), &json!(0.0)));
    bed.terminate(&session).await;
}

#[tokio::test]
async fn an_agent_stops_at_its_own_cost_cap_and_its_neighbours_go_on() {
    let bed = Priced::make("capped", CENT_A_MOMENT).await;
    let session = bed.session(json!({})).await;
    let capped = bed.agent(&session, json!({ "costCap": { "amount": 5, "currency": "usd" } })).await;
    let other = bed.agent(&session, json!({})).await;
    bed.until_stopped(&capped).await;
    assert_eq!(bed.status(&other).await, "ready");
    bed.terminate(&session).await;
}

#[tokio::test]
async fn a_session_that_is_too_old_is_stopped_whatever_it_cost() {
    let bed = Priced::make("too old", 0).await;
    let session = bed.session(json!({ "maxDuration": { "seconds": 2 } })).await;
    let agent = bed.agent(&session, json!({})).await;
    bed.until_stopped(&agent).await;
    let logs = bed.get(&format!("/v1/logs?agentId={agent}&level=warn")).await;
    let entry = &logs["data"][0];
    assert_eq!(entry["message"], "agent has reached a limit: maxDuration", "{logs}");
    let details = &entry["metadata"];
    assert_eq!(
        (&details["event"], &details["limit"], &details["max"]),
        (&json!("agent.limit"), &json!("maxDuration"), &json!(2))
    );
    let (status, refused) = bed.create(&session, json!({})).await;
    assert_eq!((status, &refused["error"]["details"]["limit"]), (402, &json!("maxDuration")));
    let shown = bed.get(&format!("/v1/sessions/{session}/limits")).await["maxDuration"].clone();
    assert_eq!((&shown["limit"], &shown["remaining"]), (&json!(2), &json!(0)));
    bed.terminate(&session).await;
}

#[tokio::test]
async fn a_limit_that_is_no_limit_is_refused_by_the_name_of_its_field() {
    let client = Platform::make("wrong limits").await.client;
    for (limits, field) in [
        (json!({ "maxCost": 5 }), "maxCost"),
        (json!({ "maxCost": { "currency": "usd", "period": "day" } }), "maxCost.amount"),
        (json!({ "maxCost": { "amount": 1.5, "period": "day" } }), "maxCost.amount"),
        (json!({ "maxCost": { "amount": -1, "period": "day" } }), "maxCost.amount"),
        (json!({ "maxCost": { "amount": 5, "currency": "eur", "period": "day" } }), "maxCost.currency"),
        (json!({ "maxCost": { "amount": 5, "currency": "usd" } }), "maxCost.period"),
        (json!({ "maxCost": { "amount": 5, "currency": "usd", "period": "year" } }), "maxCost.period"),
        (json!({ "maxComputeMinutes": "5" }), "maxComputeMinutes"),
        (json!({ "maxComputeMinutes": -5 }), "maxComputeMinutes"),
        (json!({ "maxDuration": "1h" }), "maxDuration"),
        (json!({ "maxDuration": {} }), "maxDuration"),
        (json!({ "maxDuration": { "hours": "1" } }), "maxDuration.hours"),
        (json!({ "maxDuration": { "seconds": 0.5 } }), "maxDuration.seconds"),
    ] {
        let refused = client.post("/v1/sessions", json!({ "limits": limits })).await;
        let refused = refused.expect_error(400, "invalid_request");
        assert_eq!(refused["details"]["field"], format!("limits.{field}"));
    }
    let session = client.session("u").await;
    for (cap, field) in [
        (json!(5), "costCap"),
        (json!({ "amount": 0, "currency": "usd" }), "costCap.amount"),
        (json!({ "amount": 5, "currency": "eur" }), "costCap.currency"),
    ] {
        let refused = client.post(&format!("/v1/sessions/{session}/agents"), json!({ "costCap": cap })).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], field);
    }
}

#[tokio::test]
async fn every_report_of_usage_tells_the_same_cost() {
    let bed = Priced::live("reports", CENT_A_MOMENT).await;
    let (status, session) = bed.call("POST", "/v1/sessions", json!({ "userId": "=u,1" })).await;
    assert_eq!(status, 201);
    let session = session["id"].as_str().unwrap().to_owned();
    let agent = bed.agent(&session, json!({})).await;
    let summary = bed.get("/v1/usage/summary?period=today").await;
    assert_eq!((&summary["activeSessions"], &summary["runningAgents"]), (&json!(1), &json!(1)), "{summary}");
    assert!(summary["totalCost"]["amount"].as_i64().unwrap() >= 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, _) = bed.call("POST", &format!("/v1/agents/{agent}/terminate"), Value::Null).await;
    assert_eq!(status, 200);

    let usage = bed.get(&format!("/v1/sessions/{session}/usage")).await;
    let (cost, minutes) = (usage["cost"].clone(), usage["computeMinutes"].clone());
    assert!(cost["amount"].as_i64().unwrap() >= 8, "{usage}");
    assert_eq!(bed.get(&format!("/v1/agents/{agent}/status")).await["cost"], cost);
    for period in ["week", "month"] {
        let summary = bed.get(&format!("/v1/usage/summary?period={period}")).await;
        let expected = json!({
            "totalCost": cost, "activeSessions": 0, "runningAgents": 0, "topUser": { "userId": "=u,1", "cost": cost },
        });
        assert_eq!(summary, expected, "{period}");
        assert_eq!(bed.get(&format!("/v1/usage/by-provider?period={period}")).await, json!({ "docker": cost }));
        let user = bed.get(&format!("/v1/usage/users/%3Du%2C1?period={period}")).await;
        assert_eq!((&user["compute"], &user["total"]), (&json!({ "minutes": minutes, "cost": cost }), &cost));
        assert_eq!(user["breakdown"][0]["total"], cost);
    }
    for (period, days) in [("last_7_days", 7), ("last_30_days", 30)] {
        let daily = bed.get(&format!("/v1/usage/daily?period={period}")).await;
        let daily = daily.as_array().unwrap();
        let today = &daily[days - 1];
        assert_eq!((daily.len(), &today["cost"], &today["computeMinutes"]), (days, &cost, &minutes));
    }
    let rows = bed.get("/v1/usage/export?format=json").await;
    assert_eq!((&rows[0]["userId"], &rows[0]["cost"], rows.as_array().unwrap().len()), (&json!("=u,1"), &cost, 1));
    let table = bed.get("/v1/usage/export").await;
    assert!(table.as_str().unwrap().contains(",\"'=u,1\",,"), "{table}");
    // Today is not over yet.
    assert_eq!(bed.get("/v1/usage/export?format=stripe").await, json!([]));
    for wrong in ["summary?period=year", "daily?period=month", "export?format=xml", "by-provider?period="] {
        let (status, refused) = bed.call("GET", &format!("/v1/usage/{wrong}"), Value::Null).await;
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("invalid_request")), "{wrong}");
    }
    bed.terminate(&session).await;
}
