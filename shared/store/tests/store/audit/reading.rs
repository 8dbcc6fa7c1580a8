//! Pages and filters over the months.

use super::trail;
use crate::pages::walk;
use crate::proxy::Proxy;
use crate::support::{Item, World, aws, name, number, operator, secret, text};
use futures_util::future::{join_all, join3};
use serde_json::Value;
use std::collections::HashSet;
use theazo_store::{
    AuditAction, AuditEntry, AuditFilter, AuditLog, AuditOutcome, NewSession, PageRequest, Position, SecretTarget,
    Sessions, Table, count_round_trips, now_ms,
};
use theazo_tenancy::{AuditId, KeyId, Mode, PlatformId, SessionId, TenantScope};
use time::OffsetDateTime;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const RETENTION_MS: i64 = 400 * DAY_MS;
/// Queries that a page may cost, as the store promises.
const MAX_QUERIES: usize = 16;

/// A tenant that is older than any entry can be.
fn old_tenant() -> TenantScope {
    operator().tenant(&PlatformId::make_at(now_ms() - 2 * RETENTION_MS), Mode::Live)
}

fn month_of(at_ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(at_ms.div_euclid(1000)).unwrap();
    format!("{:04}-{:02}", time.year(), u8::from(time.month()))
}

/// The first moment of the month.
fn month_start_ms(at_ms: i64) -> i64 {
    let time = OffsetDateTime::from_unix_timestamp(at_ms.div_euclid(1000)).unwrap();
    time.date().replace_day(1).unwrap().midnight().assume_utc().unix_timestamp() * 1000
}

fn entry(at_ms: i64) -> AuditEntry {
    AuditEntry {
        id: AuditId::make_at(at_ms),
        at_ms,
        principal: "platform".into(),
        key: None,
        action: AuditAction::SecretsSet,
        names: Vec::new(),
        session: None,
        agent: None,
        outcome: AuditOutcome::Succeeded,
        source_ip: None,
        request: None,
    }
}

/// Puts an entry as the store would have done at its time.
async fn put(world: &World, scope: &TenantScope, entry: &AuditEntry) {
    let columns: Item = serde_dynamo::to_item(entry).unwrap();
    world.put(&scope.platform_wide().unwrap().audit(&month_of(entry.at_ms)).row(entry.id.as_str()), columns).await;
}

async fn put_all(world: &World, scope: &TenantScope, entries: &[AuditEntry]) {
    join_all(entries.iter().map(|entry| put(world, scope, entry))).await;
}

fn newest_first<'a>(entries: impl Iterator<Item = &'a AuditEntry>) -> Vec<AuditEntry> {
    let mut sorted: Vec<_> = entries.cloned().collect();
    sorted.sort_by(|one, other| other.id.cmp(&one.id));
    sorted
}

fn lets_through(filter: &AuditFilter, entry: &AuditEntry) -> bool {
    filter.secret.as_ref().is_none_or(|name| entry.names.iter().any(|one| one == name.canonical()))
        && (filter.session.is_none() || filter.session == entry.session)
        && (filter.key.is_none() || filter.key == entry.key)
        && filter.since_ms.is_none_or(|since| entry.at_ms >= since)
        && filter.until_ms.is_none_or(|until| entry.at_ms < until)
}

