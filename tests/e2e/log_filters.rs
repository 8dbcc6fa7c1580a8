//! What lists and streams of log entries give under their filters: each entry that is as it was asked for, and no other, of
//! history and of what comes.

use crate::harness::{Aged, Client, EventStream};
use crate::logs::token;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use theazo_http::format_time;
use theazo_store::{Agent, LogLevel, LogSource, NewLog, Session, now_ms};

const MINUTE_MS: i64 = 60_000;
const LEVELS: [LogLevel; 4] = [LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];
/// How long ago entries were written, minutes: some before what a stream begins with by itself.
const AGES: [i64; 3] = [25, 10, 4];
/// Of entries that are written while streams follow.
const NEW: i64 = 0;

/// What an entry is about: a session, or an agent of it. Both by their place in the bed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct About {
    session: usize,
    agent: Option<usize>,
}

const ABOUT: [About; 5] = [
    About { session: 0, agent: None },
    About { session: 0, agent: Some(0) },
    About { session: 0, agent: Some(1) },
    About { session: 1, agent: None },
    About { session: 1, agent: Some(2) },
];

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Asked {
    session: Option<usize>,
    agent: Option<usize>,
    level: Option<LogLevel>,
    /// Minutes ago, each.
    since: Option<i64>,
    until: Option<i64>,
}

impl Asked {
    fn allows(&self, about: About, level: LogLevel, age: i64) -> bool {
        self.session.is_none_or(|session| session == about.session)
            && self.agent.is_none_or(|agent| Some(agent) == about.agent)
            && self.level.is_none_or(|asked| asked == level)
            && self.since.is_none_or(|since| age < since)
            && self.until.is_none_or(|until| age > until)
    }
}

/// Two sessions and three agents that have been there for an hour, with entries of every level and age about each.
struct Bed {
    aged: Aged,
    sessions: Vec<Session>,
    agents: Vec<Agent>,
    now_ms: i64,
}

impl Bed {
    async fn make(name: &str) -> Self {
        let aged = Aged::make(name, 60 * MINUTE_MS).await;
        let sessions = vec![aged.session("one").await, aged.session("two").await];
        let mut agents = Vec::new();
        for session in [0, 0, 1] {
            agents.push(aged.agent(&sessions[session]).await);
        }
        let bed = Self { aged, sessions, agents, now_ms: now_ms() };
        for age in AGES {
            bed.write(age).await;
        }
        bed
    }

    async fn write(&self, age: i64) {
        let entry = |(about, level): (&About, LogLevel)| {
            let text = text_of(*about, level, age);
            match about.agent {
                Some(agent) => NewLog::of_agent(&self.agents[agent], level, LogSource::Agent, text),
                None => NewLog::of_session(&self.sessions[about.session], level, LogSource::System, text),
            }
        };
        let entries = ABOUT.iter().flat_map(|about| LEVELS.map(|level| (about, level))).map(entry).collect();
        self.aged.write(age * MINUTE_MS, entries).await;
    }

    /// As a query, with a text that only this test's own entries have.
    fn query(&self, asked: &Asked) -> String {
        let mut query = "search=ENTRY".to_owned();
        let mut add = |name: &str, value: Option<String>| {
            query.extend(value.map(|value| format!("&{name}={value}")));
        };
        let ago = |minutes: i64| format_time(self.now_ms - minutes * MINUTE_MS);
        add("sessionId", asked.session.map(|session| self.sessions[session].id.to_string()));
        add("agentId", asked.agent.map(|agent| self.agents[agent].id.to_string()));
        add("level", asked.level.map(|level| level.as_str().to_owned()));
        add("since", asked.since.map(ago));
        add("until", asked.until.map(ago));
        query
    }
}

fn text_of(about: About, level: LogLevel, age: i64) -> String {
    format!("entry of {age}: {} of {about:?}", level.as_str())
}

/// The texts of what is to be found among entries of these ages.
fn expected(asked: &Asked, ages: &[i64]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for age in ages {
        for about in ABOUT {
            let levels = LEVELS.into_iter().filter(|level| asked.allows(about, *level, *age));
            found.extend(levels.map(|level| text_of(about, level, *age)));
        }
    }
    found
}

/// All pages of a list.
async fn list(client: &Client, query: &str) -> Vec<String> {
    let (mut found, mut next) = (Vec::new(), String::new());
    for _ in 0..40 {
        let page = client.get(&format!("/v1/logs?{query}&limit=7{next}")).await.expect(200);
        let texts = page["data"].as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned());
        found.extend(texts);
        match page["cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => return found,
        }
    }
    panic!("the pages of {query} do not end");
}

/// Every filter alone and with others, one that no entry passes among them.
fn all_asked() -> Vec<Asked> {
    let none = Asked::default();
    let whose = [
        none,
        Asked { session: Some(0), ..none },
        Asked { session: Some(1), ..none },
        Asked { agent: Some(1), ..none },
        Asked { agent: Some(2), ..none },
        Asked { session: Some(0), agent: Some(0), ..none },
        Asked { session: Some(0), agent: Some(2), ..none },
    ];
    let levels = [None, Some(LogLevel::Debug), Some(LogLevel::Info), Some(LogLevel::Warn), Some(LogLevel::Error)];
    let times = [(None, None), (Some(15), None), (None, Some(7)), (Some(15), Some(7)), (Some(7), Some(15))];
    let mut all = Vec::new();
    for one in whose {
        for level in levels {
            all.extend(times.map(|(since, until)| Asked { level, since, until, ..one }));
        }
    }
    all
}

