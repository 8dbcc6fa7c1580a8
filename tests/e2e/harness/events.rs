//! Server-Sent Events as a browser reads them, and a server for deployments with limits of a test's own.

use super::Client;
use axum::Router;
use axum::body::Body;
use std::sync::Arc;
use theazo_functions::deployment::Deployment;
use theazo_functions::routes::ROUTES;
use theazo_functions::{Incoming, serve};
use tokio::net::TcpSocket;

/// An event; without a name it is a `message`, as in browsers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// A stream of events under way.
pub struct EventStream {
    answer: reqwest::Response,
    buffer: Vec<u8>,
    /// What a browser would send as `Last-Event-ID`.
    pub last_id: Option<String>,
    /// Comments seen so far.
    pub comments: usize,
}

impl EventStream {
    /// Opens one; panics when it is refused.
    pub async fn open(client: &Client, path: &str, last_id: Option<&str>) -> Self {
        let headers: Vec<_> = last_id.map(|id| ("last-event-id", id)).into_iter().collect();
        let answer = client.open(path, &headers).await;
        Self { last_id: last_id.map(str::to_owned), ..Self::of(answer) }
    }

    /// Posts for one; panics when it is refused.
    pub async fn post(client: &Client, path: &str, body: &serde_json::Value) -> Self {
        Self::of(client.open_post(path, body).await)
    }

    fn of(answer: reqwest::Response) -> Self {
        assert_eq!(answer.status().as_u16(), 200, "{}", answer.url().path());
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, buffer: Vec::new(), last_id: None, comments: 0 }
    }

    /// The next event, or nothing when the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = self.parse(std::str::from_utf8(&block).expect("UTF-8")) {
                    return Some(event);
                }
            }
            match self.answer.chunk().await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) => return None,
                Err(error) => panic!("the stream broke off: {error}"),
            }
        }
    }

    fn parse(&mut self, block: &str) -> Option<Event> {
        let (mut name, mut data) = ("message".to_owned(), None);
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("data", value)) => data = Some(value.to_owned()),
                Some(("id", value)) => self.last_id = Some(value.to_owned()),
                Some(("", _)) => self.comments += 1,
                _ => {}
            }
        }
        data.map(|data| Event { name, data })
    }
}

/// Serves a deployment's routes on a port of its own, for as long as the test's runtime lives. Gives `http://host:port`.
pub async fn serve_deployment(deployment: Deployment) -> String {
    let deployment = Arc::new(deployment);
    let answer = move |request: axum::extract::Request| {
        let deployment = deployment.clone();
        async move {
            let (parts, body) = request.into_parts();
            let incoming = Incoming {
                method: parts.method,
                source_ip: None,
                raw_path: parts.uri.path().to_owned(),
                raw_query: parts.uri.query().unwrap_or_default().to_owned(),
                headers: parts.headers,
                body: axum::body::to_bytes(body, 10_000_000).await.unwrap(),
            };
            let (mut response, trips) = serve(&deployment, ROUTES, incoming).await;
            // As the local server does.
            response.headers_mut().insert("x-theazo-round-trips", trips.sequential.into());
            response.headers_mut().insert("x-theazo-calls", trips.total.into());
            response.map(Body::new)
        }
    };
    let socket = TcpSocket::new_v4().unwrap();
    // Accepted connections have it as well: one whose reader takes nothing is full before megabytes are on their way.
    socket.set_send_buffer_size(64 * 1024).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(1024).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    base
}