#[tokio::test]
async fn pages_of_any_size_go_back_over_the_months_and_show_every_entry_once() {
    let world = World::start().await;
    let (scope, now) = (old_tenant(), now_ms());
    let (sessions, keys) = ([SessionId::make(), SessionId::make()], [KeyId::make(), KeyId::make()]);
    // Spread over 396 days, and on both sides of where months meet; some months have none.
    let starts: Vec<i64> = (0..4).map(|n| month_start_ms(now - n * 60 * DAY_MS)).collect();
    let times = (0..18).map(|n| now - n * 22 * DAY_MS);
    let times = times.chain(starts.iter().flat_map(|start| [start - 1, *start]));
    let entries: Vec<_> = times
        .filter(|at_ms| *at_ms <= now)
        .enumerate()
        .map(|(n, at_ms)| AuditEntry {
            names: [vec!["TOKEN"], vec!["OTHER", "TOKEN"], vec!["TOKENS", "NOT_TOKEN"], vec![]][n % 4]
                .iter()
                .map(ToString::to_string)
                .collect(),
            session: sessions.get(n % 3).cloned(),
            key: keys.get(n % 5).cloned(),
            ..entry(at_ms)
        })
        .collect();
    put_all(&world, &scope, &entries).await;
    let all = AuditFilter::default;
    let filters = [
        all(),
        AuditFilter { secret: Some(name("tOkEn")), ..all() },
        AuditFilter { session: Some(sessions[0].clone()), ..all() },
        AuditFilter { key: Some(keys[1].clone()), ..all() },
        AuditFilter { secret: Some(name("token")), session: Some(sessions[1].clone()), ..all() },
        AuditFilter { key: Some(KeyId::make()), ..all() },
        AuditFilter { since_ms: Some(starts[1]), ..all() },
        AuditFilter { since_ms: Some(starts[1] - 1), until_ms: Some(starts[1] + 1), ..all() },
        AuditFilter { until_ms: Some(starts[0]), ..all() },
        AuditFilter { until_ms: Some(now + DAY_MS), ..all() },
        AuditFilter { since_ms: Some(starts[3]), until_ms: Some(starts[1]), secret: Some(name("TOKEN")), ..all() },
        AuditFilter { since_ms: Some(starts[1]), until_ms: Some(starts[1]), ..all() },
        AuditFilter { since_ms: Some(now + DAY_MS), ..all() },
        AuditFilter { until_ms: Some(0), ..all() },
    ];
    let log = AuditLog::new(world.table.clone());
    for (n, filter) in filters.iter().enumerate() {
        let expected = newest_first(entries.iter().filter(|entry| lets_through(filter, entry)));
        assert_eq!(expected.is_empty(), [5, 11, 12, 13].contains(&n), "{filter:?}");
        for limit in [1, 2, 3, 5, 8, entries.len() - 1, entries.len(), 100] {
            let (shown, pages) = walk(limit, async |page| log.list(&scope, filter, &page).await).await;
            assert_eq!(shown, expected, "{limit} {filter:?}");
            assert_eq!(pages, expected.len().div_ceil(limit).max(1), "no empty page at the end: {limit} {filter:?}");
        }
    }
    for stranger in [world.tenant().await, operator().tenant(scope.platform(), Mode::Test)] {
        let seen = trail(&world, &stranger, &all()).await;
        assert!(seen.iter().all(|entry| entry.action == AuditAction::KeyCreate), "{seen:?}");
    }
}

#[tokio::test]
async fn an_entry_is_not_shown_after_400_days_whether_or_not_the_table_has_dropped_it() {
    let world = World::start().await;
    let (scope, now) = (old_tenant(), now_ms());
    let kept = [entry(now - 1), entry(now - RETENTION_MS + 60_000)];
    let expired = [entry(now - RETENTION_MS - 1), entry(now - RETENTION_MS - 40 * DAY_MS), entry(1_000)];
    put_all(&world, &scope, &kept).await;
    put_all(&world, &scope, &expired).await;
    let since_ever = AuditFilter { since_ms: Some(0), ..AuditFilter::default() };
    for filter in [AuditFilter::default(), since_ever] {
        assert_eq!(trail(&world, &scope, &filter).await, kept);
    }
    let until = AuditFilter { until_ms: Some(now - RETENTION_MS), ..AuditFilter::default() };
    assert_eq!(trail(&world, &scope, &until).await, []);
    // Nor to somebody who goes on from where such entries were still shown, or says so.
    let log = AuditLog::new(world.table.clone());
    for at_ms in [now - RETENTION_MS - 1, now - RETENTION_MS - 30 * DAY_MS] {
        let after = Some(Position(format!("{}#{}", month_of(at_ms), AuditId::make_at(at_ms))));
        let page = log.list(&scope, &AuditFilter::default(), &PageRequest { limit: 10, after }).await.unwrap();
        assert!(page.rows.is_empty() && page.next.is_none());
    }
}

