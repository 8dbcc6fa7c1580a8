//! Reading ahead of a credential's proof, as the table sees it: how many rows one call may read until then.

use crate::agents::new_agent;
use crate::proxy::Proxy;
use crate::support::{World, aws, own, secret, text};
use std::time::Duration;
use theazo_store::{Agents, Ahead, SecretOpener, StoreError, Table};
use theazo_tenancy::AgentId;

/// Reads without proof for as long as that leads anywhere, and then with it. Gives the partitions that were queried before,
/// each with the rows that were asked for at most, and what was read in the end.
async fn read_ahead<T>(
    proxy: &Proxy,
    wanted: usize,
    read: impl Future<Output = Result<T, StoreError>>,
) -> (Vec<(String, Option<u64>)>, T) {
    let (ahead, before) = (Ahead::default(), proxy.calls("Query").len());
    let held = ahead.hold(read);
    tokio::pin!(held);
    for _ in 0..50 {
        let waited = tokio::time::timeout(Duration::from_millis(200), &mut held).await;
        assert!(waited.is_err(), "it had everything without any proof");
        if proxy.calls("Query").len() >= before + wanted {
            break;
        }
    }
    // Time for one more than there may be.
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut held).await.is_err());
    let asked = proxy.calls("Query").split_off(before).into_iter().map(|query| {
        let partition = query["ExpressionAttributeValues"][":pk"]["S"].as_str().unwrap().to_owned();
        (partition, query["Limit"].as_u64())
    });
    let asked = asked.collect();
    ahead.proven();
    (asked, held.await.unwrap())
}

#[tokio::test]
async fn a_whole_partition_is_read_by_a_short_page_until_there_is_proof_and_then_to_its_end() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let within = scope.session(&session.id).unwrap();
    let proxy = Proxy::start(&world.dynamodb_url).await;
    let table = Table::new(&aws(&proxy.url, &world.kms_url), "theazo");

    let agent = world.agents().begin_boot(&scope, &session, new_agent()).await.unwrap();
    let row = world.row(&within.live_agents().row(agent.id.as_str())).await.unwrap();
    for _ in 0..140 {
        let id = AgentId::make();
        let mut copy = row.clone();
        copy.insert("id".into(), text(id.as_str()));
        world.put(&within.live_agents().row(id.as_str()), copy).await;
    }
    let agents = Agents::new(table.clone());
    let (asked, read) = read_ahead(&proxy, 1, agents.unsettled_of_session(&within)).await;
    assert_eq!(asked, [(within.live_agents().pk().to_owned(), Some(128))]);
    assert_eq!(read.len(), 141);

    // Where values are among the rows, fewer.
    let names: Vec<String> = (0..60).map(|number| format!("NAME_{number}")).collect();
    let secrets: Vec<_> = names.iter().map(|name| secret(name, "value")).collect();
    world.set(&scope, &own(&session), &secrets).await.unwrap();
    let opener = SecretOpener::new(table, world.keys.clone());
    let (asked, sealed) = read_ahead(&proxy, 1, opener.load(&scope, &session.id)).await;
    assert!(!asked.is_empty() && asked.iter().all(|(_, limit)| *limit == Some(32)), "{asked:?}");
    let opened = opener.open(&scope, &sealed, &theazo_store::SecretSelection::All, theazo_store::now_ms()).await;
    assert_eq!(opened.unwrap().len(), names.len());
}
