//! One endpoint, or one scheduled function, as a Lambda function.

use crate::afterwards::{Afterwards, Answering};
use crate::deployment::{Deployment, DeploymentConfig};
use crate::routes::Route;
use crate::schedule::Scheduled;
use crate::{Incoming, serve};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::tower::util::MapRequest;
use lambda_http::{Adapter, Error, LambdaEvent, RequestExt, StreamAdapter, lambda_runtime, service_fn};
use serde_json::Value;
use std::net::IpAddr;
use theazo_http::{Body, LogFormat, init_logging};
use theazo_store::Aws;

/// The whole of an endpoint's binary: `lambda!(routes::SESSIONS_CREATE);`
#[macro_export]
macro_rules! lambda {
    ($route:path) => {
        #[tokio::main(flavor = "current_thread")]
        async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            theazo_functions::lambda::run(&$route).await
        }
    };
}

/// The whole of a scheduled function's binary: `scheduled!(schedule::RECONCILE);`
#[macro_export]
macro_rules! scheduled {
    ($function:path) => {
        #[tokio::main(flavor = "current_thread")]
        async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            theazo_functions::lambda::run_scheduled(&$function).await
        }
    };
}

/// Runs a scheduled function under the Lambda runtime until the runtime ends it. What the event says does not matter;
/// the answer is what the run did, as JSON.
///
/// # Errors
/// As [`run`].
pub async fn run_scheduled(function: &'static Scheduled) -> Result<(), Error> {
    init_logging(LogFormat::Json)?;
    let deployment = Deployment::new(&Aws::of_function()?, DeploymentConfig::from_env()?);
    let deployment = &deployment;
    lambda_runtime::run(service_fn(move |_: LambdaEvent<Value>| async move {
        let done = (function.run)(deployment).await;
        // Once it has answered, a function is frozen.
        deployment.log_queue().flushed().await;
        Ok::<Value, Error>(done?)
    }))
    .await
}

/// Runs one endpoint under the Lambda runtime until the runtime ends it.
///
/// # Errors
/// When the function's environment is incomplete, or the runtime cannot be reached.
pub async fn run(route: &'static Route) -> Result<(), Error> {
    init_logging(LogFormat::Json)?;
    let config = DeploymentConfig::from_env()?;
    let config = if route.info.authenticates() { config.authenticating()? } else { config };
    let deployment = Deployment::new(&Aws::of_function()?, config);
    let (afterwards, extension) = Afterwards::begin(route, deployment.log_queue()).await?;
    let (deployment, afterwards) = (&deployment, &afterwards);
    let serving = async {
        if route.info.streams {
            let service = service_fn(move |event: lambda_http::Request| async move {
                let answering = afterwards.answering(event.lambda_context().request_id);
                let response = answer(deployment, route, event).await;
                Ok::<_, Error>(response.map(|body| until_the_end(body, answering)))
            });
            lambda_runtime::run(MapRequest::new(StreamAdapter::from(service), with_every_value)).await
        } else {
            let service = service_fn(move |event: lambda_http::Request| async move {
                let answering = afterwards.answering(event.lambda_context().request_id);
                let (parts, body) = answer(deployment, route, event).await.into_parts();
                let body = buffered(body.collect().await);
                answering.end().await;
                Ok::<_, Error>(http::Response::from_parts(parts, body))
            });
            lambda_runtime::run(MapRequest::new(Adapter::from(service), with_every_value)).await
        }
    };
    tokio::select! {
        served = serving => served,
        ended = extension => ended,
    }
}

/// A REST API's event has the last value of each header beside all of them, and `lambda_http` lets the one take the place
/// of the others: without it, what must not choose between two credentials sees both.
fn with_every_value(mut event: LambdaEvent<LambdaRequest>) -> LambdaEvent<LambdaRequest> {
    if let LambdaRequest::ApiGatewayV1(request) = &mut event.payload {
        for name in request.multi_value_headers.keys() {
            request.headers.remove(name);
        }
    }
    event
}

async fn answer(deployment: &Deployment, route: &'static Route, event: lambda_http::Request) -> http::Response<Body> {
    let raw_path = event.raw_http_path().to_owned();
    let source_ip = source_ip(&event.request_context());
    let (parts, body) = event.into_parts();
    let body = match body {
        lambda_http::Body::Text(text) => Bytes::from(text),
        lambda_http::Body::Binary(bytes) => Bytes::from(bytes),
        _ => Bytes::new(),
    };
    let incoming = Incoming {
        method: parts.method,
        source_ip,
        raw_path,
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    serve(deployment, &[route], incoming).await.0
}

/// A stream that keeps its answer under way until its end.
fn until_the_end(body: Body, answering: Answering) -> Body {
    let end = stream::once(answering.end()).filter_map(|()| async { None });
    Body::Stream(body.into_pieces().chain(end).boxed())
}

/// Every body of ours that is no stream is JSON or empty, so it is always text.
fn buffered(body: Bytes) -> lambda_http::Body {
    match String::from_utf8(body.into()) {
        Ok(text) if text.is_empty() => lambda_http::Body::Empty,
        Ok(text) => lambda_http::Body::Text(text),
        Err(error) => lambda_http::Body::Binary(error.into_bytes()),
    }
}

/// The caller's address as the gateway saw it; headers that callers can set do not count.
fn source_ip(context: &RequestContext) -> Option<IpAddr> {
    let text = match context {
        RequestContext::ApiGatewayV1(context) => context.identity.source_ip.as_deref(),
        RequestContext::ApiGatewayV2(context) => context.http.source_ip.as_deref(),
        _ => None,
    };
    text?.parse().ok()
}
