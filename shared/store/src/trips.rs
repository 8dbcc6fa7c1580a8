//! Counting round trips to AWS services, exactly, for one request at a time.

use crate::{ahead, roles};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Instant;

tokio::task_local! {
    static CALLS: Calls;
}

type Calls = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// How often a request went to an AWS service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrips {
    /// All calls.
    pub total: usize,
    /// The longest chain of calls that had to wait for one another; what a caller waits for.
    pub sequential: usize,
}

/// Runs a request and counts the calls that it makes on its own task.
pub async fn count_round_trips<T>(request: impl Future<Output = T>) -> (T, RoundTrips) {
    let calls = Calls::default();
    let outcome = CALLS.scope(calls.clone(), request).await;
    let mut calls = calls.lock().map(|calls| calls.clone()).unwrap_or_default();
    (outcome, RoundTrips { total: calls.len(), sequential: longest_chain(&mut calls) })
}

/// The most calls of which each begins only after the one before has ended: earliest end first, greedily.
fn longest_chain(calls: &mut [(Instant, Instant)]) -> usize {
    calls.sort_by_key(|(_, end)| *end);
    let mut last_end = None;
    let mut chain = 0;
    for (start, end) in calls {
        if last_end.is_none_or(|last| *start >= last) {
            chain += 1;
            last_end = Some(*end);
        }
    }
    chain
}

/// That HTTP client, with its calls counted, and held back where they are made [ahead] of a proof. Only for clients of
/// services: whatever fetches the SDK's own credentials must not wait for a proof.
pub(crate) fn watched(client: SharedHttpClient, turns: Turns) -> SharedHttpClient {
    http_client_fn(move |settings, components| {
        SharedHttpConnector::new(Watched { connector: client.http_connector(settings, components), turns })
    })
}

/// When a call is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turns {
    /// At once.
    Now,
    /// After it has given its task's turn away once. That makes counting exact: all calls that are made side by side
    /// have begun before the first of them can be answered, however busy the machine is. For local stacks.
    OneLate,
}

#[derive(Debug)]
struct Watched {
    connector: SharedHttpConnector,
    turns: Turns,
}

impl HttpConnector for Watched {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (connector, turns) = (self.connector.clone(), self.turns);
        HttpConnectorFuture::new(async move {
            ahead::pass().await;
            if turns == Turns::OneLate
                && let Some(refused) = roles::refusal(&request)
            {
                ahead::answered();
                return Ok(refused);
            }
            let trip = Trip(Instant::now());
            if turns == Turns::OneLate {
                tokio::task::yield_now().await;
            }
            let answer = connector.call(request).await;
            drop(trip);
            ahead::answered();
            answer
        })
    }
}

/// A call under way. It counts also if nobody waits for its answer.
struct Trip(Instant);

impl Drop for Trip {
    fn drop(&mut self) {
        let call = (self.0, Instant::now());
        // Outside a counted request there is nobody to tell.
        let _ = CALLS.try_with(|calls| {
            if let Ok(mut calls) = calls.lock() {
                calls.push(call);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn chain(spans: &[(u64, u64)]) -> usize {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        longest_chain(&mut spans.iter().map(|(start, end)| (at(*start), at(*end))).collect::<Vec<_>>())
    }

    #[test]
    fn calls_side_by_side_count_as_one_and_calls_in_turn_add_up() {
        assert_eq!(chain(&[]), 0);
        assert_eq!(chain(&[(0, 10), (1, 9)]), 1);
        assert_eq!(chain(&[(0, 10), (10, 20)]), 2);
        assert_eq!(chain(&[(0, 10), (1, 30), (11, 20), (21, 25)]), 3);
    }
}