#[tokio::test]
async fn a_deployment_can_keep_entries_for_another_number_of_days() {
    let world = World::start().await;
    let (scope, now) = (old_tenant(), now_ms());
    let entries = [entry(now - 1), entry(now - 29 * DAY_MS), entry(now - 31 * DAY_MS), entry(now - 500 * DAY_MS)];
    put_all(&world, &scope, &entries).await;
    for (days, shown) in [(30, 2), (400, 3), (600, 4)] {
        let table = world.table.clone().with_audit_days(days);
        let page = PageRequest { limit: 10, after: None };
        let (mut listed, mut request) = (Vec::new(), page);
        // Beyond the usual retention, a page may end before it is full.
        for _ in 0..10 {
            let page = AuditLog::new(table.clone()).list(&scope, &AuditFilter::default(), &request).await.unwrap();
            listed.extend(page.rows);
            let Some(next) = page.next else { break };
            request.after = Some(next);
        }
        assert_eq!(listed, entries[..shown], "{days} days");

        let made = Sessions::new(table).create(&scope, &NewSession::default()).await.unwrap();
        let rows = world.scan().await.into_iter();
        let mut written =
            rows.filter(|row| row.get("session").is_some_and(|id| id.as_s().unwrap() == made.id.as_str()));
        let row = written.next().expect("its entry");
        let ttl: i64 = row["ttl"].as_n().unwrap().parse().unwrap();
        let kept_ms = ttl * 1000 - row["at_ms"].as_n().unwrap().parse::<i64>().unwrap();
        assert!((kept_ms - i64::from(days) * DAY_MS).abs() <= 1000, "{days} days: {kept_ms} ms");
        world.remove(&scope.platform_wide().unwrap().audit(&month_of(now)).row(row["sk"].as_s().unwrap())).await;
    }
}

#[tokio::test]
async fn what_is_written_meanwhile_moves_no_entry_from_one_page_to_another() {
    let world = World::start().await;
    let scope = world.tenant().await;
    for n in 0..9 {
        world.set(&scope, &SecretTarget::Platform, &[secret(&format!("N{n}"), "n")]).await.unwrap();
    }
    let log = AuditLog::new(world.table.clone());
    for filter in [AuditFilter::default(), AuditFilter { secret: Some(name("N3")), ..AuditFilter::default() }] {
        let before = trail(&world, &scope, &filter).await;
        let (shown, _) = walk(2, async |page| {
            let sessions = world.sessions();
            let new = NewSession::default();
            let platform = SecretTarget::Platform;
            let again = [secret("N3", "again")];
            let (page, session, set) = join3(
                log.list(&scope, &filter, &page),
                sessions.create(&scope, &new),
                world.set(&scope, &platform, &again),
            )
            .await;
            session.unwrap();
            set.unwrap();
            page
        })
        .await;
        let ids: HashSet<_> = shown.iter().map(|entry| &entry.id).collect();
        assert_eq!(ids.len(), shown.len(), "none twice");
        assert!(before.iter().all(|entry| ids.contains(&entry.id)), "none skipped");
        assert!(shown.windows(2).all(|pair| pair[0].id > pair[1].id));
        assert_eq!(shown[shown.len() - before.len()..], before);
    }
}

/// Makes every query read so few rows as if there were thousands.
fn read_two_rows(operation: &str, body: &mut Value) {
    if operation == "Query" {
        body["Limit"] = 2.into();
    }
}

