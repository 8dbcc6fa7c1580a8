//! The authorisation matrix: every route of the route table, for every kind of caller, with the exact status.

mod table;
mod world;

use crate::harness::{Answer, Platform, fail_agent, sha256};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};
use table::{Caller, FAIL, NAMING, Row, TABLE, Target};
use theazo_functions::routes::{ROUTES, Route};
use theazo_http::{Caller as Kind, format_time};
use theazo_tenancy::{AgentId, KeyId, Mode, PlatformId, SessionId, make_agent_token, make_api_key, make_session_token};
pub use world::agent_token;
use world::{World, callers, mint};

/// The routes, each with its line.
fn lines() -> impl Iterator<Item = (&'static Route, &'static Row)> {
    ROUTES.iter().map(|route| {
        let row = TABLE.iter().find(|row| row.route == route.info.name);
        (*route, row.unwrap_or_else(|| panic!("{} has no line in the authorisation matrix", route.info.name)))
    })
}

#[test]
fn every_route_has_a_line_in_the_matrix_and_every_line_a_route() {
    assert_eq!(lines().count(), TABLE.len());
    let names: BTreeSet<_> = TABLE.iter().map(|row| row.route).collect();
    assert_eq!(names, ROUTES.iter().map(|route| route.info.name).collect());
    // The lines say the same as the route table, where that says it.
    for (route, row) in lines() {
        for (kinds, caller) in
            [(Kind::Platform, Caller::Own), (Kind::Session, Caller::Exec), (Kind::Agent, Caller::Agent)]
        {
            let may = route.info.callers.contains(&kinds) || route.info.callers.contains(&Kind::Anyone);
            let does = callers(row.statuses, true).any(|(other, _)| other == caller);
            assert_eq!(may, does, "{} by {caller:?}", row.route);
        }
    }
}

#[tokio::test]
async fn every_owner_succeeds_on_every_route_that_serves_their_kind() {
    let world = World::make("owners").await;
    let (test, live) = tokio::join!(world.owned(Mode::Test), world.owned(Mode::Live));
    let mut succeeded = 0;
    for (mode, (route, row)) in
        [Mode::Test, Mode::Live].into_iter().flat_map(|mode| lines().map(move |line| (mode, line)))
    {
        let reads = route.info.method == "GET";
        for (caller, status) in callers(row.statuses, true).filter(|(caller, _)| caller.calls_for(mode)) {
            // Agents that run take their time: what a token or a stranger may change is tried on test agents.
            let by_key = [Caller::Own, Caller::TestOnLive].contains(&caller);
            if mode == Mode::Live && !reads && !by_key {
                continue;
            }
            // What changes something of the target has one of its own.
            let fresh = if reads || caller.is_of_other_mode() { None } else { Some(world.owned(mode).await) };
            let shared = if mode == Mode::Test { &test } else { &live };
            let owned = fresh.as_ref().unwrap_or(shared);
            let target = &owned.target;
            let client = world.test().with_key(Some(world.credential(caller, owned)));
            for (method, path, body) in row.before {
                if *method == FAIL {
                    fail_agent(&world.platform.id, mode, &target.fill(path)).await;
                    continue;
                }
                let body = target.body(body);
                let answer = client.call(method, &target.fill(path), body.as_ref()).await;
                assert!(answer.status < 300, "{} before {}: {answer:?}", path, row.route);
            }
            let path = target.path(route.info.pattern.0);
            let body = target.body(row.body);
            let answer = world.ask_with(route, &path, world.credential(caller, owned), body.as_ref()).await;
            assert_eq!(answer.status, status, "{} by {caller:?}, {mode:?}: {answer:?}", row.route);
            // Others succeed with what is theirs, and see nothing of the target's; but a live key has the test keys too.
            if caller.is_foreign() {
                let key = (caller != Caller::LiveOnTest).then_some(&target.key);
                for id in [&target.session, &target.agent].into_iter().chain(key) {
                    assert!(!answer.text.contains(id.as_str()), "{} by {caller:?}: {answer:?}", row.route);
                }
            }
            succeeded += 1;
            if let Some(fresh) = fresh.filter(|_| mode == Mode::Live) {
                world.platform.client.terminate(&fresh.target.session).await;
            }
        }
    }
    assert!(succeeded > 3 * ROUTES.len(), "{succeeded} cells");
    world.test().get("/v1/whoami").await.expect(200);
    world.end(Some(&live.target)).await;
}

