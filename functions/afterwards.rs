//! What is still to be written when an answer is ready. Lambda freezes a function once it has answered, unless an extension
//! inside of it has not asked for its next event yet: this one asks when everything is written. Whoever called has the
//! answer by then (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).

use crate::routes::Route;
use futures_util::future::{Either, pending};
use lambda_extension::{Extension, LambdaEvent, service_fn};
use lambda_http::Error;
use std::sync::Arc;
use std::time::Duration;
use theazo_store::LogQueue;
use tokio::sync::{Mutex, watch};

/// How long after the extension has heard of an event the handler may begin with it. An event that is no request, such as the
/// console's own for tests, never gets to the handler.
const BEGINS_WITHIN: Duration = Duration::from_secs(1);

/// How many answers have begun and ended since the function started. As counts they cannot get out of step with what the
/// extension hears of.
#[derive(Clone, Copy, Default)]
struct Answers {
    begun: u64,
    ended: u64,
}

/// Sees to it that a function is not frozen too early.
pub(crate) struct Afterwards {
    queue: LogQueue,
    /// What the extension watches, in a function that may leave something to be written.
    answers: Option<watch::Sender<Answers>>,
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
            return Ok((Self { queue, answers: None }, Either::Left(pending())));
        }
        let (answers, watched) = watch::channel(Answers::default());
        let state = Arc::new((Mutex::new((watched, 0)), queue.clone()));
        let flush = service_fn(move |_: LambdaEvent| {
            let state = state.clone();
            async move {
                let (watched, queue) = &*state;
                let (watched, seen) = &mut *watched.lock().await;
                let begins = watched.wait_for(|answers| answers.begun > *seen);
                let _ = tokio::time::timeout(BEGINS_WITHIN, begins).await;
                let ended = watched.wait_for(|answers| answers.ended == answers.begun).await;
                *seen = ended.map_or(*seen, |answers| answers.begun);
                queue.flushed().await;
                Ok::<_, Error>(())
            }
        });
        let extension = Extension::new().with_events(&["INVOKE"]).with_events_processor(flush).register().await?;
        let running = Either::Right(async move { extension.run().await });
        Ok((Self { queue, answers: Some(answers) }, running))
    }

    /// An event's answer, to be kept until it is out.
    pub(crate) fn answering(&self) -> Answering {
        if let Some(answers) = &self.answers {
            answers.send_modify(|answers| answers.begun += 1);
        }
        Answering { queue: self.queue.clone(), answers: self.answers.clone() }
    }
}

/// An answer under way. Where it goes away unfinished, because the handler panicked or the caller hung up, it is out too.
pub(crate) struct Answering {
    queue: LogQueue,
    answers: Option<watch::Sender<Answers>>,
}

impl Answering {
    /// The answer is out. Without an extension, everything must be written now.
    pub(crate) async fn end(self) {
        if self.answers.is_none() {
            self.queue.flushed().await;
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(answers) = &self.answers {
            answers.send_modify(|answers| answers.ended += 1);
        }
    }
}
