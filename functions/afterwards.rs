//! What is still to be written when an answer is ready. Lambda freezes a function once it has answered, unless an extension
//! inside of it has not asked for its next event yet: this one asks when everything is written. Whoever called has the
//! answer by then (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).

use crate::routes::Route;
use futures_util::future::{Either, pending};
use lambda_extension::{Extension, LambdaEvent, service_fn};
use lambda_http::Error;
use std::sync::Arc;
use theazo_store::LogQueue;
use tokio::sync::{Mutex, mpsc};

/// Sees to it that a function is not frozen too early.
pub(crate) struct Afterwards {
    queue: LogQueue,
    /// Tells the extension of a function that may leave something to be written that an answer is out.
    answered: Option<mpsc::UnboundedSender<()>>,
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
        if !route.capabilities.iter().any(|capability| capability.writes_afterwards()) {
            return Ok((Self { queue: queue.clone(), answered: None }, Either::Left(pending())));
        }
        let (answered, answers) = mpsc::unbounded_channel();
        let state = Arc::new((Mutex::new(answers), queue.clone()));
        let flush = service_fn(move |_: LambdaEvent| {
            let state = state.clone();
            async move {
                state.0.lock().await.recv().await;
                state.1.flushed().await;
                Ok::<_, Error>(())
            }
        });
        let extension = Extension::new().with_events(&["INVOKE"]).with_events_processor(flush).register().await?;
        let running = Either::Right(async move { extension.run().await });
        Ok((Self { queue: queue.clone(), answered: Some(answered) }, running))
    }

    /// An event's answer, to be kept until it is out.
    pub(crate) fn answering(&self) -> Answering {
        Answering { queue: self.queue.clone(), answered: self.answered.clone() }
    }
}

/// An answer under way. Where it goes away unfinished, because the handler panicked or the caller hung up, it is out too.
pub(crate) struct Answering {
    queue: LogQueue,
    answered: Option<mpsc::UnboundedSender<()>>,
}

impl Answering {
    /// The answer is out. Without an extension, everything must be written now.
    pub(crate) async fn end(self) {
        if self.answered.is_none() {
            self.queue.flushed().await;
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(answered) = &self.answered {
            let _ = answered.send(());
        }
    }
}
