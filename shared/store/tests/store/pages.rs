//! Pages: whatever their size and filter, they neither skip nor repeat a row.

use crate::agents::new_agent;
use crate::support::{World, number};
use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use futures_util::future::join_all;
use theazo_store::{
    AgentFilter, AgentStatus, NewAgent, NewSession, Page, PageRequest, SessionFilter, SessionStatus, StoreError,
};
use theazo_tenancy::{SessionId, UserId};

/// Everything that pages of that size show, and how many pages it took.
pub async fn walk<T>(limit: usize, read: impl AsyncFn(PageRequest) -> Result<Page<T>, StoreError>) -> (Vec<T>, usize) {
    let (mut rows, mut after) = (Vec::new(), None);
    for pages in 1..200 {
        let page = read(PageRequest { limit, after }).await.unwrap();
        assert!(page.rows.len() <= limit);
        rows.extend(page.rows);
        match page.next {
            Some(next) => after = Some(next),
            None => return (rows, pages),
        }
    }
    panic!("the pages do not end")
}

#[tokio::test]
async fn pages_of_sessions_of_any_size_show_every_row_once_newest_first() {
    const COUNT: usize = 23;
    let world = World::start().await;
    let (scope, sessions) = (world.tenant().await, world.sessions());
    let stranger = world.tenant().await;
    let mut made = Vec::new();
    for n in 0..COUNT {
        let user = UserId::parse(["one", "two", "three"][n % 3]);
        made.push(sessions.create(&scope, &NewSession { user, ..NewSession::default() }).await.unwrap());
        world.session(&stranger).await;
    }
    for session in made.iter_mut().step_by(4) {
        *session = sessions.terminate(&scope, &session.id).await.unwrap();
    }
    let middle = made[COUNT / 2].created_at_ms;
    let mut newest_first: Vec<_> = made.iter().collect();
    newest_first.sort_by(|one, other| other.id.cmp(&one.id));
    let filters = [
        SessionFilter::default(),
        SessionFilter { status: Some(SessionStatus::Terminated), ..SessionFilter::default() },
        SessionFilter { status: Some(SessionStatus::Paused), ..SessionFilter::default() },
        SessionFilter { user: UserId::parse("two"), ..SessionFilter::default() },
        SessionFilter { created_after_ms: Some(middle), ..SessionFilter::default() },
        SessionFilter {
            status: Some(SessionStatus::Active),
            user: UserId::parse("three"),
            created_after_ms: Some(middle),
        },
    ];
    for filter in &filters {
        let expected: Vec<_> = newest_first
            .iter()
            .filter(|session| filter.status.is_none_or(|status| session.status == status))
            .filter(|session| filter.user.as_ref().is_none_or(|user| session.user_id.as_deref() == Some(user.as_str())))
            .filter(|session| filter.created_after_ms.is_none_or(|after| session.created_at_ms > after))
            .map(|session| session.id.clone())
            .collect();
        for limit in (1..=COUNT + 1).chain([100]) {
            let (rows, pages) = walk(limit, async |page| sessions.list(&scope, filter, &page).await).await;
            let shown: Vec<_> = rows.into_iter().map(|session| session.id).collect();
            assert_eq!(shown, expected, "{limit} {filter:?}");
            assert_eq!(pages, expected.len().div_ceil(limit).max(1), "no empty page at the end: {limit} {filter:?}");
        }
    }
}

#[tokio::test]
async fn pages_of_agents_of_any_size_show_every_row_once() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let agents = world.agents();
    let (one, other) = (world.session(&scope).await, world.session(&scope).await);
    let mut made = Vec::new();
    for n in 0..14 {
        let session = if n % 2 == 0 { &one } else { &other };
        let provider = if n % 3 == 0 { "e2b" } else { "docker" };
        let compute = if n % 5 == 0 { "node" } else { "python" };
        let new = NewAgent { provider: provider.into(), compute: compute.into(), ..new_agent() };
        let agent = agents.begin_boot(&scope, session, new).await.unwrap();
        let agent = match n % 4 {
            0 => agents.transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap(),
            1 => agents.transition(&scope, &agent.id, AgentStatus::Failed, |_| {}).await.unwrap(),
            _ => agent,
        };
        made.push(agent);
    }
    made.sort_by(|one, other| other.id.cmp(&one.id));
    let filters = [
        AgentFilter::default(),
        AgentFilter { status: Some(AgentStatus::Booting), ..AgentFilter::default() },
        AgentFilter { provider: Some("e2b".into()), ..AgentFilter::default() },
        AgentFilter { provider: Some("docker".into()), compute: Some("node".into()), status: None },
    ];
    let own = scope.session(&one.id).unwrap();
    for filter in &filters {
        let matching = |agent: &&theazo_store::Agent| {
            filter.status.is_none_or(|status| agent.status == status)
                && filter.provider.as_ref().is_none_or(|provider| *provider == agent.provider)
                && filter.compute.as_ref().is_none_or(|compute| *compute == agent.compute)
        };
        let expected: Vec<_> = made.iter().filter(matching).collect();
        let of_one: Vec<_> = expected.iter().filter(|agent| agent.session == one.id).map(|agent| &agent.id).collect();
        for limit in 1..=15 {
            let (rows, _) = walk(limit, async |page| agents.list(&scope, filter, &page).await).await;
            assert!(rows.iter().map(|agent| &agent.id).eq(expected.iter().map(|agent| &agent.id)), "{limit}");
            let (rows, _) = walk(limit, async |page| agents.list_of_session(&own, filter, &page).await).await;
            assert!(rows.iter().map(|agent| &agent.id).eq(of_one.iter().copied()), "{limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_fits_few_of_many_rows_still_finds_them_all() {
    const COUNT: usize = 4300;
    let world = World::start().await;
    let (scope, sessions) = (world.tenant().await, world.sessions());
    let oldest = world.session(&scope).await;
    let oldest = sessions.terminate(&scope, &oldest.id).await.unwrap();
    // One row that the store wrote, thousands of times over, more than one page may read.
    let template = world.session(&scope).await;
    let row = world.row(&scope.platform_wide().unwrap().sessions().row(template.id.as_str())).await.unwrap();
    let copies: Vec<_> = (1..COUNT)
        .map(|n| {
            let mut copy = row.clone();
            let id = SessionId::make().to_string();
            copy.insert("sk".into(), crate::support::text(&id));
            copy.insert("id".into(), crate::support::text(&id));
            copy.insert("revision".into(), number(n as i64));
            let put = PutRequest::builder().set_item(Some(copy)).build().unwrap();
            WriteRequest::builder().put_request(put).build()
        })
        .collect();
    for chunk in copies.chunks(25 * 4) {
        let writes =
            chunk.chunks(25).map(|few| world.raw.batch_write_item().request_items("theazo", few.to_vec()).send());
        for answer in join_all(writes).await {
            assert!(answer.unwrap().unprocessed_items.unwrap_or_default().is_empty());
        }
    }
    let filter = SessionFilter { status: Some(SessionStatus::Terminated), ..SessionFilter::default() };
    for limit in [1, 100] {
        let (rows, pages) = walk(limit, async |page| sessions.list(&scope, &filter, &page).await).await;
        assert_eq!(rows.iter().map(|session| &session.id).collect::<Vec<_>>(), [&oldest.id]);
        assert!(pages > 1, "a page reads a bounded part");
    }
    let (rows, _) = walk(100, async |page| sessions.list(&scope, &SessionFilter::default(), &page).await).await;
    assert_eq!(rows.len(), COUNT + 1);
    assert!(rows.windows(2).all(|pair| pair[0].id > pair[1].id));
}
