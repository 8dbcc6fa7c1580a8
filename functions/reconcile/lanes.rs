//! Doing many things, a few at a time, so that none of those that take long holds up the others.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Does all of it, in this order, in so many lanes. What takes longer than `slice` goes on beside the lanes, where it only
/// waits for others, and the next begins.
pub(super) async fn in_lanes<F: Future>(
    all: impl IntoIterator<Item = F>,
    lanes: usize,
    slice: Duration,
) -> Vec<F::Output> {
    let free = Arc::new(Semaphore::new(lanes));
    let mut under_way = FuturesUnordered::new();
    let mut done = Vec::new();
    for work in all {
        let lane = loop {
            tokio::select! {
                biased;
                lane = free.clone().acquire_owned() => break lane.ok(),
                Some(outcome) = under_way.next(), if !under_way.is_empty() => done.push(outcome),
            }
        };
        under_way.push(within(lane, work, slice));
    }
    while let Some(outcome) = under_way.next().await {
        done.push(outcome);
    }
    done
}

async fn within<F: Future>(lane: Option<OwnedSemaphorePermit>, work: F, slice: Duration) -> F::Output {
    let mut work = pin!(work);
    if let Ok(outcome) = tokio::time::timeout(slice, work.as_mut()).await {
        return outcome;
    }
    drop(lane);
    work.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_waits_for_ever_holds_up_none_of_the_others() {
        let last = Semaphore::new(0);
        let work = (0..50).map(|index| {
            let last = &last;
            async move {
                // All but the last wait for it.
                if index == 49 {
                    last.add_permits(49);
                } else {
                    last.acquire().await.unwrap().forget();
                }
                index
            }
        });
        let all = in_lanes(work, 4, Duration::from_millis(5));
        let mut done = tokio::time::timeout(LONG, all).await.unwrap();
        done.sort_unstable();
        assert_eq!(done, (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn no_more_begin_than_there_are_lanes_and_in_their_order() {
        let (now, most, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = (0..40).map(|index| {
            let (now, most, begun) = (&now, &most, &begun);
            async move {
                assert_eq!(begun.fetch_add(1, Ordering::Relaxed), index);
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
                now.fetch_sub(1, Ordering::Relaxed);
            }
        });
        assert_eq!(in_lanes(work, 4, LONG).await.len(), 40);
        assert_eq!((most.into_inner(), begun.into_inner()), (4, 40));
        assert!(in_lanes(std::iter::empty::<std::future::Ready<()>>(), 4, LONG).await.is_empty());
    }
}
