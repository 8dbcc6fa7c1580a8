//! Deleting a platform and replaying deletions after a restore, by the command.

use crate::local::{Local, stderr, stdout, text};
use serde_json::{Value, json};

async fn make_table(local: &Local, name: &str) {
    let key = json!([{ "AttributeName": "pk", "KeyType": "HASH" }, { "AttributeName": "sk", "KeyType": "RANGE" }]);
    let attributes =
        json!([{ "AttributeName": "pk", "AttributeType": "S" }, { "AttributeName": "sk", "AttributeType": "S" }]);
    let table = json!({
        "TableName": name, "KeySchema": key, "AttributeDefinitions": attributes, "BillingMode": "PAY_PER_REQUEST",
    });
    local.dynamodb("CreateTable", table).await;
}

/// A platform with a session and secrets of both.
async fn platform(local: &Local) -> Platform {
    let made = local.json(&["platform", "create", "acme"]).await;
    let (id, key, test_key) = (made["id"].clone(), made["liveKey"].clone(), made["testKey"].clone());
    local.done(&key, "POST", "/secrets", Some(json!({ "SHARED": "s", "OLD": "o" }))).await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let session = local.done(&key, "POST", "/sessions", Some(json!({}))).await["id"].clone();
        let path = format!("/sessions/{}/secrets", text(&session));
        local.done(&key, "POST", &path, Some(json!({ "A": "a", "B": "b" }))).await;
        sessions.push(text(&session).to_owned());
    }
    Platform { id: text(&id).to_owned(), key, test_key, sessions }
}

struct Platform {
    id: String,
    key: Value,
    test_key: Value,
    sessions: Vec<String>,
}

