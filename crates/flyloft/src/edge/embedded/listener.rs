//! The sockets that the edge listens on: for each address one per thread, so that the kernel spreads the connections.
//!
//! What must hold: an address that somebody else listens on is an error, although `SO_REUSEPORT` would let the two of
//! us share it. A socket that was handed over keeps its queue, so none of them may be left without a thread.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::edge::EdgeError;
use crate::sockets::is_meant;

/// Connections that may wait to be accepted. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// One address and its sockets.
pub struct Listener {
    pub address: SocketAddr,
    pub sockets: Vec<TcpListener>,
}

impl Listener {
    /// Listens on `wanted` with at least `count` sockets: those of `inherited` that are bound to it, and new ones.
    pub fn open(wanted: SocketAddr, count: usize, inherited: &mut Vec<TcpListener>) -> Result<Self, EdgeError> {
        let failed = |source| EdgeError::Listen { address: wanted, source };
        let known = inherited.iter().filter_map(|socket| socket.local_addr().ok());
        let mut address = known.into_iter().find(|known| is_meant(wanted, *known)).unwrap_or(wanted);
        let same = |socket: &mut TcpListener| socket.local_addr().is_ok_and(|own| own == address);
        let mut sockets: Vec<_> = inherited.extract_if(.., same).collect();
        if sockets.is_empty() {
            let first = first(wanted).map_err(failed)?;
            address = first.local_addr().map_err(failed)?;
            sockets.push(first);
        }
        while sockets.len() < count {
            sockets.push(another(address).map_err(failed)?);
        }
        Ok(Self { address, sockets })
    }
}

/// Sockets that another process of ours has handed over.
pub fn adopt(sockets: Vec<OwnedFd>) -> Vec<TcpListener> {
    sockets.into_iter().map(TcpListener::from).collect()
}

/// Alone at first: the kernel refuses an address that is taken only to a socket that does not offer to share it.
fn first(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    listen(socket)
}

fn another(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    listen(socket)
}

fn socket(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit both on Linux. Without the second one a client that vanished holds its app's socket.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20)),
    )?;
    Ok(socket)
}

fn listen(socket: Socket) -> std::io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
