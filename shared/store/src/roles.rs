//! On whose behalf calls to AWS services are made. On AWS each function has a process and a role of its own; a local stack
//! has one process for all of them and no roles. Tests hold it to the roles all the same ([`enforce_roles`]).

use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use futures_util::stream::{BoxStream, StreamExt, poll_fn};
use std::future::Future;
use std::sync::OnceLock;

tokio::task_local! {
    static FUNCTION: &'static str;
}

/// Whether that function may make a call: the `x-amz-target` that it names, and its body in JSON.
pub type MayCall = fn(function: &str, target: &str, body: &[u8]) -> bool;

static ROLES: OnceLock<MayCall> = OnceLock::new();

/// From now on, clients of local stacks in this process refuse what a function may not call, as IAM would. Only the first
/// time counts.
pub fn enforce_roles(may_call: MayCall) {
    let _ = ROLES.set(may_call);
}

/// Work that calls as that function. What it spawns does not, unless it is [`carried`].
pub fn as_function<F: Future>(function: &'static str, work: F) -> impl Future<Output = F::Output> {
    FUNCTION.scope(function, work)
}

/// The same of an answer's pieces, which are made after the function's work.
pub fn pieces_as_function<T: 'static>(
    function: &'static str,
    mut pieces: BoxStream<'static, T>,
) -> BoxStream<'static, T> {
    poll_fn(move |context| FUNCTION.sync_scope(function, || pieces.poll_next_unpin(context))).boxed()
}

/// Work that is to be spawned, and that calls as whoever spawns it.
pub fn carried<F: Future + Send>(work: F) -> impl Future<Output = F::Output> + Send {
    let function = FUNCTION.try_with(|function| *function).ok();
    async move {
        match function {
            Some(function) => FUNCTION.scope(function, work).await,
            None => work.await,
        }
    }
}

/// The answer that a call is refused with, if its function may not make it.
pub(crate) fn refusal(request: &HttpRequest) -> Option<HttpResponse> {
    let may_call = ROLES.get()?;
    let function = FUNCTION.try_with(|function| *function).ok()?;
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    let body = request.body().bytes().unwrap_or_default();
    if may_call(function, target, body) {
        return None;
    }
    let told = r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"its role does not allow it"}"#;
    let mut answer = HttpResponse::new(400.try_into().ok()?, SdkBody::from(told));
    answer.headers_mut().insert("content-type", "application/x-amz-json-1.0");
    Some(answer)
}
