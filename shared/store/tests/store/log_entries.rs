//! Log entries: who reads which, pages that neither skip nor repeat, and tails that follow writers whose clocks differ.

use crate::agents::new_agent;
use crate::support::{World, operator};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use theazo_store::{
    LATE_MS, LogEntry, LogFilter, LogLevel, LogQueue, LogSource, LogTail, LogWriter, Logs, NewLog, PageRequest,
    SETTLE_MS, Session, Table, count_round_trips, now_ms,
};
use theazo_tenancy::{LogId, Mode, ReadScope, TenantScope};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn writer(world: &World) -> LogWriter {
    LogWriter::new(world.table.clone(), LogQueue::default())
}

fn line(session: &Session, text: impl Into<String>) -> NewLog {
    NewLog::of_session(session, LogLevel::Info, LogSource::Agent, text)
}

async fn write(world: &World, scope: &TenantScope, session: &Session, offset_ms: i64, texts: &[&str]) {
    let lines = texts.iter().map(|text| line(session, *text)).collect();
    writer(world).with_clock_offset(offset_ms).append(scope, lines).await.unwrap();
}

fn messages(entries: &[LogEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.message.as_str()).collect()
}

/// All entries, page by page.
async fn walk(table: &Table, scope: &ReadScope, filter: &LogFilter, limit: usize) -> Vec<LogEntry> {
    let logs = Logs::new(table.clone());
    let mut all = Vec::new();
    let mut request = PageRequest { limit, after: None };
    for _ in 0..1000 {
        let page = logs.list(scope, filter, &request).await.unwrap();
        assert!(page.rows.len() <= limit);
        all.extend(page.rows);
        match page.next {
            Some(next) => request.after = Some(next),
            None => return all,
        }
    }
    panic!("the pages do not end");
}

fn of_session(session: &Session) -> LogFilter {
    LogFilter { session: Some(session.id.clone()), ..LogFilter::default() }
}

#[tokio::test]
async fn entries_are_listed_newest_first_for_their_platform_and_for_their_session_and_for_nobody_else() {
    let world = World::start().await;
    let (scope, stranger) = (world.tenant().await, world.tenant().await);
    let (one, two) = (world.session(&scope).await, world.session(&scope).await);
    write(&world, &scope, &one, 0, &["a", "b", "c"]).await;
    write(&world, &scope, &two, 0, &["d"]).await;
    let created = "session created";
    let all = walk(&world.table, &scope, &LogFilter::default(), 2).await;
    assert_eq!(messages(&all), ["d", "c", "b", "a", created, created]);
    assert_eq!(messages(&walk(&world.table, &scope, &of_session(&one), 2).await), ["c", "b", "a", created]);
    assert_eq!(messages(&walk(&world.table, &scope, &of_session(&two), 2).await), ["d", created]);
    let test_mode = operator().tenant(scope.platform(), Mode::Test);
    for (other, filter) in [
        (&stranger, LogFilter::default()),
        (&stranger, of_session(&one)),
        (&test_mode, LogFilter::default()),
        (&test_mode, of_session(&one)),
    ] {
        assert!(walk(&world.table, other, &filter, 100).await.is_empty());
    }
}

#[tokio::test]
async fn every_filter_selects_and_a_search_goes_by_the_message_whatever_its_case() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let before = now_ms();
    for (level, text) in [
        (LogLevel::Debug, "One"),
        (LogLevel::Error, "TWO"),
        (LogLevel::Error, "three \u{dc}ber"),
        (LogLevel::Warn, "four"),
    ] {
        let entry = NewLog::of_session(&session, level, LogSource::System, text);
        writer(&world).append(&scope, vec![entry]).await.unwrap();
        // An entry's moment is whole milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let find = async |filter: LogFilter| {
        let own = LogFilter { session: Some(session.id.clone()), ..filter.clone() };
        let found = walk(&world.table, &scope, &filter, 1).await;
        assert_eq!(found, walk(&world.table, &scope, &own, 3).await);
        found.into_iter().map(|entry| entry.message).collect::<Vec<_>>()
    };
    let all = LogFilter { since_ms: Some(before), ..LogFilter::default() };
    assert_eq!(find(all.clone()).await, ["four", "three \u{dc}ber", "TWO", "One"]);
    assert_eq!(find(LogFilter { level: Some(LogLevel::Error), ..all.clone() }).await, ["three \u{dc}ber", "TWO"]);
    assert_eq!(find(LogFilter { search: Some("\u{fc}BER".into()), ..all.clone() }).await, ["three \u{dc}ber"]);
    assert_eq!(find(LogFilter { search: Some("o".into()), ..all.clone() }).await, ["four", "TWO", "One"]);
    let three = walk(&world.table, &scope, &LogFilter { search: Some("three".into()), ..all.clone() }, 1).await;
    let moment = three[0].at_ms;
    assert_eq!(find(LogFilter { since_ms: Some(moment), ..all.clone() }).await, ["four", "three \u{dc}ber"]);
    assert_eq!(find(LogFilter { until_ms: Some(moment), ..all.clone() }).await, ["TWO", "One"]);
    assert!(
        find(LogFilter { until_ms: Some(before), ..LogFilter::default() }).await.iter().all(|text| text.contains(' '))
    );
}

