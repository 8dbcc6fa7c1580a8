//! What is still to be written when an answer is ready. Lambda freezes a function once it has answered, unless an extension
//! inside of it has not asked for its next event yet: this one asks when everything is written. Whoever called has the
//! answer by then (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).

use crate::routes::Route;
use futures_util::future::{Either, pending};
use lambda_extension::{Extension, LambdaEvent, NextEvent, service_fn};
use lambda_http::Error;
use std::sync::Arc;
use std::time::Duration;
use theazo_store::LogQueue;
use tokio::sync::{Mutex, watch};

/// How long after the extension has heard of an event the handler may begin with it. An event that is no request, such as the
/// console's own for tests, never gets to the handler.
const BEGINS_WITHIN: Duration = Duration::from_secs(1);

/// The answer that the handler began last; Lambda gives it one event at a time. By the event's id it cannot get out of step
/// with what the extension hears of.
#[derive(Default)]
struct Latest {
    request_id: String,
    is_out: bool,
}

/// Sees to it that a function is not frozen too early.
pub(crate) struct Afterwards {
    queue: LogQueue,
    /// What the extension watches, in a function that may leave something to be written.
    latest: Option<watch::Sender<Latest>>,
}

impl Afterwards {
    /// For an endpoint's function, before it asks for its first event: after that Lambda takes no extensions. The future is
    /// the extension's, which goes on as long as the function does.
    ///
    /// # Errors
    /// When Lambda does not take the extension.
    pub(crate) async fn begin(
        route: &Route,
        queue: &LogQueue,
    ) -> Result<(Self, impl Future<Output = Result<(), Error>> + use<>), Error> {
        let queue = queue.clone();
        if !route.capabilities.iter().any(|capability| capability.writes_afterwards()) {
            return Ok((Self { queue, latest: None }, Either::Left(pending())));
        }
        let (latest, watched) = watch::channel(Latest::default());
        let state = Arc::new((Mutex::new(watched), queue.clone()));
        let flush = service_fn(move |event: LambdaEvent| {
            let state = state.clone();
            async move {
                let (watched, queue) = &*state;
                if let NextEvent::Invoke(event) = event.next {
                    let mut watched = watched.lock().await;
                    let begins = watched.wait_for(|latest| latest.request_id == event.request_id);
                    let begun = tokio::time::timeout(BEGINS_WITHIN, begins).await.is_ok();
                    if begun {
                        let _ = watched.wait_for(|latest| latest.is_out || latest.request_id != event.request_id).await;
                    }
                }
                queue.flushed().await;
                Ok::<_, Error>(())
            }
        });
        let extension = Extension::new().with_events(&["INVOKE"]).with_events_processor(flush).register().await?;
        let running = Either::Right(async move { extension.run().await });
        Ok((Self { queue, latest: Some(latest) }, running))
    }

    /// The answer to the event of that id, to be kept until it is out.
    pub(crate) fn answering(&self, request_id: String) -> Answering {
        if let Some(latest) = &self.latest {
            latest.send_replace(Latest { request_id: request_id.clone(), is_out: false });
        }
        Answering { queue: self.queue.clone(), request_id, latest: self.latest.clone() }
    }
}

/// An answer under way. Where it goes away unfinished, because the handler panicked or the caller hung up, it is out too.
pub(crate) struct Answering {
    queue: LogQueue,
    request_id: String,
    latest: Option<watch::Sender<Latest>>,
}

impl Answering {
    /// The answer is out. Without an extension, everything must be written now.
    pub(crate) async fn end(self) {
        if self.latest.is_none() {
            self.queue.flushed().await;
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(latest) = &self.latest {
            latest.send_if_modified(|latest| {
                let is_this = latest.request_id == self.request_id;
                latest.is_out |= is_this;
                is_this
            });
        }
    }
}
