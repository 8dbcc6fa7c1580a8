//! The proxy in front of machines: what connects to an address of an app, at the port of a service, is handed on to the
//! machine that runs it, byte for byte or, where the port has the handler for it, request for request.

use crate::apps::World;
use crate::room::Room;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of each direction of a connection that are kept as a record.
const KEPT: usize = 256 * 1024;
/// How long nothing may be said on a connection for a request.
const SILENCE: Duration = Duration::from_secs(600);

impl World {
    /// Listens at all addresses and ports of an app's services where nothing listens yet.
    pub(crate) fn relay(self: &Arc<Self>, name: &str) {
        let Some(runtime) = self.runtime() else { return };
        let _ = self.in_app(name, |app| {
            let services = app.machines.values().flat_map(|machine| machine.config["services"].as_array()).flatten();
            let ports = services.flat_map(|service| service["ports"].as_array()).flatten();
            let ports: Vec<(u16, bool)> = ports
                .filter_map(|port| Some((port["port"].as_u64()?.try_into().ok()?, has_handler(port, "http"))))
                .collect();
            for address in &mut app.addresses {
                for &(port, http) in &ports {
                    if address.relays.contains_key(&port) {
                        continue;
                    }
                    match listen(address.ip, port) {
                        Ok(listener) => {
                            let (world, app) = (self.clone(), name.to_owned());
                            let serving = match http {
                                true => runtime.spawn(serve_requests(world, app, port, listener)),
                                false => runtime.spawn(serve(world, app, port, listener)),
                            };
                            address.relays.insert(port, serving.abort_handle());
                        }
                        Err(error) => tracing::warn!(%error, ip = %address.ip, port, "the proxy cannot listen"),
                    }
                }
            }
            Ok(())
        });
    }

    /// What runs behind a port of an app, and at which port inside.
    fn behind(&self, app: &str, port: u16) -> Option<(Arc<Room>, u16)> {
        self.in_app(app, |app| {
            let started = app.machines.values().filter(|machine| machine.state == "started");
            let mut found = started.filter_map(|machine| {
                let services = machine.config["services"].as_array()?;
                let fits = |service: &&serde_json::Value| {
                    let ports = service["ports"].as_array();
                    ports.is_some_and(|ports| ports.iter().any(|known| known["port"] == port))
                };
                let inside = services.iter().find(fits)?["internal_port"].as_u64()?;
                Some((machine.run.as_ref()?.room.clone(), inside.try_into().ok()?))
            });
            Ok(found.next())
        })
        .ok()
        .flatten()
    }

    /// A connection to what runs behind a port of an app, if anything does and takes it.
    async fn connect(&self, app: &str, port: u16) -> Option<std::net::TcpStream> {
        let (room, inside) = self.behind(app, port)?;
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread that has moved into the machine's network is of no use for anything else.
        std::thread::spawn(move || tell.send(room.connect(inside)).is_ok());
        told.await.ok()?.ok()
    }
}

fn has_handler(port: &Value, wanted: &str) -> bool {
    port["handlers"].as_array().is_some_and(|handlers| handlers.iter().any(|handler| handler == wanted))
}

fn listen(ip: Ipv4Addr, port: u16) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((ip, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(world: Arc<World>, app: String, port: u16, listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((client, _)) = listener.accept().await {
        let (world, app) = (world.clone(), app.clone());
        tokio::spawn(async move {
            let Some(machine) = world.connect(&app, port).await else { return };
            if let Ok((sent, received)) = splice(client, machine).await {
                let (sent, received) = (String::from_utf8_lossy(&sent), String::from_utf8_lossy(&received));
                let subject = format!("{app}:{port}");
                world.records.add("proxy", &subject, json!({ "sent": sent, "received": received }));
            }
        });
    }
}

async fn serve_requests(world: Arc<World>, app: String, port: u16, listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let router = Router::new().fallback(move |request: Request| {
        let (world, app) = (world.clone(), app.clone());
        async move {
            let asked = json!({ "method": request.method().as_str(), "target": request.uri().to_string(),
                "headers": lines(request.headers()) });
            let response = hand_request_on(&world, &app, port, request).await;
            let answered = json!({ "status": response.status().as_u16(), "headers": lines(response.headers()) });
            world.records.add("proxy", &format!("{app}:{port}"), json!({ "sent": asked, "received": answered }));
            response
        }
    });
    let _ = axum::serve(listener, router).await;
}

/// The headers of a message, one in a line.
fn lines(headers: &HeaderMap) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect()
}

async fn hand_request_on(world: &World, app: &str, port: u16, mut request: Request) -> Response {
    let refused = |why: &'static str| (StatusCode::BAD_GATEWAY, why).into_response();
    let Some(machine) = world.connect(app, port).await else { return refused("no machine takes the request") };
    let machine = machine.set_nonblocking(true).and_then(|()| TcpStream::from_std(machine));
    let Ok(machine) = machine else { return refused("the connection to the machine broke") };
    let _ = machine.set_nodelay(true);
    for (name, value) in [("x-forwarded-proto", "https"), ("fly-client-ip", "127.0.0.1"), ("via", "1.1 fly.io")] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    match theazo_forwarder::forward(request, machine, SILENCE, ()).await {
        // It would not come to the caller, and the request go to wherever the program says.
        Ok(response) if is_replay(response.headers()) => refused("a replay was asked for, which is not emulated"),
        Ok(response) => response.map(Body::new).into_response(),
        Err(_) => refused("the machine gave no answer"),
    }
}

/// Whether an answer is an order to send its request to another machine. There are two ways to give it.
fn is_replay(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    headers.contains_key("fly-replay") || kind.to_ascii_lowercase().starts_with("application/vnd.fly.replay")
}

/// Hands on in both directions until both are done, and gives the beginnings of both.
async fn splice(client: TcpStream, machine: std::net::TcpStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    machine.set_nonblocking(true)?;
    let machine = TcpStream::from_std(machine)?;
    let _ = (client.set_nodelay(true), machine.set_nodelay(true));
    let ((from_client, to_client), (from_machine, to_machine)) = (client.into_split(), machine.into_split());
    Ok(tokio::join!(hand_on(from_client, to_machine), hand_on(from_machine, to_client)))
}

async fn hand_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> Vec<u8> {
    let (mut kept, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        let bytes = piece.get(..count).unwrap_or_default();
        kept.extend_from_slice(bytes.get(..KEPT.saturating_sub(kept.len())).unwrap_or(bytes));
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    kept
}