#[tokio::test]
async fn what_is_not_the_callers_is_refused_exactly_as_if_it_did_not_exist() {
    let world = World::make("refusals").await;
    let (live, test) = tokio::join!(world.owned(Mode::Live), world.owned(Mode::Test));
    let before = world.state([&live.target, &test.target]).await;
    // Also where the request itself is wrong: the answer tells nothing of what it names.
    let wrong =
        [json!([1]), json!({ "language": 5, "path": 5, "maxAgents": "x", "timeout": "x", "OWN": 5, "name": 5 })];
    let (mut refused, mut compared) = (0, 0);
    for ((route, row), owned) in lines().flat_map(|line| [(line, &live), (line, &test)]) {
        let (name, pattern, target) = (row.route, route.info.pattern.0, &owned.target);
        let absent = nothing_of(target);
        let no_id = || "no-id".to_owned();
        let malformed = Target { session: no_id(), agent: no_id(), key: no_id(), ..absent.clone() };
        for (caller, status) in callers(row.statuses, false).filter(|(caller, _)| caller.calls_for(owned.mode)) {
            let credential = world.credential(caller, owned);
            let path = target.path(pattern);
            let body = target.body(row.body);
            let foreign = world.ask_with(route, &path, credential, body.as_ref()).await;
            assert_eq!(foreign.status, status, "{name} by {caller:?}: {foreign:?}");
            refused += 1;
            let (nowhere, nothing) = (absent.path(pattern), absent.body(row.body));
            let names_nothing = path == nowhere && body == nothing;
            if names_nothing || !caller.is_foreign() {
                continue;
            }
            let there_is_none = world.ask_with(route, &nowhere, credential, nothing.as_ref()).await;
            assert_same(name, caller, &foreign, &there_is_none);
            let odd = world.ask_with(route, &malformed.path(pattern), credential, body.as_ref()).await;
            // What cannot be an id is not even looked for; the local stack's count of round trips tells so, and nothing
            // else.
            assert_eq!(
                (odd.status, odd.without_request_id()),
                (status, foreign.without_request_id()),
                "{name} {caller:?}"
            );
            for wrong in &wrong {
                let foreign = world.ask_with(route, &path, credential, Some(wrong)).await;
                let there_is_none = world.ask_with(route, &nowhere, credential, Some(wrong)).await;
                assert!(foreign.status >= 400, "{name} by {caller:?}: {foreign:?}");
                assert_same(name, caller, &foreign, &there_is_none);
            }
            compared += 1;
        }
    }
    // Every cell, and but for the two callers who are of the other mode, for live things and for test ones.
    let cells = lines().flat_map(|(_, row)| callers(row.statuses, false));
    let cells: usize = cells.map(|(caller, _)| if caller.is_of_other_mode() { 1 } else { 2 }).sum();
    assert_eq!(refused, cells);
    assert!(compared > 200, "{compared} cells were compared");
    assert_eq!(world.state([&live.target, &test.target]).await, before);
    world.end(Some(&live.target)).await;
}

/// What nobody has, beside a target.
fn nothing_of(target: &Target) -> Target {
    Target {
        session: SessionId::make().to_string(),
        agent: AgentId::make().to_string(),
        key: KeyId::make().to_string(),
        secret: "ABSENT".into(),
        shared: "ABSENT".into(),
        credential: "ABSENT".into(),
        // Every provider's name is known; whose are configured is not.
        provider: target.provider.clone(),
        config: target.config.clone(),
        user: "nobody".into(),
    }
}

