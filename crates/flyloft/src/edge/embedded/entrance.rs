//! Where connections come into the edge: from clients, or from a proxy before it.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::unix::net::UnixListener;

use tokio::net::{TcpStream, UnixStream};

/// Where connections come in.
pub enum Entrance {
    /// For clients.
    Clients(TcpListener),
    /// For clients that speak TLS.
    Secure(TcpListener),
    /// For a proxy that says who its clients are.
    Proxy(UnixListener),
}

/// The same, where a runtime waits.
pub enum OpenEntrance {
    Clients(tokio::net::TcpListener),
    Secure(tokio::net::TcpListener),
    Proxy(tokio::net::UnixListener),
}

/// Who has come in.
pub enum Caller {
    Client(TcpStream, IpAddr),
    Secure(TcpStream, IpAddr),
    Proxy(UnixStream),
}

impl Entrance {
    pub fn open(self) -> io::Result<OpenEntrance> {
        match self {
            Entrance::Clients(listener) => tcp(listener).map(OpenEntrance::Clients),
            Entrance::Secure(listener) => tcp(listener).map(OpenEntrance::Secure),
            Entrance::Proxy(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener).map(OpenEntrance::Proxy)
            }
        }
    }
}

fn tcp(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

impl OpenEntrance {
    pub async fn accept(&self) -> io::Result<Caller> {
        match self {
            OpenEntrance::Clients(listener) => {
                listener.accept().await.map(|(stream, peer)| Caller::Client(stream, peer.ip()))
            }
            OpenEntrance::Secure(listener) => {
                listener.accept().await.map(|(stream, peer)| Caller::Secure(stream, peer.ip()))
            }
            OpenEntrance::Proxy(listener) => listener.accept().await.map(|(stream, _)| Caller::Proxy(stream)),
        }
    }
}

impl Caller {
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Caller::Client(_, from) | Caller::Secure(_, from) => Some(*from),
            Caller::Proxy(_) => None,
        }
    }
}
