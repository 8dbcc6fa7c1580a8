//! Disks of simulated agents.

use crate::support::{World, operator};
use futures_util::future::join_all;
use std::collections::HashMap;
use theazo_store::{DiskIndex, SimulatedDisks, now_ms};
use theazo_tenancy::{AgentId, Mode, TenantScope};

const PIECE_BYTES: usize = 256 * 1024;
const HOUR_MS: i64 = 3_600_000;

struct Bed {
    world: World,
    scope: TenantScope,
    agent: AgentId,
    disks: SimulatedDisks,
}

impl Bed {
    async fn make() -> Self {
        let world = World::start().await;
        let scope = operator().tenant(&world.platform().await, Mode::Test);
        let disks = SimulatedDisks::new(world.table.clone());
        Self { scope, agent: AgentId::make(), disks, world }
    }

    /// Rows of disks in the whole table.
    async fn rows(&self) -> usize {
        let rows = self.world.scan().await;
        rows.iter().filter(|row| row["pk"].as_s().unwrap().ends_with("#disk")).count()
    }
}

fn index(revision: u64, content: &[u8]) -> Option<DiskIndex> {
    Some(DiskIndex { revision, content: content.to_vec() })
}

#[tokio::test]
async fn an_index_is_made_once_and_replaced_only_by_who_has_read_it() {
    let bed = Bed::make().await;
    let (scope, agent, disks, gone_by) = (&bed.scope, &bed.agent, &bed.disks, now_ms() + HOUR_MS);
    assert_eq!(disks.index(scope, agent).await.unwrap(), None);
    assert!(!disks.replace(scope, agent, 1, b"x".to_vec(), gone_by).await.unwrap());
    assert!(disks.make(scope, agent, b"one".to_vec(), gone_by).await.unwrap());
    assert!(!disks.make(scope, agent, b"other".to_vec(), gone_by).await.unwrap());
    assert_eq!(disks.index(scope, agent).await.unwrap(), index(1, b"one"));
    assert!(disks.replace(scope, agent, 1, b"two".to_vec(), gone_by).await.unwrap());
    assert!(!disks.replace(scope, agent, 1, b"late".to_vec(), gone_by).await.unwrap());
    assert_eq!(disks.index(scope, agent).await.unwrap(), index(2, b"two"));
}

#[tokio::test]
async fn of_twenty_who_replace_what_they_read_at_once_one_succeeds() {
    let bed = Bed::make().await;
    let (scope, agent, disks, gone_by) = (&bed.scope, &bed.agent, &bed.disks, now_ms() + HOUR_MS);
    disks.make(scope, agent, vec![0], gone_by).await.unwrap();
    for round in 1..=5 {
        let replaced = (0..20).map(|number| disks.replace(scope, agent, round, vec![number], gone_by));
        let replaced: Vec<bool> = join_all(replaced).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(replaced.iter().filter(|replaced| **replaced).count(), 1);
        let winner = u8::try_from(replaced.iter().position(|replaced| *replaced).unwrap()).unwrap();
        assert_eq!(disks.index(scope, agent).await.unwrap(), index(round + 1, &[winner]));
    }
}

#[tokio::test]
async fn a_whole_disk_of_pieces_is_kept_and_removed() {
    let bed = Bed::make().await;
    let (scope, agent, disks, gone_by) = (&bed.scope, &bed.agent, &bed.disks, now_ms() + HOUR_MS);
    disks.make(scope, agent, b"index".to_vec(), gone_by).await.unwrap();
    let pieces: HashMap<String, Vec<u8>> =
        (0..64_u8).map(|number| (format!("{number:x}"), vec![number; PIECE_BYTES])).collect();
    disks.put(scope, agent, pieces.clone().into_iter(), gone_by).await.unwrap();
    let ids: Vec<&str> = pieces.keys().map(String::as_str).chain(["none"]).collect();
    assert!(disks.get(scope, agent, &ids).await.unwrap() == pieces);
    assert!(disks.get(scope, agent, &[]).await.unwrap().is_empty());

    disks.delete(scope, agent, &["0", "1", "none"]).await.unwrap();
    assert_eq!(disks.get(scope, agent, &ids).await.unwrap().len(), 62);
    assert_eq!(bed.rows().await, 63);
    for _ in 0..2 {
        disks.remove(scope, agent).await.unwrap();
        assert_eq!(bed.rows().await, 0);
    }
    assert!(!disks.replace(scope, agent, 1, b"late".to_vec(), gone_by).await.unwrap());
}

#[tokio::test]
async fn another_agent_mode_or_platform_has_another_disk() {
    let bed = Bed::make().await;
    let (scope, agent, disks, gone_by) = (&bed.scope, &bed.agent, &bed.disks, now_ms() + HOUR_MS);
    disks.make(scope, agent, b"own".to_vec(), gone_by).await.unwrap();
    disks.put(scope, agent, [("a".to_owned(), vec![1])].into_iter(), gone_by).await.unwrap();
    let live = operator().tenant(scope.platform(), Mode::Live);
    let stranger = operator().tenant(&bed.world.platform().await, Mode::Test);
    for (scope, agent) in [(&live, agent), (&stranger, agent), (scope, &AgentId::make())] {
        assert_eq!(disks.index(scope, agent).await.unwrap(), None);
        assert!(disks.get(scope, agent, &["a"]).await.unwrap().is_empty());
        disks.remove(scope, agent).await.unwrap();
    }
    assert_eq!(disks.get(scope, agent, &["a"]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_table_drops_a_disk_that_nobody_removed_when_its_time_is_over() {
    let bed = Bed::make().await;
    let (scope, agent, disks) = (&bed.scope, &bed.agent, &bed.disks);
    for (agent, gone_by) in [(agent, now_ms() + HOUR_MS), (&AgentId::make(), now_ms() - HOUR_MS)] {
        disks.make(scope, agent, b"index".to_vec(), gone_by).await.unwrap();
        disks.put(scope, agent, [("a".to_owned(), vec![1])].into_iter(), gone_by).await.unwrap();
    }
    // A replacement moves the time with it.
    let short = AgentId::make();
    disks.make(scope, &short, b"index".to_vec(), now_ms() + HOUR_MS).await.unwrap();
    assert!(disks.replace(scope, &short, 1, b"index".to_vec(), now_ms() - HOUR_MS).await.unwrap());
    assert_eq!(bed.rows().await, 5);
    bed.world.engine.sweep_ttl().unwrap();
    assert_eq!(bed.rows().await, 2);
    assert!(disks.index(scope, agent).await.unwrap().is_some());
}