#[tokio::test]
async fn where_everybody_is_answered_what_they_name_of_somebody_elses_is_as_if_it_did_not_exist() {
    let world = World::make("named").await;
    let (live, test) = tokio::join!(world.owned(Mode::Live), world.owned(Mode::Test));
    let mut compared = 0;
    for ((name, query), owned) in named().flat_map(|named| [(named, &live), (named, &test)]) {
        let absent = nothing_of(&owned.target);
        let (route, row) = lines().find(|(_, row)| row.route == name).unwrap();
        let path = |target: &Target| target.path(route.info.pattern.0) + &target.fill(query);
        let ask = async |caller: Caller, target: &Target| {
            let mut answer = world.ask_with(route, &path(target), world.credential(caller, owned), None).await;
            // That it says what it was asked for is no difference.
            answer.text = answer.text.replace(&target.user, "USER");
            answer.headers.remove("content-length");
            answer
        };
        let callers = callers(row.statuses, true).map(|(caller, _)| caller);
        for caller in callers.filter(|caller| caller.is_foreign() && caller.calls_for(owned.mode)) {
            // Test keys are the live key's as well.
            if query.contains("$key") && caller == Caller::LiveOnTest {
                continue;
            }
            assert_same(name, caller, &ask(caller, &owned.target).await, &ask(caller, &absent).await);
            compared += 1;
        }
        // To its owner it is there; but test agents cost nothing.
        if !(name == "usage-user" && owned.mode == Mode::Test) {
            let (own, none) = (ask(Caller::Own, &owned.target).await, ask(Caller::Own, &absent).await);
            assert_ne!(own.text, none.text, "{name}{query}");
        }
    }
    assert!(compared > 60, "{compared} cells were compared");
    world.end(Some(&live.target)).await;
}

/// What routes that answer to everybody can be asked about somebody's things, each with the route's name.
fn named() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMING.iter().flat_map(|(name, queries)| queries.iter().map(|query| (*name, *query)))
}

#[track_caller]
fn assert_same(route: &str, caller: Caller, one: &Answer, other: &Answer) {
    let told = |answer: &Answer| (answer.status, answer.without_request_id());
    assert_eq!(told(one), told(other), "{route} by {caller:?}");
    // The number of round trips, which the local stack tells, is among the headers.
    let headers = |answer: &Answer| {
        let own = ["x-request-id", "date"];
        answer.headers.clone().into_iter().filter(|(name, _)| !own.contains(&name.as_str())).collect::<Vec<_>>()
    };
    assert!(one.headers.contains_key("x-theazo-round-trips"));
    assert_eq!(headers(one), headers(other), "{route} by {caller:?}");
}

