//! Requests that are done once, and what is remembered of them.

use crate::support::{Item, World, number, refused, text};
use theazo_store::{Note, Noted, Replays, StoreError, now_ms};
use theazo_tenancy::{TableKey, TenantScope};

const NOTE: Note = Note { place: [1; 32], digest: [2; 32] };
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn answered(body: &str) -> Noted {
    Noted::Answered { status: 201, body: body.into() }
}

async fn start() -> (World, TenantScope, Replays) {
    let world = World::start().await;
    let scope = world.tenant().await;
    let replays = Replays::new(world.table.clone());
    (world, scope, replays)
}

fn place(scope: &TenantScope) -> TableKey {
    scope.replay_key(&format!("once#{}", "01".repeat(32)))
}

async fn row(world: &World, scope: &TenantScope) -> Item {
    world.row(&place(scope)).await.unwrap()
}

#[tokio::test]
async fn a_request_is_new_once_then_unanswered_and_in_the_end_answered() {
    let (_world, scope, replays) = start().await;
    assert_eq!(replays.note(&scope, &NOTE).await.unwrap(), Noted::New);
    // As after a crash: nobody knows what became of it.
    assert_eq!(replays.note(&scope, &NOTE).await.unwrap(), Noted::Unanswered);
    let other = Note { digest: [3; 32], ..NOTE };
    assert_eq!(replays.note(&scope, &other).await.unwrap(), Noted::Different);
    replays.answer(&scope, &NOTE, 201, "{}".into()).await.unwrap();
    assert_eq!(replays.note(&scope, &NOTE).await.unwrap(), answered("{}"));
    assert_eq!(replays.note(&scope, &other).await.unwrap(), Noted::Different);
    let elsewhere = Note { place: [4; 32], ..NOTE };
    assert_eq!(replays.note(&scope, &elsewhere).await.unwrap(), Noted::New);
    replays.forget(&scope, &elsewhere).await.unwrap();
    assert_eq!(replays.note(&scope, &elsewhere).await.unwrap(), Noted::New);
}

#[tokio::test]
async fn a_note_is_known_for_a_day_whether_or_not_the_table_has_dropped_it() {
    let (world, scope, replays) = start().await;
    replays.note(&scope, &NOTE).await.unwrap();
    for answer in [false, true] {
        if answer {
            replays.answer(&scope, &NOTE, 201, "again".into()).await.unwrap();
        }
        let kept = row(&world, &scope).await;
        let until: i64 = kept["until_ms"].as_n().unwrap().parse().unwrap();
        assert!((until - now_ms() - DAY_MS).abs() < 60_000);
        assert_eq!(kept["ttl"].as_n().unwrap().parse::<i64>().unwrap(), until / 1000 + 1);
    }
    let mut last_moment = row(&world, &scope).await;
    last_moment.insert("until_ms".into(), number(now_ms() + 60_000));
    world.put(&place(&scope), last_moment.clone()).await;
    assert_eq!(replays.note(&scope, &NOTE).await.unwrap(), answered("again"));
    last_moment.insert("until_ms".into(), number(now_ms()));
    world.put(&place(&scope), last_moment).await;
    assert_eq!(replays.note(&scope, &Note { digest: [9; 32], ..NOTE }).await.unwrap(), Noted::New);
    assert!(!row(&world, &scope).await.contains_key("status"));
}

#[tokio::test]
async fn an_answer_larger_than_a_row_is_given_again_whole_and_never_in_part() {
    let (world, scope, replays) = start().await;
    // Two bytes a letter, so that a part would end inside one; and sizes around where parts end.
    for size in [0, 1, 299_999, 300_000, 300_001, 1_200_000] {
        let body: String = "\u{e9}".repeat(size / 2) + if size % 2 == 1 { "x" } else { "" };
        assert_eq!(body.len(), size);
        let note = Note { place: [7; 32], digest: [size as u8; 32] };
        replays.note(&scope, &note).await.unwrap();
        replays.answer(&scope, &note, 201, body.clone()).await.unwrap();
        assert!(replays.note(&scope, &note).await.unwrap() == answered(&body), "{size}");
    }
    let pieces = |rows: &[Item]| rows.iter().filter(|row| row["sk"].as_s().unwrap().matches('#').count() == 2).count();
    let all: Vec<Item> =
        world.scan().await.into_iter().filter(|row| row["pk"].as_s().unwrap().ends_with("#replays")).collect();
    // The first part of four lies in the note itself.
    assert!(pieces(&all) == 3 && all.iter().all(|row| row.contains_key("ttl")));
    world.remove(&scope.replay_key(&format!("once#{}#1", "07".repeat(32)))).await;
    let note = Note { place: [7; 32], digest: [1_200_000_u32 as u8; 32] };
    let failed = replays.note(&scope, &note).await;
    assert!(matches!(refused(failed), StoreError::Corrupt(_)));
}

#[tokio::test]
async fn a_failed_execs_answer_is_recalled_for_a_minute() {
    let (world, scope, replays) = start().await;
    assert_eq!(replays.recall(&scope, &[5; 32]).await.unwrap(), None);
    replays.remember(&scope, &[5; 32], "failed".into()).await.unwrap();
    assert_eq!(replays.recall(&scope, &[5; 32]).await.unwrap().as_deref(), Some("failed"));
    assert_eq!(replays.recall(&scope, &[6; 32]).await.unwrap(), None);
    let place = scope.replay_key(&"05".repeat(32));
    let mut kept = world.row(&place).await.unwrap();
    let until: i64 = kept["until_ms"].as_n().unwrap().parse().unwrap();
    assert!((until - now_ms() - 60_000).abs() < 10_000);
    assert_eq!(kept["answer"], text("failed"));
    kept.insert("until_ms".into(), number(now_ms()));
    world.put(&place, kept).await;
    assert_eq!(replays.recall(&scope, &[5; 32]).await.unwrap(), None);
}
