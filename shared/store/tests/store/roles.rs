//! Calls that a function's role does not allow, on a local stack that is held to roles.

use crate::support::World;
use std::sync::Mutex;
use theazo_store::{
    LogFilter, LogLevel, LogQueue, LogSource, LogWriter, Logs, NewLog, PageRequest, as_function, enforce_roles,
};

/// What was asked of functions with a name that only this test uses.
static ASKED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

fn may_call(function: &str, target: &str, body: &[u8]) -> bool {
    assert!(body.starts_with(b"{"), "a body in JSON");
    ASKED.lock().unwrap().push((function.to_owned(), target.to_owned()));
    function != "may-not"
}

#[tokio::test]
async fn what_a_function_calls_is_refused_where_its_role_does_not_allow_it_also_in_what_it_has_spawned() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    enforce_roles(may_call);
    let read = async || {
        let (logs, request) = (Logs::new(world.table.clone()), PageRequest { limit: 100, after: None });
        logs.list(&scope, &LogFilter::default(), &request).await.map(|page| page.rows.len())
    };
    assert_eq!(as_function("may", read()).await.unwrap(), 1);
    let refused = format!("{:?}", as_function("may-not", read()).await.unwrap_err());
    assert!(refused.contains("AccessDenied"), "{refused}");
    // Whoever is no function is asked nothing.
    let asked = ASKED.lock().unwrap().len();
    assert_eq!(read().await.unwrap(), 1);
    assert_eq!(ASKED.lock().unwrap().len(), asked);

    let queue = LogQueue::default();
    let writer = LogWriter::new(world.table.clone(), queue.clone());
    let later = async |function| {
        as_function(function, async {
            writer.later(&scope, vec![NewLog::of_session(&session, LogLevel::Info, LogSource::System, "m".to_owned())]);
        })
        .await;
        queue.flushed().await;
        read().await.unwrap()
    };
    assert_eq!((later("may-not").await, later("may").await), (1, 2));
    let calls = ASKED.lock().unwrap();
    assert!(calls.iter().any(|(function, target)| function == "may-not" && target.ends_with(".BatchWriteItem")));
}
