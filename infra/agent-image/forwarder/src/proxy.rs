//! Connections of callers, and a connection to the agent for each of their requests. Every request is looked at, those that
//! follow on a connection as well.

use crate::forward::{Body, LONGEST_HEAD, NoAnswer, forward};
use crate::idle::Idle;
use crate::routes::Routes;
use crate::strangers::{Eviction, Stranger, Strangers};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use theazo_guest_protocol::forwarder::PORT_TOKEN_HEADER;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once of those who have shown the token.
const CONNECTIONS: usize = 128;
/// Connections at once of those who have not yet: they take no place of those who have. With one more, the oldest ends.
const STRANGERS: usize = 256;
/// How long the head of a request may take, and so how long a connection may stay between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// How long nothing may be said on a connection while a request is under way, or after an upgrade.
const SILENCE: Duration = Duration::from_secs(600);
/// How long to wait when no connection can be taken.
const BREATHER: Duration = Duration::from_millis(50);

/// Takes connections, and forwards what is admitted.
pub struct Proxy(Shared);

struct Shared {
    routes: Routes,
    screen: fn(&mut HeaderMap) -> Result<(), NoAnswer>,
    strangers: Strangers,
    admitted: Arc<Semaphore>,
    silence: Duration,
    head_within: Duration,
}

/// A connection's place among those that there may be.
struct Place {
    shared: Arc<Shared>,
    held: Mutex<Option<Held>>,
}

/// A stranger's place until a request shows the token.
enum Held {
    Stranger(Stranger),
    Admitted { _permit: OwnedSemaphorePermit },
}

impl Place {
    /// Takes a place among the admitted, once. False when there is none.
    fn admit(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*held, Some(Held::Admitted { .. })) {
            return true;
        }
        let Ok(permit) = self.shared.admitted.clone().try_acquire_owned() else { return false };
        match held.take() {
            Some(Held::Stranger(stranger)) if stranger.admit() => {
                *held = Some(Held::Admitted { _permit: permit });
                true
            }
            _ => false,
        }
    }
}

/// Why a request is not forwarded, or has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NoToken,
    NoTunnel,
    TooMany,
    Closed,
    NoAnswer,
}

impl Fault {
    fn answer(self) -> Response<Body> {
        let (status, code, message) = match self {
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "the header theazo-port-token does not carry the port's token",
            ),
            Self::NoTunnel => (StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "no tunnels are opened here"),
            Self::TooMany => (StatusCode::SERVICE_UNAVAILABLE, "rate_limited", "too many connections to this port"),
            Self::Closed => {
                (StatusCode::BAD_GATEWAY, "port_closed", "nothing takes connections on that port of the agent")
            }
            Self::NoAnswer => {
                (StatusCode::BAD_GATEWAY, "bad_answer", "the agent's program gave no answer that is one in HTTP")
            }
        };
        let text = format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"{message}\"}}}}\n");
        let mut answer = Response::new(whole(text.into()));
        *answer.status_mut() = status;
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // What a stranger still has to say is not listened to.
        if self == Self::NoToken {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed()
}

impl Proxy {
    /// For those whose token opens one of these ways.
    pub fn new(routes: Routes) -> Self {
        Self::with_limits(routes, SILENCE, HEAD_WITHIN)
    }

    fn with_limits(routes: Routes, silence: Duration, head_within: Duration) -> Self {
        let (strangers, admitted) = (Strangers::new(STRANGERS), Arc::new(Semaphore::new(CONNECTIONS)));
        Self(Shared { routes, screen: |_| Ok(()), strangers, admitted, silence, head_within })
    }

    /// The same, and what an agent's program answers passes only as this leaves it, or not at all.
    pub fn screening(self, screen: fn(&mut HeaderMap) -> Result<(), NoAnswer>) -> Self {
        Self(Shared { screen, ..self.0 })
    }

    /// Takes connections for ever.
    pub async fn serve(self, listener: TcpListener) {
        let shared = Arc::new(self.0);
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(BREATHER).await;
                continue;
            };
            tokio::spawn(attend(shared.clone(), stream, shared.strangers.enter()));
        }
    }
}

/// One connection of a caller, to its end or its upgrade.
async fn attend(shared: Arc<Shared>, stream: TcpStream, (stranger, eviction): (Stranger, Eviction)) {
    let _ = stream.set_nodelay(true);
    let (io, head_within) = (TokioIo::new(Idle::new(stream, shared.silence)), shared.head_within);
    let place = Arc::new(Place { shared, held: Mutex::new(Some(Held::Stranger(stranger))) });
    let service = service_fn(move |request| {
        let place = place.clone();
        async move { Ok::<_, Infallible>(answer(request, place).await.unwrap_or_else(Fault::answer)) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(head_within).max_buf_size(LONGEST_HEAD);
    tokio::select! {
        // That it broke is its caller's business.
        _ = server.serve_connection(io, service).with_upgrades() => {}
        () = eviction.come() => {}
    }
}

async fn answer(mut request: Request<Incoming>, place: Arc<Place>) -> Result<Response<Body>, Fault> {
    let shared = place.shared.clone();
    let way = shared.routes.find(request.headers()).ok_or(Fault::NoToken)?;
    if !place.admit() {
        return Err(Fault::TooMany);
    }
    if request.method() == Method::CONNECT {
        return Err(Fault::NoTunnel);
    }
    request.headers_mut().remove(PORT_TOKEN_HEADER);
    let program = way.connect().await.map_err(|_| Fault::Closed)?;
    let answered = forward(request, program, shared.silence, place).await.and_then(|mut response| {
        (shared.screen)(response.headers_mut())?;
        Ok(response)
    });
    answered.map_err(|NoAnswer| Fault::NoAnswer)
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
