//! The proxy in front of machines: what connects to an address of an app, at the port of a service, is handed on to the
//! machine that runs it, byte for byte.

use crate::apps::World;
use crate::room::Room;
use serde_json::json;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of each direction of a connection that are kept as a record.
const KEPT: usize = 256 * 1024;

impl World {
    /// Listens at all addresses and ports of an app's services where nothing listens yet.
    pub(crate) fn relay(self: &Arc<Self>, name: &str) {
        let Some(runtime) = self.runtime() else { return };
        let _ = self.in_app(name, |app| {
            let services = app.machines.values().flat_map(|machine| machine.config["services"].as_array()).flatten();
            let ports = services.flat_map(|service| service["ports"].as_array()).flatten();
            let ports: Vec<u16> =
                ports.filter_map(|port| port["port"].as_u64().and_then(|port| port.try_into().ok())).collect();
            for address in &mut app.addresses {
                for port in &ports {
                    if address.relays.contains_key(port) {
                        continue;
                    }
                    match listen(address.ip, *port) {
                        Ok(listener) => {
                            let serving = runtime.spawn(serve(self.clone(), name.to_owned(), *port, listener));
                            address.relays.insert(*port, serving.abort_handle());
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
            let Some((room, inside)) = world.behind(&app, port) else { return };
            let (tell, told) = tokio::sync::oneshot::channel();
            // A thread that has moved into the machine's network is of no use for anything else.
            std::thread::spawn(move || tell.send(room.connect(inside)).is_ok());
            let Ok(Ok(machine)) = told.await else { return };
            if let Ok((sent, received)) = splice(client, machine).await {
                let (sent, received) = (String::from_utf8_lossy(&sent), String::from_utf8_lossy(&received));
                let subject = format!("{app}:{port}");
                world.records.add("proxy", &subject, json!({ "sent": sent, "received": received }));
            }
        });
    }
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
