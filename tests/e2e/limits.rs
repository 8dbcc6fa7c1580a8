//! Limits of money, minutes and age, and what agents cost: on the simulated provider, at prices of the test's own.

use crate::harness::{Platform, check_query, container_name, docker, dynamodb, incoming, stack};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_functions::deployment::{Deployment, DeploymentConfig};
use theazo_functions::reconcile::{Boots, Outcome, reconcile};
use theazo_functions::routes::ROUTES;
use theazo_functions::serve;
use theazo_local::Stack;
use theazo_store::{Aws, AwsEndpoints, now_ms};

/// A minute, which is what a start claims, costs a cent.
pub const CENT_A_MINUTE: u64 = 60_000_000;
/// A cent lasts some 36 milliseconds.
const CENT_A_MOMENT: u64 = 100_000_000_000;

/// The shared stack's table behind a deployment with its own price of simulated agents.
pub struct Priced {
    deployment: Deployment,
    pub platform: Platform,
    key: String,
    table: String,
}

impl Priced {
    /// For calls with a test key.
    pub async fn make(name: &str, rate: u64) -> Self {
        Self::live(name, rate).await.with_test_key()
    }

    /// For calls with a live key.
    pub async fn live(name: &str, rate: u64) -> Self {
        Self::on(tokio::task::spawn_blocking(stack).await.unwrap(), name, rate).await
    }

    /// The same on another stack.
    pub async fn on(stack: &Stack, name: &str, rate: u64) -> Self {
        let platform = Platform::make_on(stack, name).await;
        let endpoints = AwsEndpoints { dynamodb: stack.dynamodb_url(), kms: Some(stack.kms_url()) };
        let prices = json!({ "simulated": { "standard": rate }, "docker": { "standard": rate } }).to_string();
        let prices = theazo_metering::Prices::parse(&prices).unwrap();
        let config = DeploymentConfig { prices, ..stack.deployment().config().clone() };
        let key = platform.live_key.clone();
        let deployment = Deployment::new(&Aws::local(&endpoints), config);
        Self { deployment, platform, key, table: endpoints.dynamodb }
    }

    /// The same with the test key.
    pub fn with_test_key(self) -> Self {
        Self { key: self.platform.test_key.clone(), ..self }
    }

    /// One run of what is scheduled every minute.
    pub async fn reconcile(&self) -> Outcome {
        let outcome = reconcile(&self.deployment, Boots::UnderWay).await.unwrap();
        // Some entries of the log are written without anybody waiting for them.
        self.deployment.log_queue().flushed().await;
        outcome
    }