/// How many sealed values lie under partitions that begin so.
fn sealed(rows: &[Value], prefix: &str) -> usize {
    rows.iter().filter(|row| text(&row["pk"]["S"]).starts_with(prefix) && row.get("blob").is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_is_deleted_only_when_that_is_said_twice_and_then_at_once() {
    let local = Local::start().await;
    let (gone, other) = (platform(&local).await, platform(&local).await);
    let before = local.rows("theazo").await;
    let output = local.admin(&["platform", "delete", &gone.id]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--yes") && stderr(&output).contains(&gone.id), "{}", stderr(&output));
    assert_eq!(local.rows("theazo").await.len(), before.len());
    let absent = format!("plt_{}", "0".repeat(26));
    let output = local.admin(&["platform", "delete", &absent, "--yes"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("there is no platform"), "{}", stderr(&output));

    let output = local.admin(&["platform", "delete", &gone.id, "--yes"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("deleting") && stderr(&output).contains("scheduled clean-up"));
    // Whoever waits is told how far it is.
    let ended = format!("{} sessions have ended", gone.sessions.len());
    assert!(stderr(&output).contains(&ended), "{}", stderr(&output));
    for key in [&gone.key, &gone.test_key] {
        assert_eq!(local.call(key, "GET", "/whoami", None).await.0, 401);
    }
    for key in [&other.key, &other.test_key] {
        assert_eq!(local.call(key, "GET", "/whoami", None).await.0, 200);
    }
    let after = local.rows("theazo").await;
    assert_eq!(sealed(&after, &gone.id), 0);
    assert_eq!(sealed(&after, &other.id), sealed(&before, &other.id));

    // Until it is finished, the list says so; so does repeating the command.
    let listed = local.json(&["platform", "list"]).await;
    let line = |id: &str| listed.as_array().unwrap().iter().find(|platform| platform["id"] == id).unwrap().clone();
    assert!(text(&line(&gone.id)["deletedAt"]).ends_with('Z'));
    assert!(line(&other.id).get("deletedAt").is_none());
    let again = local.json(&["platform", "delete", &gone.id, "--yes"]).await;
    assert_eq!((&again["status"], &again["agents"]), (&json!("deleting"), &json!(0)));
    let output = local.admin(&["platform", "list"]).await;
    let lines: Vec<_> = stdout(&output).lines().filter(|line| line.contains("deleting")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with(&gone.id), "{}", stdout(&output));
    let output = local.admin(&["key", "create", &gone.id, "--environment", "live"]).await;
    assert_eq!(output.status.code(), Some(1));

    // The scheduled clean-up goes on with it, and with its sessions.
    let reconcile = theazo_functions::reconcile::reconcile;
    let outcome = reconcile(local.stack().deployment(), theazo_functions::reconcile::Boots::UnderWay).await.unwrap();
    assert_eq!(outcome.postponed, 0, "{outcome:?}");
    let work = local.rows("theazo").await.into_iter().filter(|row| text(&row["pk"]["S"]).starts_with("work#"));
    let work: Vec<_> = work.map(|row| text(&row["sk"]["S"]).to_owned()).collect();
    assert_eq!(work, [format!("platform#{}", gone.id)]);
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_replayed_on_a_restored_table() {
    let local = Local::start().await;
    let (kept, gone) = (platform(&local).await, platform(&local).await);
    let (live, over) = (&kept.sessions[0], &kept.sessions[1]);

    let backup = local.rows("theazo").await;
    local.done(&kept.key, "DELETE", "/secrets/OLD", None).await;
    local.done(&kept.key, "DELETE", &format!("/sessions/{live}/secrets/A"), None).await;
    local.done(&kept.key, "POST", &format!("/sessions/{over}/terminate"), None).await;
    local.json(&["platform", "delete", &gone.id, "--yes"]).await;
    make_table(&local, "restored").await;
    for row in &backup {
        local.dynamodb("PutItem", json!({ "TableName": "restored", "Item": row })).await;
    }

    let replay = ["restore", "replay-deletions", "--table", "restored"];
    let output = local.admin(&[&replay[..], &["--yes"]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--ledger"), "{}", stderr(&output));
    let replay = [&replay[..], &["--ledger", "theazo-ledger"]].concat();
    let counted = local.json(&[&replay[..], &["--dry-run"]].concat()).await;
    assert_eq!(local.rows("restored").await.len(), backup.len());
    // Nothing is deleted that was not asked for twice.
    let unconfirmed = local.admin(&replay).await;
    assert_eq!(unconfirmed.status.code(), Some(1), "{}", stdout(&unconfirmed));
    assert!(stderr(&unconfirmed).contains("say --yes if that is meant") && unconfirmed.stdout.is_empty());
    assert_eq!(local.rows("restored").await.len(), backup.len());
    let replay = [&replay[..], &["--yes"]].concat();
    let output = local.admin(&[&replay[..], &["--json"]].concat()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("Point the functions at the restored table"), "{}", stderr(&output));
    let noted = local.rows("theazo-ledger").await.len();
    assert!(stderr(&output).contains(&format!("{noted} rows of the ledger are done")), "{}", stderr(&output));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (report, dry_run) in [(&counted, true), (&done, false)] {
        assert_eq!(report["dryRun"], dry_run);
        assert_eq!(report["secrets"], json!({ "noted": 2, "deleted": 2 }));
        assert_eq!(report["platforms"], json!({ "noted": 1, "deleted": 1 }));
        assert_eq!(report["failures"], json!([]));
    }
    // Three sessions are over: the one that was terminated, and the deleted platform's two.
    assert_eq!(counted["sessions"], json!({ "noted": 3, "deleted": 3 }));

    let rows = local.rows("restored").await;
    assert_eq!(sealed(&rows, &gone.id), 0);
    assert_eq!(sealed(&rows, &format!("{}#live#{over}", kept.id)), 0);
    let mut left: Vec<_> = rows
        .iter()
        .filter(|row| text(&row["pk"]["S"]).starts_with(&kept.id) && row.get("blob").is_some())
        .map(|row| text(&row["sk"]["S"]))
        .collect();
    left.sort_unstable();
    assert_eq!(left, ["B", "SHARED"]);
    let keys = rows.iter().filter(|row| text(&row["pk"]["S"]).starts_with("credential#"));
    for row in keys {
        let is_gone = row["platform"]["S"] == gone.id.as_str();
        assert_eq!(row.get("revoked_at_ms").is_some(), is_gone, "{row}");
    }
    let again = local.json(&replay).await;
    for kind in ["secrets", "sessions", "tokens", "keys", "platforms"] {
        assert_eq!(again[kind]["deleted"], 0, "{kind}");
    }
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_noted_in_the_ledger_that_is_named_whatever_the_table_is_called() {
    let local = Local::start().await;
    // On AWS they are `<deployment>-data` and `<deployment>-ledger`.
    make_table(&local, "prod-ledger").await;
    let before = local.rows("theazo-ledger").await.len();
    for (by_option, by_variable) in
        [(&["--ledger", "prod-ledger"][..], &[][..]), (&[], &[("THEAZO_LEDGER", "prod-ledger")])]
    {
        let platform = local.json(&["platform", "create", "acme"]).await["id"].clone();
        let noted = local.rows("prod-ledger").await.len();
        let delete = ["platform", "delete", text(&platform), "--yes"];
        let output = local.admin_with(&[&delete[..], by_option].concat(), by_variable).await;
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(local.rows("prod-ledger").await.len() > noted, "{by_option:?} {by_variable:?}");
    }
    assert_eq!(local.rows("theazo-ledger").await.len(), before);
    local.stop().await;
}