#[tokio::test]
async fn entries_of_many_days_are_walked_and_what_has_expired_is_not_shown() {
    let world = World::start().await;
    // What it is about must have been there before: ids tell when it was made.
    let platform = theazo_tenancy::PlatformId::make_at(now_ms() - 60 * DAY_MS);
    let scope = operator().tenant(&platform, Mode::Live);
    let mut session = world.session(&scope).await;
    session.id = theazo_tenancy::SessionId::make_at(now_ms() - 50 * DAY_MS);
    for days in [45, 29, 12, 11, 3, 0] {
        write(&world, &scope, &session, -days * DAY_MS, &[&days.to_string()]).await;
    }
    for filter in [LogFilter::default(), of_session(&session)] {
        for limit in [1, 2, 100] {
            let shown = walk(&world.table, &scope, &filter, limit).await;
            let numbers: Vec<_> = messages(&shown).into_iter().filter(|text| *text != "session created").collect();
            assert_eq!(numbers, ["0", "3", "11", "12", "29"], "limit {limit}");
        }
        let sooner = world.table.clone().with_log_retention(5);
        let shown = walk(&sooner, &scope, &filter, 100).await;
        assert!(!messages(&shown).contains(&"11") && messages(&shown).contains(&"3"));
    }
}

#[tokio::test]
async fn every_row_of_an_entry_expires_by_itself_as_long_after_its_moment_as_entries_are_kept() {
    let world = World::start().await;
    let scope = world.tenant().await;
    // Written with what it tells of, and by itself, now and earlier.
    let session = world.session(&scope).await;
    world.agents().begin_boot(&scope, &session, new_agent()).await.unwrap();
    write(&world, &scope, &session, 0, &["by itself", "beside it"]).await;
    write(&world, &scope, &session, -5_000, &["by another clock"]).await;
    for days in [1, 3653] {
        let table = world.table.clone().with_log_retention(days);
        let writer = LogWriter::new(table.clone(), LogQueue::default());
        writer.append(&scope, vec![line(&session, format!("for {days} days"))]).await.unwrap();
        theazo_store::Sessions::new(table).create(&scope, &Default::default()).await.unwrap();
    }
    let mut kept = Vec::new();
    for row in world.scan().await.iter().filter(|row| row["pk"].as_s().unwrap().contains("#logs#")) {
        let number = |name: &str| row[name].as_n().unwrap().parse::<i64>().unwrap();
        let ms = number("ttl") * 1000 - number("at_ms");
        // A ttl is whole seconds, and none too early.
        let days = (ms - 1) / DAY_MS;
        assert!((1..=1000).contains(&(ms - days * DAY_MS)), "{row:?}");
        kept.push(days);
    }
    kept.sort_unstable();
    // Each is there twice, and what is not told otherwise is kept for 30 days.
    assert_eq!(kept, [vec![1; 4], vec![30; 10], vec![3653; 4]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_neither_skip_nor_repeat_while_others_write() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let sessions = [world.session(&scope).await, world.session(&scope).await];
    let before: Vec<String> = (0..120).map(|n| format!("before {n}")).collect();
    for (n, text) in before.iter().enumerate() {
        write(&world, &scope, &sessions[n % 2], 0, &[text]).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = sessions
        .iter()
        .cloned()
        .map(|session| {
            let (world, scope, stop) = (world.clone(), scope.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    write(&world, &scope, &session, 0, &["meanwhile", "meanwhile"]).await;
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            })
        })
        .collect();
    for limit in [100, 7, 3] {
        let seen = walk(&world.table, &scope, &LogFilter::default(), limit).await;
        assert!(seen.windows(2).all(|pair| pair[0].id > pair[1].id), "newest first");
        let old: Vec<_> = messages(&seen).into_iter().filter(|text| text.starts_with("before")).collect();
        assert_eq!(old, before.iter().rev().collect::<Vec<_>>(), "limit {limit}");
        let searched = LogFilter { search: Some("BEFORE 1".into()), ..LogFilter::default() };
        let found = walk(&world.table, &scope, &searched, limit).await;
        assert_eq!(found.len(), before.iter().filter(|text| text.starts_with("before 1")).count(), "limit {limit}");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

/// A reader that remembers what it was given, and may lose its connection.
struct Reader {
    scope: TenantScope,
    filter: LogFilter,
    tail: LogTail,
    given: Vec<LogEntry>,
    late: Vec<LogEntry>,
}

impl Reader {
    async fn start(world: &World, scope: &TenantScope, filter: LogFilter) -> Self {
        let tail = Logs::new(world.table.clone()).tail(scope, filter.clone(), None).await.unwrap().unwrap();
        Self { scope: scope.clone(), filter, tail, given: Vec::new(), late: Vec::new() }
    }

    async fn read_all(&mut self, now_ms: i64) {
        for _ in 0..1000 {
            let step = self.tail.step(now_ms).await.unwrap();
            self.given.extend(step.entries);
            self.late.extend(step.late);
            if !step.is_behind {
                return;
            }
        }
        panic!("the tail does not catch up");
    }

    async fn reconnect(&mut self, world: &World) {
        let after: Option<LogId> = self.given.last().map(|entry| entry.id.clone());
        self.reconnect_after(world, after).await;
    }

    async fn reconnect_after(&mut self, world: &World, after: Option<LogId>) {
        let logs = Logs::new(world.table.clone());
        self.tail = logs.tail(&self.scope, self.filter.clone(), after).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_tail_misses_and_repeats_nothing_of_writers_whose_clocks_differ_also_when_it_comes_back() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let sessions = [world.session(&scope).await, world.session(&scope).await];
    let start = now_ms() + 1000;
    let mut readers = Vec::new();
    for filter in [LogFilter::default(), LogFilter::default(), of_session(&sessions[0])] {
        readers.push(Reader::start(&world, &scope, filter).await);
    }
    // Time as the test tells it: a tick is a tenth of a second, and what is written in it can be seen in it.
    let ticks = 80;
    for tick in 0..ticks {
        let now = start + tick * 100;
        for (index, session) in sessions.iter().enumerate() {
            // From as early as settles in time to as much ahead.
            let spread = i64::from(u16::from_be_bytes(theazo_tenancy::make_random_bytes())) % 3_600 - 1_800;
            let text = format!("{index} {tick}");
            write(&world, &scope, session, now + spread - now_ms(), &[&text]).await;
        }
        readers[0].read_all(now).await;
        if tick % 3 == 0 {
            readers[1].read_all(now).await;
            readers[1].reconnect(&world).await;
            readers[2].read_all(now).await;
        }
    }
    for (index, reader) in readers.iter_mut().enumerate() {
        reader.read_all(start + ticks * 100 + 2 * (SETTLE_MS + LATE_MS)).await;
        let ids: Vec<_> = reader.given.iter().map(|entry| &entry.id).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
        assert!(reader.late.is_empty(), "{:?}", messages(&reader.late));
        let of_ticks: BTreeSet<_> =
            messages(&reader.given).into_iter().filter(|text| !text.contains("session")).collect();
        let expected = if index == 2 { ticks } else { ticks * 2 };
        assert_eq!(of_ticks.len(), usize::try_from(expected).unwrap());
    }
}

#[tokio::test]
async fn what_appears_too_late_to_be_in_order_is_given_once_to_those_who_stayed() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let mut reader = Reader::start(&world, &scope, of_session(&session)).await;
    let start = now_ms();
    let at = |at_ms: i64| at_ms - now_ms();
    write(&world, &scope, &session, at(start + 1_000), &["in time"]).await;
    reader.read_all(start + 8_000).await;
    write(&world, &scope, &session, at(start + 500), &["late"]).await;
    write(&world, &scope, &session, at(start + 7_000), &["in time too"]).await;
    for now in (start + 8_000..start + 30_000).step_by(500) {
        reader.read_all(now).await;
    }
    assert_eq!(messages(&reader.given), ["session created", "in time", "in time too"]);
    assert_eq!(messages(&reader.late), ["late"]);
}

#[tokio::test]
async fn a_tail_goes_through_a_long_history_in_order_and_without_reading_it_twice() {
    let world = World::start().await;
    let platform = theazo_tenancy::PlatformId::make_at(now_ms() - 20 * DAY_MS);
    let scope = operator().tenant(&platform, Mode::Live);
    let mut session = world.session(&scope).await;
    session.id = theazo_tenancy::SessionId::make_at(now_ms() - 19 * DAY_MS);
    let mut expected = Vec::new();
    for days in [18, 9, 1] {
        let texts: Vec<String> = (0..700).map(|n| format!("{days} {n:04}")).collect();
        let lines = texts.iter().map(|text| line(&session, text.as_str())).collect();
        writer(&world).with_clock_offset(-days * DAY_MS).append(&scope, lines).await.unwrap();
        expected.extend(texts);
    }
    for filter in [LogFilter::default(), of_session(&session)] {
        let mut reader = Reader::start(&world, &scope, filter).await;
        reader.read_all(now_ms()).await;
        let ids: HashSet<_> = reader.given.iter().map(|entry| &entry.id).collect();
        assert_eq!(ids.len(), reader.given.len());
        assert!(reader.given.windows(2).all(|pair| pair[0].id < pair[1].id));
        let mut texts: Vec<String> = reader.given.iter().map(|entry| entry.message.clone()).collect();
        texts.retain(|text| !text.contains("session"));
        texts.sort_unstable();
        let mut sorted = expected.clone();
        sorted.sort_unstable();
        assert_eq!(texts, sorted);
        assert!(reader.late.is_empty());
    }
}

#[tokio::test]
async fn a_tail_reads_several_days_at_once_only_where_those_before_were_read_to_their_end() {
    let world = World::start().await;
    let platform = theazo_tenancy::PlatformId::make_at(now_ms() - 20 * DAY_MS);
    let scope = operator().tenant(&platform, Mode::Live);
    let mut session = world.session(&scope).await;
    session.id = theazo_tenancy::SessionId::make_at(now_ms() - 19 * DAY_MS);
    let lines = (0..1700).map(|n| line(&session, n.to_string())).collect();
    writer(&world).with_clock_offset(-18 * DAY_MS).append(&scope, lines).await.unwrap();
    let mut reader = Reader::start(&world, &scope, of_session(&session)).await;
    let (mut given, mut queries) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let (step, trips) = count_round_trips(reader.tail.step(now_ms())).await;
        let step = step.unwrap();
        given.push(step.entries.len());
        queries.push(trips.total);
        if !step.is_behind {
            break;
        }
    }
    assert_eq!(given.iter().sum::<usize>(), 1700);
    // A day without an entry, then one that takes four steps, then ever more days at once.
    let first = given.iter().position(|count| *count > 0).unwrap();
    assert!(given[first..first + 3].iter().all(|count| *count == 500), "{given:?}");
    assert!(queries[first + 1..first + 4].iter().all(|count| *count == 1), "{queries:?}");
    assert!(queries.iter().max() == Some(&8), "{queries:?}");
}

#[tokio::test]
async fn a_tail_whose_filter_fits_nothing_gets_on_and_is_gone_on_with_from_where_it_was() {
    let world = World::start().await;
    let platform = theazo_tenancy::PlatformId::make_at(now_ms() - 3 * DAY_MS);
    let scope = operator().tenant(&platform, Mode::Live);
    let mut session = world.session(&scope).await;
    session.id = theazo_tenancy::SessionId::make_at(now_ms() - 2 * DAY_MS);
    let lines = (0..1200).map(|n| line(&session, n.to_string())).collect();
    writer(&world).with_clock_offset(-DAY_MS).append(&scope, lines).await.unwrap();
    let filter = LogFilter { level: Some(LogLevel::Error), ..of_session(&session) };
    let mut reader = Reader::start(&world, &scope, filter).await;
    let mut positions = vec![reader.tail.position().clone()];
    // No step but one, of every connection.
    let now = now_ms();
    for _ in 0..10 {
        let step = reader.tail.step(now).await.unwrap();
        assert!(step.entries.is_empty());
        positions.push(reader.tail.position().clone());
        if !step.is_behind {
            break;
        }
        reader.reconnect_after(&world, positions.last().cloned()).await;
    }
    assert!(positions.len() > 4 && positions.is_sorted(), "{positions:?}");
    assert_eq!(positions.last().unwrap().at_ms(), now - SETTLE_MS - LATE_MS);
    // What appears late is given to those who come back as well, unless they were given later ones.
    let at = |at_ms: i64| at_ms - now_ms();
    let error = |text: &str| NewLog::of_session(&session, LogLevel::Error, LogSource::System, text);
    let write = async |at_ms: i64, text: &str| {
        writer(&world).with_clock_offset(at(at_ms)).append(&scope, vec![error(text)]).await.unwrap();
    };
    write(now - 8_000, "late").await;
    let position = reader.tail.position().clone();
    reader.reconnect_after(&world, Some(position)).await;
    reader.read_all(now).await;
    write(now + 1_000, "next").await;
    reader.read_all(now + 10_000).await;
    assert_eq!(messages(&reader.given), ["late", "next"]);
    assert_eq!(reader.tail.position(), &reader.given[1].id);
    let position = reader.tail.position().clone();
    reader.reconnect_after(&world, Some(position)).await;
    reader.read_all(now + 40_000).await;
    assert_eq!(messages(&reader.given), ["late", "next"], "nothing twice");
}

#[tokio::test]
async fn the_entries_of_an_agent_whose_row_is_gone_are_listed_and_nobody_elses() {
    let world = World::start().await;
    let (scope, stranger) = (world.tenant().await, world.tenant().await);
    let (session, other) = (world.session(&scope).await, world.session(&scope).await);
    let there = world.agents().begin_boot(&scope, &session, new_agent()).await.unwrap();
    let mut gone = there.clone();
    gone.id = theazo_tenancy::AgentId::make();
    for (agent, text) in [(&there, "of another"), (&gone, "first"), (&gone, "second")] {
        let entry = NewLog::of_agent(agent, LogLevel::Info, LogSource::Agent, text);
        writer(&world).append(&scope, vec![entry]).await.unwrap();
    }
    let of_agent = LogFilter { agent: Some(gone.id.clone()), ..LogFilter::default() };
    for limit in [1, 100] {
        assert_eq!(messages(&walk(&world.table, &scope, &of_agent, limit).await), ["second", "first"]);
        assert!(walk(&world.table, &stranger, &of_agent, limit).await.is_empty());
    }
    let in_session = |session: &Session| LogFilter { session: Some(session.id.clone()), ..of_agent.clone() };
    assert_eq!(walk(&world.table, &scope, &in_session(&session), 100).await.len(), 2);
    assert!(walk(&world.table, &scope, &in_session(&other), 100).await.is_empty());
}

#[tokio::test]
async fn an_entry_with_no_more_permission_than_a_change_has_is_written_as_well() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let queue = LogQueue::default();
    LogWriter::new(world.table.clone(), queue.clone()).later_as_change(&scope, line(&session, "a note"));
    queue.flushed().await;
    for filter in [LogFilter::default(), of_session(&session)] {
        assert_eq!(messages(&walk(&world.table, &scope, &filter, 100).await), ["a note", "session created"]);
    }
}

#[tokio::test]
async fn a_queued_entry_is_written_before_the_queue_counts_as_flushed_and_a_lost_one_fails_nobody() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let queue = LogQueue::default();
    let writer = LogWriter::new(world.table.clone(), queue.clone());
    for n in 0..20 {
        writer.later(&scope, vec![line(&session, format!("line {n}"))]);
    }
    queue.flushed().await;
    let shown = walk(&world.table, &scope, &of_session(&session), 100).await;
    let expected: Vec<String> = (0..20).rev().map(|n| format!("line {n}")).collect();
    assert_eq!(messages(&shown)[..20], expected);
    let aws = crate::support::aws(&world.dynamodb_url, &world.kms_url);
    let nowhere = LogWriter::new(Table::new(&aws, "no-such-table"), queue.clone());
    assert!(nowhere.append(&scope, vec![line(&session, "lost")]).await.is_err());
    nowhere.note(&scope, vec![line(&session, "lost")]).await;
    nowhere.later(&scope, vec![line(&session, "lost")]);
    queue.flushed().await;
}

#[tokio::test]
async fn a_page_of_a_sparse_search_ends_early_with_a_place_to_go_on_from() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    write(&world, &scope, &session, 0, &["needle"]).await;
    let lines = (0..4500).map(|n| line(&session, format!("hay {n}"))).collect();
    writer(&world).append(&scope, lines).await.unwrap();
    let logs = Logs::new(world.table.clone());
    for filter in [LogFilter::default(), of_session(&session)] {
        let filter = LogFilter { search: Some("needle".into()), ..filter };
        let first = logs.list(&scope, &filter, &PageRequest { limit: 10, after: None }).await.unwrap();
        assert!(first.rows.is_empty() && first.next.is_some());
        assert_eq!(messages(&walk(&world.table, &scope, &filter, 10).await), ["needle"]);
    }
}