#[tokio::test]
async fn a_list_has_every_entry_that_its_filters_allow_once_and_no_other() {
    let bed = Bed::make("filtered lists").await;
    let own = token(&bed.aged.client, bed.sessions[0].id.as_str()).await;
    let mut found_any = 0;
    for asked in all_asked() {
        let query = bed.query(&asked);
        let found = list(&bed.aged.client, &query).await;
        let wanted = expected(&asked, &AGES);
        found_any += usize::from(!wanted.is_empty());
        assert_eq!((found.iter().cloned().collect(), found.len()), (wanted.clone(), wanted.len()), "{asked:?}");
        // With its session's token: what of it is of that session, whatever is asked for.
        if asked.level == Some(LogLevel::Warn) {
            let is_own = |text: &String| text.contains("session: 0");
            let wanted: BTreeSet<_> = wanted.into_iter().filter(is_own).collect();
            let found = list(&own, &query).await;
            assert_eq!((found.iter().cloned().collect(), found.len()), (wanted.clone(), wanted.len()), "{asked:?}");
        }
    }
    assert!(found_any > 100, "{found_any}");
}

#[tokio::test]
async fn since_is_the_first_moment_that_is_shown_and_until_the_first_that_is_not() {
    let bed = Bed::make("moments of entries").await;
    let client = &bed.aged.client;
    let page = client.get(&format!("/v1/logs?{}", bed.query(&Asked { agent: Some(0), ..Asked::default() }))).await;
    let page = page.expect(200);
    let moments: BTreeSet<&str> =
        page["data"].as_array().unwrap().iter().map(|entry| entry["timestamp"].as_str().unwrap()).collect();
    // Those that were written together share theirs, or have the next.
    assert!(moments.len() >= AGES.len(), "{moments:?}");
    for moment in &moments {
        let count = async |bound: &str| {
            let query = format!("search=ENTRY&agentId={}&{bound}={moment}", bed.agents[0].id);
            list(client, &query).await.len()
        };
        let all = page["data"].as_array().unwrap().iter().map(|entry| entry["timestamp"].as_str().unwrap());
        let (before, after) = (all.clone().filter(|at| at < moment).count(), all.filter(|at| at >= moment).count());
        assert!(after > 0);
        assert_eq!((count("until").await, count("since").await), (before, after), "{moment}");
    }
}

/// Reads a stream until it has given everything that it was to give.
async fn follow(stream: &mut EventStream, wanted: &BTreeSet<String>, what: &str) {
    let mut seen = BTreeSet::new();
    while seen != *wanted {
        let event = stream.next().await.unwrap_or_else(|| panic!("{what} ends"));
        assert_eq!(event.name, "log", "{what}: {event:?}");
        let text = event.json()["message"].as_str().unwrap().to_owned();
        assert!(wanted.contains(&text), "{what} gives {text}, which it was not asked for");
        assert!(seen.insert(text), "{what} gives an entry twice");
    }
}

#[tokio::test]
async fn a_stream_gives_of_the_last_15_minutes_or_since_it_was_told_what_its_filters_allow_then_what_comes_and_no_other()
 {
    let bed = Bed::make("filtered streams").await;
    let client = &bed.aged.client;
    let own = token(client, bed.sessions[0].id.as_str()).await;
    let none = Asked::default();
    let mut wanted = Vec::new();
    for level in [None, Some(LogLevel::Error)] {
        for since in [None, Some(30), Some(7)] {
            for whose in [
                none,
                Asked { session: Some(1), ..none },
                Asked { agent: Some(1), ..none },
                Asked { session: Some(0), agent: Some(0), ..none },
            ] {
                let asked = Asked { level, since, ..whose };
                let told = Asked { since: since.or(Some(15)), ..asked };
                wanted.push((client, format!("/v1/logs/stream?{}", bed.query(&asked)), told));
            }
            // The path says whose it is, and an agent's stream begins with all of it.
            let asked = Asked { level, since, ..none };
            for (reader, agent) in [(client, 0), (&own, 1)] {
                let path = format!("/v1/agents/{}/logs/stream?{}", bed.agents[agent].id, bed.query(&asked));
                wanted.push((reader, path, Asked { agent: Some(agent), ..asked }));
            }
            // A session's token sees its session, which it need not name.
            for session in [None, Some(0)] {
                let asked = Asked { session, ..asked };
                let told = Asked { session: Some(0), since: since.or(Some(15)), ..asked };
                wanted.push((&own, format!("/v1/logs/stream?{}", bed.query(&asked)), told));
            }
        }
    }
    let streams = wanted.iter().map(async |(reader, path, asked)| {
        let mut stream = EventStream::open(reader, path, None).await;
        let history = expected(asked, &AGES);
        follow(&mut stream, &history, path).await;
        stream
    });
    let mut streams = join_all(streams).await;
    bed.write(NEW).await;
    join_all(streams.iter_mut().zip(&wanted).map(async |(stream, (_, path, asked))| {
        follow(stream, &expected(asked, &[NEW]), path).await;
    }))
    .await;
    // What was allowed to none of them: another session's, with the token of this one.
    let path = format!("/v1/logs/stream?{}", bed.query(&Asked { session: Some(1), ..none }));
    own.get(&path).await.expect_error(404, "not_found");
    let path = format!("/v1/agents/{}/logs/stream", bed.agents[2].id);
    own.get(&path).await.expect_error(404, "not_found");
}
