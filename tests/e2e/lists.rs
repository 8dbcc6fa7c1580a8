//! Lists: pages, filters, and cursors that work only where they were given.

use crate::harness::{Client, Platform, UNHEARD_OF};
use serde_json::{Value, json};
use std::collections::HashSet;
use theazo_functions::routes::ROUTES;

async fn make_sessions(client: &Client, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for index in 0..count {
        let body = json!({ "userId": format!("user-{}", index % 2) });
        ids.push(client.post("/v1/sessions", body).await.expect(201)["id"].as_str().unwrap().to_owned());
        // Ids made in one millisecond have no order among themselves.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    ids
}

fn ids(page: &Value) -> Vec<String> {
    page["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_are_newest_first_and_neither_skip_nor_repeat_while_others_are_made() {
    let platform = Platform::make("pages").await;
    let client = &platform.client;
    let made = make_sessions(client, 7).await;
    for limit in [1, 2, 3, 7, 100] {
        let mut seen = Vec::new();
        let mut path = format!("/v1/sessions?limit={limit}");
        loop {
            let page = client.get(&path).await.expect(200);
            assert!(page["data"].as_array().unwrap().len() <= limit);
            seen.extend(ids(&page).into_iter().filter(|id| made.contains(id)));
            assert_eq!(page["hasMore"].as_bool().unwrap(), page["cursor"].is_string());
            let Some(cursor) = page["cursor"].as_str() else { break };
            path = format!("/v1/sessions?limit={limit}&cursor={cursor}");
            client.post("/v1/sessions", json!({})).await.expect(201);
        }
        let newest_first: Vec<_> = made.iter().rev().cloned().collect();
        assert_eq!(seen, newest_first, "limit {limit}");
    }
}

#[tokio::test]
async fn filters_select_and_unknown_ones_are_refused() {
    let platform = Platform::make("filters").await;
    let client = &platform.client;
    let made = make_sessions(client, 5).await;
    client.terminate(&made[0]).await;
    let find =
        |query: &'static str| async move { ids(&client.get(&format!("/v1/sessions?{query}")).await.expect(200)) };
    assert_eq!(find("status=terminated").await, [made[0].clone()]);
    assert_eq!(find("userId=user-1").await, [made[3].clone(), made[1].clone()]);
    assert_eq!(find("userId=user-0&status=active&limit=1").await, [made[4].clone()]);
    assert_eq!(find("userId=nobody").await, Vec::<String>::new());
    let after = client.get(&format!("/v1/sessions/{}", made[2])).await.expect(200);
    let after = after["createdAt"].as_str().unwrap();
    let later = client.get(&format!("/v1/sessions?createdAfter={after}")).await.expect(200);
    assert_eq!(ids(&later), [made[4].clone(), made[3].clone()]);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=-1", "limit"),
        ("status=gone", "status"),
        ("createdAfter=yesterday", "createdAfter"),
        ("cursor=", "cursor"),
        ("cursor=!", "cursor"),
        ("userId=%ff", "query"),
    ] {
        let refused = client.get(&format!("/v1/sessions?{query}")).await.expect_error(400, "invalid_request");
        assert_eq!(refused["details"]["field"], field, "{query}");
    }
}

#[tokio::test]
async fn a_cursor_works_only_for_the_list_that_gave_it() {
    let platform = Platform::make("cursors").await;
    let stranger = Platform::make("cursor thief").await;
    let client = &platform.client;
    make_sessions(client, 3).await;
    make_sessions(&stranger.client, 3).await;
    let cursor = client.get("/v1/sessions?limit=1&status=active").await.expect(200)["cursor"].clone();
    let cursor = cursor.as_str().unwrap();
    client.get(&format!("/v1/sessions?limit=2&status=active&cursor={cursor}")).await.expect(200);

    let refused = async |client: &Client, path: String| {
        let error = client.get(&path).await.expect_error(400, "invalid_request");
        assert_eq!(error["details"]["field"], "cursor", "{path}");
    };
    refused(&stranger.client, format!("/v1/sessions?status=active&cursor={cursor}")).await;
    refused(&client.with_key(Some(&platform.test_key)), format!("/v1/sessions?status=active&cursor={cursor}")).await;
    refused(client, format!("/v1/sessions?cursor={cursor}")).await;
    refused(client, format!("/v1/sessions?status=paused&cursor={cursor}")).await;
    refused(client, format!("/v1/agents?status=ready&cursor={cursor}")).await;
    refused(client, format!("/v1/agents?cursor={cursor}")).await;
    refused(client, format!("/v1/sessions?status=active&cursor={}", "A".repeat(10_000))).await;
    for index in 0..cursor.len() {
        let mut changed = cursor.as_bytes().to_vec();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let answer = client.get(&format!("/v1/sessions?status=active&cursor={changed}")).await;
        assert_eq!(answer.expect_error(400, "invalid_request")["details"]["field"], "cursor", "character {index}");
    }
}

#[tokio::test]
async fn no_list_takes_the_cursor_of_another_list_platform_or_mode() {
    let platform = Platform::make("cursors of all lists").await;
    let stranger = Platform::make("thief of all cursors").await;
    let test = platform.client.with_key(Some(&platform.test_key));
    let strangers_test = stranger.client.with_key(Some(&stranger.test_key));
    let session = make_sessions(&test, 2).await.remove(0);
    for _ in 0..2 {
        test.boot(&session, json!({})).await;
    }
    test.post("/v1/api-keys", json!({ "name": "second", "environment": "test" })).await.expect(201);
    let paged = ROUTES.iter().filter(|route| route.info.query.contains(&"cursor"));
    let path = |pattern: &str| pattern.replace("{id}", &session);
    let paths: Vec<String> = paged.map(|route| path(route.info.pattern.0)).collect();
    assert!(paths.len() > 5, "{paths:?}");
    let mut cursors = Vec::new();
    for path in &paths {
        let page = test.get(&format!("{path}?limit=1")).await.expect(200);
        assert_eq!(page["hasMore"], true, "{path}");
        cursors.push(page["cursor"].as_str().unwrap().to_owned());
    }
    for (path, own) in paths.iter().zip(&cursors) {
        for cursor in &cursors {
            let path = format!("{path}?cursor={cursor}");
            if cursor == own {
                test.get(&path).await.expect(200);
                // A session that is not theirs has no list of theirs.
                let status = if path.contains(&session) { 404 } else { 400 };
                for other in [&platform.client, &stranger.client, &strangers_test] {
                    let refused = other.get(&path).await;
                    assert_eq!(refused.status, status, "{path}: {refused:?}");
                    assert!(status == 404 || refused.json()["error"]["details"]["field"] == "cursor", "{refused:?}");
                }
            } else {
                test.get(&path).await.expect_invalid("cursor");
            }
        }
    }
}

#[tokio::test]
async fn agents_are_listed_for_the_platform_and_for_their_session() {
    let platform = Platform::make("agent lists").await;
    let client = &platform.client;
    let (one, two) = (client.session("one").await, client.session("two").await);
    let first = client.boot(&one, json!({ "compute": "node" })).await;
    let second = client.boot(&one, json!({})).await;
    let third = client.boot(&two, json!({})).await;
    client.call("POST", &format!("/v1/agents/{first}/terminate"), None).await.expect(200);
    let list = async |path: &str| -> HashSet<String> { ids(&client.get(path).await.expect(200)).into_iter().collect() };
    let set = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<HashSet<_>>();
    assert_eq!(list("/v1/agents").await, set(&[&first, &second, &third]));
    assert_eq!(list(&format!("/v1/sessions/{one}/agents")).await, set(&[&first, &second]));
    assert_eq!(list(&format!("/v1/sessions/{one}/agents?status=ready")).await, set(&[&second]));
    assert_eq!(list("/v1/agents?compute=node&provider=docker").await, set(&[&first]));
    assert_eq!(list("/v1/agents?provider=fly").await, set(&[]));
    let page = client.get(&format!("/v1/sessions/{one}/agents?limit=1")).await.expect(200);
    let cursor = page["cursor"].as_str().unwrap();
    let other = client.get(&format!("/v1/sessions/{two}/agents?limit=1&cursor={cursor}")).await;
    assert_eq!(other.expect_error(400, "invalid_request")["details"]["field"], "cursor");
    for bad in ["status=gone", "provider=aws", "compute=cobol"] {
        client.get(&format!("/v1/agents?{bad}")).await.expect_error(400, "invalid_request");
    }
    client.terminate(&one).await;
    client.terminate(&two).await;
}

#[tokio::test]
async fn agents_are_walked_newest_first_and_their_cursors_stay_with_their_list() {
    let platform = Platform::make("agent pages").await;
    let client = &platform.client;
    let (one, two) = (client.session("one").await, client.session("two").await);
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(client.boot(&one, json!({})).await);
    }
    let own = format!("/v1/sessions/{one}/agents");
    for list in ["/v1/agents", own.as_str()] {
        let mut seen = Vec::new();
        let mut next = String::new();
        for _ in 0..3 {
            let page = client.get(&format!("{list}?status=ready&limit=1{next}")).await.expect(200);
            seen.extend(ids(&page));
            next = page["cursor"].as_str().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        }
        let newest_first: Vec<_> = made.iter().rev().cloned().collect();
        assert_eq!((seen, next.as_str()), (newest_first, ""), "{list}");
    }
    let cursor_of = async |list: &str| {
        let page = client.get(&format!("{list}?limit=1")).await.expect(200);
        page["cursor"].as_str().unwrap().to_owned()
    };
    let (of_all, of_one) = (cursor_of("/v1/agents").await, cursor_of(&own).await);
    for (path, cursor) in [
        (own.clone(), &of_all),
        ("/v1/agents".to_owned(), &of_one),
        (format!("/v1/sessions/{two}/agents"), &of_one),
        ("/v1/sessions".to_owned(), &of_all),
    ] {
        client.get(&format!("{path}?limit=1&cursor={cursor}")).await.expect_invalid("cursor");
    }
    let own_row = client.get(&format!("{own}?limit=1")).await.expect(200)["data"][0].clone();
    assert_eq!(own_row, client.get(&format!("/v1/agents/{}", made[2])).await.expect(200));
    client.terminate(&one).await;
}