#[tokio::test]
async fn a_page_costs_a_bounded_number_of_queries_however_few_entries_a_filter_lets_through() {
    let world = World::start().await;
    let (scope, now) = (old_tenant(), now_ms());
    let wanted = SessionId::make();
    let mut entries: Vec<_> = (0..120).map(|n| entry(now - n * 3 * DAY_MS)).collect();
    for n in [3, 80, 119] {
        entries[n].session = Some(wanted.clone());
    }
    put_all(&world, &scope, &entries).await;
    let expected = newest_first(entries.iter().filter(|entry| entry.session.is_some()));
    let proxy = Proxy::start(&world.dynamodb_url).await;
    proxy.edit(Some(read_two_rows));
    let log = AuditLog::new(Table::new(&aws(&proxy.url, &world.kms_url), "theazo"));
    let filter = AuditFilter { session: Some(wanted), ..AuditFilter::default() };
    for limit in [1, 2, 100] {
        let (shown, pages) = walk(limit, async |page| {
            let before = proxy.count();
            let page = log.list(&scope, &filter, &page).await;
            assert!(proxy.count() - before <= MAX_QUERIES, "{}", proxy.count() - before);
            page
        })
        .await;
        assert_eq!(shown, expected);
        assert!(pages > 3, "a page reads a bounded part: {pages}");
    }
    // A trail that is not filtered, of months with few entries, fits on its page.
    proxy.edit(None);
    let (shown, pages) = walk(100, async |page| log.list(&scope, &AuditFilter::default(), &page).await).await;
    assert_eq!((shown.len(), pages), (120, 2));
}

#[tokio::test]
async fn a_usual_page_takes_one_sequential_round_trip() {
    let world = World::start().await;
    let young = world.tenant().await;
    let old = old_tenant();
    for _ in 0..3 {
        world.session(&young).await;
        world.session(&old).await;
    }
    let log = AuditLog::new(world.table.clone());
    let all = AuditFilter::default();
    // A young platform's trail is read to its end; of an old one there is more than a page.
    for (scope, limit, at_once) in [(&young, 100, 2), (&old, 2, 2)] {
        let page = PageRequest { limit, after: None };
        let (page, trips) = count_round_trips(log.list(scope, &all, &page)).await;
        assert_eq!(page.unwrap().next.is_some(), limit == 2);
        assert!(trips.sequential == 1 && trips.total <= at_once, "{trips:?}");
    }
    // A few, when every month has to be asked.
    let (page, trips) = count_round_trips(log.list(&old, &all, &PageRequest { limit: 100, after: None })).await;
    assert_eq!(page.unwrap().rows.len(), 3);
    assert!(trips.sequential <= 4 && trips.total <= MAX_QUERIES, "{trips:?}");
}

#[tokio::test]
async fn a_position_that_no_page_gave_reads_nothing() {
    let world = World::start().await;
    let scope = world.tenant().await;
    world.session(&scope).await;
    let log = AuditLog::new(world.table.clone());
    let now = month_of(now_ms());
    for bad in ["", "x", &now, &format!("{now}#x"), "values#", &format!("{now}#{}", SessionId::make()), "9999-99#"] {
        let page = PageRequest { limit: 10, after: Some(Position(bad.into())) };
        let page = log.list(&scope, &AuditFilter::default(), &page).await.unwrap();
        assert!(page.rows.is_empty() && page.next.is_none(), "{bad}");
    }
    // A row that is no entry is an error of ours and not shown as if it were one.
    let id = AuditId::make();
    let columns = Item::from([("at_ms".to_owned(), number(now_ms())), ("id".to_owned(), text(id.as_str()))]);
    world.put(&scope.platform_wide().unwrap().audit(&now).row(id.as_str()), columns).await;
    let page = PageRequest { limit: 10, after: None };
    assert!(log.list(&scope, &AuditFilter::default(), &page).await.is_err());
}
