//! The way to the agent's port: through the agent's own bridge and no other interface.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// How long connecting may take. An agent's port is on the same machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longest name of an interface.
const LONGEST_NAME: usize = 15;

/// Where connections go, and through which interface.
#[derive(Clone, Debug)]
pub struct Way {
    to: SocketAddrV4,
    bridge: String,
}

impl Way {
    /// To that port, through that interface.
    pub fn new(to: SocketAddrV4, bridge: &str) -> Option<Self> {
        let fits = (1..=LONGEST_NAME).contains(&bridge.len()) && to.port() != 0;
        fits.then(|| Self { to, bridge: bridge.to_owned() })
    }

    /// Whether there is a way: the interface is there, and connections can be bound to it.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_out(&self) -> io::Result<()> {
        self.socket().map(drop)
    }

    /// Whether the interface is there.
    pub fn is_there(&self) -> bool {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        // Without a socket there is nothing to ask with; that passes.
        socket.map_or(true, |socket| rustix::net::netdevice::name_to_index(&socket, &self.bridge).is_ok())
    }

    /// A connection. It is bound to the interface, which Linux allows everybody since 5.7: when the address belongs to
    /// another network by then, it leads nowhere.
    ///
    /// # Errors
    /// What the system says; it takes at most 5 s.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let connected = tokio::time::timeout(CONNECT_WITHIN, self.socket()?.connect(SocketAddr::V4(self.to))).await;
        connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    fn socket(&self) -> io::Result<TcpSocket> {
        let socket = TcpSocket::new_v4()?;
        socket.bind_device(Some(self.bridge.as_bytes()))?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}
