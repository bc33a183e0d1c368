//! The daemon's sockets on ports that are published: each takes IPv4 and IPv6, on every address of the host.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use flyloft_core::port::Protocol;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, TcpKeepalive, Type};

use crate::error::Error;
use crate::machine::ports::holder_of;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A port of the host that is ours, and that nobody serves yet. Whoever comes meanwhile waits.
pub enum Claim {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

impl Claim {
    /// One that the daemon before had, and which port it is.
    pub(super) fn adopt(socket: OwnedFd) -> Option<(Protocol, u16, Self)> {
        let socket = Socket::from(socket);
        let port = socket.local_addr().ok()?.as_socket()?.port();
        match socket.r#type().ok()? {
            Type::STREAM => Some((Protocol::Tcp, port, Claim::Tcp(socket.into()))),
            Type::DGRAM => Some((Protocol::Udp, port, Claim::Udp(socket.into()))),
            _ => None,
        }
    }

    /// The same socket once more, for the next daemon.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        match self {
            Claim::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Claim::Udp(socket) => socket.as_fd().try_clone_to_owned(),
        }
    }

    pub(super) fn take(protocol: Protocol, port: u16) -> io::Result<Self> {
        let (kind, number) = match protocol {
            Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
            Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
        };
        let (socket, address) = match Socket::new(Domain::IPV6, kind, Some(number)) {
            Ok(socket) => {
                socket.set_only_v6(false)?;
                (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
            }
            // A kernel without IPv6.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                (Socket::new(Domain::IPV4, kind, Some(number))?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            }
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        if protocol == Protocol::Udp {
            if address.is_ipv6() {
                // An answer is to come from where the question went.
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            socket.bind(&address.into())?;
            return Ok(Claim::Udp(socket.into()));
        }
        // Connections of before that linger are in nobody's way. With UDP it would mean to share the port.
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive())?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Claim::Tcp(socket.into()))
    }
}

/// What finds out that the other side has vanished.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20))
}

/// Why a port cannot be had.
pub(super) fn taken(protocol: Protocol, port: u16, error: io::Error, lock: &Path) -> Error {
    let what = format!("port {port} ({protocol}) of this machine is in use");
    let elsewhere = "take another one with --host-port, or leave the choice to Flyloft";
    if error.kind() != io::ErrorKind::AddrInUse {
        return Error::because(format!("failed to listen on port {port} ({protocol}) of this machine"), error);
    }
    match holder_of(protocol, port, lock) {
        Some(holder) if holder.ours => Error::conflict(format!("{what} by Flyloft itself")).hint(elsewhere),
        Some(holder) => {
            Error::conflict(format!("{what} by `{}` (process {})", holder.name, holder.pid)).hint(elsewhere)
        }
        None => Error::conflict(what).hint(elsewhere),
    }
}