#[tokio::test]
async fn a_cursor_that_is_cut_lengthened_or_forged_is_refused_by_name() {
    let client = Platform::make("forged cursors").await.client;
    make_sessions(&client, 2).await;
    let page = client.get("/v1/sessions?limit=1").await.expect(200);
    let cursor = page["cursor"].as_str().unwrap();
    client.get(&format!("/v1/sessions?cursor={cursor}")).await.expect(200);
    let (most, last) = cursor.split_at(cursor.len() - 1);
    let other_last: String = if last == "A" { "B".into() } else { "A".into() };
    let mut forged = vec![format!("{most}{other_last}"), most.to_owned(), format!("{cursor}A"), format!("{cursor}%3D")];
    // Well-formed, with positions up to and past the longest sort key; none of them is ours.
    forged.extend([32, 33, 64, 1056, 1057, 1500, 7_500].map(|bytes: usize| "A".repeat(bytes.div_ceil(3) * 4)));
    for text in forged {
        client.get(&format!("/v1/sessions?cursor={text}")).await.expect_invalid("cursor");
    }
    // As with any other parameter, the last of several counts.
    client.get(&format!("/v1/sessions?cursor={cursor}&cursor=x")).await.expect_invalid("cursor");
}

#[tokio::test]
async fn an_empty_list_has_no_cursor_and_a_limit_is_from_1_to_100() {
    let client = Platform::make("empty lists").await.client;
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    for path in
        ["/v1/agents", agents.as_str(), "/v1/sessions?status=paused", &format!("/v1/agents?limit=100&{UNHEARD_OF}=1")]
    {
        assert_eq!(client.get(path).await.expect(200), json!({ "data": [], "hasMore": false }), "{path}");
    }
    for path in ["/v1/agents", agents.as_str(), "/v1/sessions"] {
        for bad in ["0", "101", "-1", "1.5", "ten", "", "%2B5", "99999999999999999999"] {
            client.get(&format!("{path}?limit={bad}")).await.expect_invalid("limit");
        }
    }
    for bad in ["2026-01-01", "0", "now", ""] {
        client.get(&format!("/v1/sessions?createdAfter={bad}")).await.expect_invalid("createdAfter");
    }
    for (filter, bad) in [("status", "Ready"), ("provider", ""), ("compute", "python3")] {
        client.get(&format!("/v1/agents?{filter}={bad}")).await.expect_invalid(filter);
    }
    let of_any_zone = client.get("/v1/sessions?createdAfter=2020-01-01T02:00:00%2B02:00").await.expect(200);
    assert_eq!(ids(&of_any_zone), [session]);
    assert_eq!(client.get("/v1/sessions?createdAfter=2999-01-01T00:00:00Z").await.expect(200)["data"], json!([]));
}