    /// The same once more, for another caller.
    fn again(&self) -> Self {
        let Platform { id, live_key, test_key, client } = &self.platform;
        let (live_key, test_key) = (live_key.clone(), test_key.clone());
        let platform = Platform { id: id.clone(), live_key, test_key, client: client.with_key(None) };
        Self { deployment: self.deployment.clone(), platform, key: self.key.clone(), table: self.table.clone() }
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let incoming = incoming(method, path, Some(&self.key), &body);
        let (response, _) = serve(&self.deployment, ROUTES, incoming).await;
        let status = response.status().as_u16();
        let text = String::from_utf8(response.into_body().collect().await.to_vec()).unwrap();
        check_query(method, path, status, &text);
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub async fn session(&self, limits: Value) -> String {
        let (status, session) = self.call("POST", "/v1/sessions", json!({ "limits": limits })).await;
        assert_eq!((status, &session["limits"]), (201, &limits), "{session}");
        session["id"].as_str().unwrap().to_owned()
    }

    async fn create(&self, session: &str, body: Value) -> (u16, Value) {
        self.call("POST", &format!("/v1/sessions/{session}/agents"), body).await
    }

    pub async fn agent(&self, session: &str, body: Value) -> String {
        let (status, agent) = self.create(session, body).await;
        assert_eq!(status, 201, "{agent}");
        agent["id"].as_str().unwrap().to_owned()
    }

    async fn status(&self, agent: &str) -> Value {
        self.get(&format!("/v1/agents/{agent}/status")).await["status"].clone()
    }

    /// Reconciles until the agent has stopped; the stack's own loop does the same now and then.
    pub async fn until_stopped(&self, agent: &str) {
        let started = Instant::now();
        while self.status(agent).await == "ready" {
            assert!(started.elapsed() < Duration::from_secs(60), "no limit stopped {agent}");
            self.reconcile().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes it as if agents had begun 61 seconds ago, and claimed their first minute then.
    pub async fn age(&self, mode: &str, session: &str, agents: &[String]) {
        let at = |ms: i64| json!({ "N": ms.to_string() });
        let ago = json!({ ":at": at(now_ms() - 61_000), ":claimed": at(now_ms() - 1_000) });
        let update = "SET meter.run.started_ms = :at, meter.run.booked_to_ms = :at, meter.run.claimed_to_ms = :claimed";
        join_all(agents.iter().map(|agent| self.change(mode, session, agent, update, ago.clone()))).await;
    }

    /// Changes all rows of an agent, as if time had passed.
    pub async fn change(&self, mode: &str, session: &str, agent: &str, update: &str, mut values: Value) {
        values[":one"] = json!({ "N": "1" });
        let tenant = format!("{}#{mode}", self.platform.id);
        for partition in ["agents", "live-agents", &format!("{session}#agents"), &format!("{session}#live-agents")] {
            let key = json!({ "pk": { "S": format!("{tenant}#{partition}") }, "sk": { "S": agent } });
            // As every change of a row does, so that one that is under way does not undo this one.
            let update = format!("{update} ADD revision :one");
            let mut change = json!({
                "TableName": "theazo", "Key": key, "UpdateExpression": update, "ExpressionAttributeValues": values,
                "ConditionExpression": "attribute_exists(pk)",
            });
            // Words that the table keeps for itself stand with a mark.
            let marked = update.split(|letter: char| !letter.is_alphanumeric() && !"#_".contains(letter));
            let names = marked.filter_map(|word| Some((word.to_owned(), json!(word.strip_prefix('#')?))));
            let names: serde_json::Map<String, Value> = names.collect();
            if !names.is_empty() {
                change["ExpressionAttributeNames"] = names.into();
            }
            dynamodb(&self.table, "UpdateItem", change).await;
        }
    }

    pub async fn terminate(&self, session: &str) {
        let (status, _) = self.call("POST", &format!("/v1/sessions/{session}/terminate"), Value::Null).await;
        assert_eq!(status, 200);
    }
}

/// So much money a day.
pub fn day(amount: u32) -> Value {
    json!({ "maxCost": { "amount": amount, "currency": "usd", "period": "day" } })
}

/// So much a month.
pub fn month(amount: u32) -> Value {
    json!({ "maxCost": { "amount": amount, "currency": "usd", "period": "month" } })
}

#[tokio::test]
async fn twenty_parallel_creates_against_one_cost_limit_are_never_one_too_many() {
    let bed = Priced::make("spends at once", CENT_A_MINUTE).await;
    for (limits, limit, max) in
        [(day(3), "maxCost", 3), (month(4), "maxCost", 4), (json!({ "maxComputeMinutes": 2 }), "maxComputeMinutes", 2)]
    {
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
    let file = json!({ "path": "/data/kept", "data": "kept" });
    assert_eq!(bed.call("POST", &format!("/v1/agents/{first}/files"), file).await.0, 204);
    bed.until_stopped(&first).await;
    assert_eq!(bed.status(&first).await, "paused");
    let (_, minted) = bed.call("POST", &format!("/v1/sessions/{session}/tokens"), json!({})).await;
    let token = Priced { key: minted["token"].as_str().unwrap().to_owned(), ..bed.again() };
    // Nobody resumes it, the session's user neither, while the limit stands; and that is what both are told.
    let resume = format!("/v1/agents/{first}/resume");
    for caller in [&bed, &token] {
        let (status, refused) = caller.call("POST", &resume, Value::Null).await;
        assert_eq!((status, &refused["error"]["details"]["limit"]), (402, &json!("maxCost")), "{refused}");
    }
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
    assert_eq!(token.call("POST", &resume, Value::Null).await.0, 200, "the limit allows it, and so may its user");
    assert_eq!(bed.get(&format!("/v1/agents/{first}/files/data/kept")).await["data"], "kept");
    assert_eq!(bed.call("POST", &format!("/v1/agents/{first}/terminate"), Value::Null).await.0, 200);
    bed.reconcile().await;
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
    assert_eq!((bed.status(&capped).await, bed.status(&other).await), (json!("paused"), json!("ready")));
    let (status, refused) = bed.call("POST", &format!("/v1/agents/{capped}/resume"), Value::Null).await;
    assert_eq!((status, &refused["error"]["details"]["limit"]), (402, &json!("costCap")), "{refused}");
    bed.terminate(&session).await;
}

#[tokio::test]
async fn minutes_and_a_months_money_pause_agents_that_run_as_well() {
    let bed = Priced::make("minutes", CENT_A_MOMENT).await;
    let session = bed.session(month(20)).await;
    let agent = bed.agent(&session, json!({})).await;
    bed.until_stopped(&agent).await;
    assert_eq!(bed.status(&agent).await, "paused");
    bed.terminate(&session).await;

    let session = bed.session(json!({ "maxComputeMinutes": 1 })).await;
    let agent = bed.agent(&session, json!({})).await;
    bed.age("test", &session, std::slice::from_ref(&agent)).await;
    bed.until_stopped(&agent).await;
    assert_eq!(bed.status(&agent).await, "paused");
    let (status, refused) = bed.call("POST", &format!("/v1/agents/{agent}/resume"), Value::Null).await;
    assert_eq!((status, &refused["error"]["details"]["limit"]), (402, &json!("maxComputeMinutes")), "{refused}");
    bed.terminate(&session).await;
}

#[tokio::test]
async fn a_sandbox_that_its_own_clock_stopped_for_a_limit_that_was_raised_since_is_paused_with_its_files() {
    let bed = Priced::live("raised meanwhile", 0).await;
    let session = bed.session(json!({ "maxDuration": { "hours": 1 } })).await;
    let [by_call, by_cleanup] = [bed.agent(&session, json!({})).await, bed.agent(&session, json!({})).await];
    let docker = docker().await;
    for agent in [&by_call, &by_cleanup] {
        let file = json!({ "path": "/data/kept", "data": "kept" });
        assert_eq!(bed.call("POST", &format!("/v1/agents/{agent}/files"), file).await.0, 204);
        // The time that the limit left is over for the sandbox, whose clock was set when it booted.
        bed.change("live", &session, agent, "SET allowed_ms = :ms", json!({ ":ms": { "N": "1" } })).await;
        docker.kill_container(&container_name(agent), None).await.unwrap();
        while docker.inspect_container(&container_name(agent), None).await.unwrap().state.unwrap().running == Some(true)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let (status, refused) = bed.call("GET", &format!("/v1/agents/{by_call}/files/data/kept"), Value::Null).await;
    // The stack's own clean-up may be pausing it at this moment.
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("conflict")), "{refused}");
    for agent in [&by_call, &by_cleanup] {
        bed.until_stopped(agent).await;
        assert_eq!(bed.status(agent).await, "paused");
        let logs = bed.get(&format!("/v1/logs?agentId={agent}&level=warn")).await;
        assert_eq!(logs["data"][0]["message"], "agent has reached a limit that held when its run began", "{logs}");
        let (status, resumed) = bed.call("POST", &format!("/v1/agents/{agent}/resume"), Value::Null).await;
        assert_eq!(status, 200, "{resumed}");
        assert_eq!(bed.get(&format!("/v1/agents/{agent}/files/data/kept")).await["data"], "kept");
    }
    bed.terminate(&session).await;
}

#[tokio::test]
async fn a_session_that_is_too_old_is_stopped_whatever_it_cost() {
    let bed = Priced::make("too old", 0).await;
    let session = bed.session(json!({ "maxDuration": { "seconds": 2 } })).await;
    let agent = bed.agent(&session, json!({})).await;
    bed.until_stopped(&agent).await;
    assert_eq!(bed.status(&agent).await, "paused");
    let resume = format!("/v1/agents/{agent}/resume");
    assert_eq!(bed.call("POST", &resume, Value::Null).await.0, 402);
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
    // Today is not over yet, and on other days nothing ran.
    assert_eq!(bed.get("/v1/usage/export?format=stripe").await, json!([]));
    for period in ["yesterday", "last_month"] {
        assert_eq!(bed.get(&format!("/v1/usage/export?period={period}&format=json")).await, json!([]), "{period}");
        let summary = bed.get(&format!("/v1/usage/summary?period={period}")).await;
        assert_eq!(summary["totalCost"]["amount"], 0, "{period}");
    }
    for wrong in ["summary?period=year", "daily?period=month", "export?format=xml", "by-provider?period="] {
        let (status, refused) = bed.call("GET", &format!("/v1/usage/{wrong}"), Value::Null).await;
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("invalid_request")), "{wrong}");
    }
    bed.terminate(&session).await;
}