/// Every `Authorization` header that is not good, by what is wrong with it.
async fn bad_credentials(world: &World, target: &Target) -> Vec<(&'static str, Option<String>)> {
    let (platform, client) = (&world.platform, &world.platform.client);
    let good = platform.live_key.as_str();
    let mut wrong_checksum = good.to_owned();
    let last = wrong_checksum.pop().unwrap();
    wrong_checksum.push(if last == '0' { '1' } else { '0' });
    let soon = SystemTime::now() + Duration::from_millis(1500);
    let soon = i64::try_from(soon.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let make = |body: Value| async move { client.post("/v1/api-keys", body).await.expect(201) };
    let revoked = make(json!({ "name": "revoked", "environment": "live" })).await;
    let expired = make(json!({ "name": "expired", "environment": "live", "expiresAt": format_time(soon) })).await;
    client.delete(&format!("/v1/api-keys/{}", revoked["id"].as_str().unwrap())).await.expect(204);
    let test = world.test();
    let (revoked_session, over) = (test.session("revoked").await, test.session("over").await);
    let revoked_token = mint(&test, &revoked_session, json!({})).await;
    test.delete(&format!("/v1/sessions/{revoked_session}/tokens")).await.expect(204);
    let orphan = mint(&test, &over, json!({})).await;
    test.terminate(&over).await;
    let ended = test.boot(&target.session, json!({})).await;
    let ended_token = agent_token(&platform.id, &target.session, &ended).await;
    test.call("POST", &format!("/v1/agents/{ended}/terminate"), None).await.expect(200);
    let expired_token = mint(&test, &target.session, json!({ "expiresIn": "1s" })).await;
    tokio::time::sleep(Duration::from_millis(1600)).await;

    let bearer = |key: &str| Some(format!("Bearer {key}"));
    let shown = |made: &Value| bearer(made["key"].as_str().unwrap());
    let (session, agent) = (SessionId::parse(&target.session).unwrap(), AgentId::parse(&target.agent).unwrap());
    vec![
        ("none", None),
        ("malformed: empty", Some(String::new())),
        ("malformed: no key", Some("Bearer".into())),
        ("malformed: an empty key", Some("Bearer ".into())),
        ("malformed: short", bearer("x")),
        ("malformed: a prefix", bearer("th_live_")),
        ("malformed: no scheme", Some(good.into())),
        ("malformed: Basic", Some(format!("Basic {good}"))),
        ("malformed: Token", Some(format!("Token {good}"))),
        ("malformed: longer", Some(format!("Bearer {good}x"))),
        ("malformed: twice", Some(format!("Bearer {good}, Bearer {good}"))),
        ("malformed: uppercase", bearer(&good.to_uppercase())),
        ("malformed: its hash", bearer(&sha256(good))),
        ("a bad checksum", bearer(&wrong_checksum)),
        ("a bad checksum: of the other mode", bearer(&good.replace("th_live_", "th_test_"))),
        ("unknown", bearer(&make_api_key(&platform.id, Mode::Live).text)),
        ("unknown, test", bearer(&make_api_key(&platform.id, Mode::Test).text)),
        ("unknown, another's", bearer(&make_api_key(&world.stranger.id, Mode::Live).text)),
        ("unknown, nobody's", bearer(&make_api_key(&PlatformId::make(), Mode::Live).text)),
        ("unknown, a session's", bearer(&make_session_token(&platform.id, Mode::Test, &session).text)),
        ("revoked", shown(&revoked)),
        ("revoked, a session's", bearer(&revoked_token)),
        ("unknown, an agent's", bearer(&make_agent_token(&platform.id, Mode::Test, &session, &agent).text)),
        ("of an agent that has ended", bearer(&ended_token)),
        ("expired", shown(&expired)),
        ("expired, a session's", bearer(&expired_token)),
        ("of a session that is over", bearer(&orphan)),
    ]
}

#[tokio::test]
async fn every_bad_credential_gets_one_answer_on_every_route_before_anything_else_is_said() {
    let world = World::make("bad credentials").await;
    let target = world.target(Mode::Test).await;
    let bad = bad_credentials(&world, &target).await;
    let absent = (SessionId::make().to_string(), AgentId::make().to_string());
    let absent = Target { session: absent.0, agent: absent.1, key: KeyId::make().to_string(), ..target.clone() };
    let malformed = Target { session: "no-id".into(), agent: "no-id".into(), key: "no-id".into(), ..target.clone() };
    let mut one_answer: Option<String> = None;
    for (route, row) in lines() {
        let (name, pattern) = (row.route, route.info.pattern.0);
        let own = target.path(pattern);
        if route.info.callers.contains(&Kind::Anyone) {
            assert_eq!(world.ask(route, &own, None, None).await.status, 200, "{name}");
            continue;
        }
        for (index, (what, credential)) in bad.iter().enumerate() {
            // In a path there is no scheme.
            if route.info.has_credential_in_path() && *what == "malformed: no scheme" {
                continue;
            }
            // Every credential meets the owner's good request; the requests that are wrong themselves take turns.
            let odd = match index % 3 {
                0 => (absent.path(pattern), "{".to_owned()),
                1 => {
                    let query = "?limit=x&cursor=x&status=x&offset=x&details=x";
                    (malformed.path(pattern) + query, "[1]".to_owned())
                }
                _ => (own.clone() + "?limit=%ff", "{\"language\": 5, \"timeout\": [], \"A\": null}".to_owned()),
            };
            let good = (own.clone(), target.body(row.body).map(|body| body.to_string()).unwrap_or_default());
            let mut trips = BTreeSet::new();
            for (path, body) in [good, odd] {
                let answer = world.ask(route, &path, credential.as_deref(), Some(body)).await;
                assert_eq!(answer.status, 401, "{name} {path}, {what}: {answer:?}");
                let told = answer.without_request_id();
                assert_eq!(&told, one_answer.get_or_insert_with(|| told.clone()), "{name} {path}, {what}");
                trips.insert(answer.round_trips());
            }
            assert_eq!(trips.len(), 1, "{name}, {what}: what is named makes a difference");
        }
    }
    let error: Value = serde_json::from_str(&one_answer.unwrap()).unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["details"]), (&json!("unauthorized"), &json!({})));
    // The good ones were good all along.
    let platform: &Platform = &world.platform;
    for key in [&platform.live_key, &platform.test_key] {
        platform.client.with_key(Some(key)).get("/v1/whoami").await.expect(200);
    }
    assert_eq!(world.test().get(&format!("/v1/sessions/{}", target.session)).await.expect(200)["status"], "active");
    world.end(None).await;
}
