//! SSH, as a door: `git push` and `git fetch` of an app, every command as `ssh HOST COMMAND`, and shells.
//!
//! ```text
//!   accept ── Connection (one a client; russh calls it) ── Session (one a channel; a task)
//!             who is it · which channels                   git, or one command, and its streams
//! ```
//!
//! Anybody may knock with any user name, but only a public key that the backend knows comes in. Nothing here opens a
//! file, starts a shell or forwards a port for a client.

mod connection;
mod entry;
pub mod host_key;
mod keyboard;
mod session;
mod strangers;
mod words;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::MethodKind;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Backend;
use crate::sockets::claim;
use connection::Connection;
use strangers::Strangers;

#[derive(Clone, Debug)]
pub struct SshConfig {
    /// `[::]:PORT` listens on both families, unless the IPv4 wildcard is listed with the same port.
    pub listen: Vec<SocketAddr>,
    /// The private host key in OpenSSH's format. Made when it is missing.
    pub host_key: PathBuf,
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time of clients that are not known yet, and of those at one address.
    pub strangers: usize,
    pub strangers_of_one: usize,
    /// How long a client may take to become known.
    pub login_grace: Duration,
    /// How long a push may send nothing while others wait for its place.
    pub patience: Duration,
    /// Pushes and fetches that are under way, for whoever ends the daemon.
    pub errands: TaskTracker,
}

impl SshConfig {
    pub fn new(listen: Vec<SocketAddr>, host_key: PathBuf) -> Self {
        Self {
            listen,
            host_key,
            connections: 512,
            strangers: 128,
            strangers_of_one: 8,
            login_grace: Duration::from_secs(20),
            patience: Duration::from_secs(60),
            errands: TaskTracker::new(),
        }
    }
}

/// How long clients have to go by themselves once they have been told that the door closes.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum SshError {
    #[error("failed to listen on `{address}`")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("failed to read the host key `{}`", path.display())]
    ReadKey { path: PathBuf, source: russh::keys::Error },
    #[error("failed to make the host key `{}`", path.display())]
    MakeKey { path: PathBuf, source: io::Error },
}

/// An open door. Dropping it ends every connection.
pub struct SshDoor {
    addresses: Vec<SocketAddr>,
    fingerprint: String,
    entrance: CancellationToken,
    connections: TaskTracker,
    closing: CancellationToken,
}

/// What all connections share.
struct Shared {
    backend: Arc<dyn Backend>,
    russh: Arc<russh::server::Config>,
    /// For the greeting, which says how to come back.
    port: u16,
    login_grace: Duration,
    connections: Arc<Semaphore>,
    strangers: Strangers,
    patience: Duration,
    errands: TaskTracker,
    /// Who is connected.
    clients: TaskTracker,
    closing: CancellationToken,
}

impl SshDoor {
    /// Must be called within a tokio runtime. From the return of this call on, clients are served.
    pub fn open(config: &SshConfig, listeners: Vec<TcpListener>, backend: Arc<dyn Backend>) -> Result<Self, SshError> {
        let key = host_key::load_or_make(&config.host_key)?;
        let fingerprint = key.fingerprint(russh::keys::HashAlg::Sha256).to_string();
        let addresses: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let (closing, entrance, connections) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let shared = Arc::new(Shared {
            backend,
            russh: Arc::new(protocol(key)),
            port: addresses.first().map_or(22, SocketAddr::port),
            login_grace: config.login_grace,
            connections: Arc::new(Semaphore::new(config.connections)),
            strangers: Strangers::new(config.strangers, config.strangers_of_one),
            patience: config.patience,
            errands: config.errands.clone(),
            clients: connections.clone(),
            closing: closing.clone(),
        });
        for listener in listeners {
            let open = closing.child_token().run_until_cancelled_owned(accept(listener, shared.clone()));
            tokio::spawn(entrance.clone().run_until_cancelled_owned(open));
        }
        Ok(Self { addresses, fingerprint, entrance, connections, closing })
    }

    /// Lets nobody in any more. Who is in stays.
    pub fn shut(&self) {
        self.entrance.cancel();
    }

    /// Tells whoever is in that the door closes, and closes it when they have gone, a moment later at most.
    pub async fn close(&self) {
        self.shut();
        self.closing.cancel();
        self.connections.close();
        let _ = tokio::time::timeout(2 * FAREWELL, self.connections.wait()).await;
    }

    /// Where it listens, in the order of the configuration, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// `SHA256:…` of the host key, as a client shows it at the first contact.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl Drop for SshDoor {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn protocol(key: russh::keys::PrivateKey) -> russh::server::Config {
    russh::server::Config {
        server_id: russh::SshId::Standard("SSH-2.0-flyloft".into()),
        methods: (&[MethodKind::PublicKey][..]).into(),
        // OpenSSH first asks with no key at all which methods there are; that needs no delay.
        auth_rejection_time_initial: Some(Duration::ZERO),
        auth_rejection_time: Duration::from_millis(100),
        max_auth_attempts: 12,
        keys: vec![key],
        nodelay: true,
        // A build may be silent for long, so only a client that stays silent to four pings is gone.
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_max: 4,
        ..Default::default()
    }
}

/// Listens on each address, with what was `inherited` where it is bound to it.
pub fn listen(addresses: &[SocketAddr], mut inherited: Vec<OwnedFd>) -> Result<Vec<TcpListener>, SshError> {
    let both = |address: &SocketAddr| {
        let narrow = addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
        address.ip() == Ipv6Addr::UNSPECIFIED && !narrow
    };
    let mut one = |address: &SocketAddr| {
        if let Some(listener) = claim(&mut inherited, *address) {
            listener.set_nonblocking(true)?;
            return TcpListener::from_std(listener);
        }
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(!both(address))?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&(*address).into())?;
        socket.listen(128)?;
        TcpListener::from_std(socket.into())
    };
    addresses.iter().map(|a| one(a).map_err(|source| SshError::Listen { address: *a, source })).collect()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                shared.clients.spawn(serve(stream, peer, shared.clone()));
            }
            // Out of descriptors, most likely: what is open must be able to finish.
            Err(error) => {
                tracing::warn!(%error, "failed to accept an SSH connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one client until it goes, or until it may not be served any more: it has not said who it is in time, its key
/// was removed, or the door closes.
async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    // Those that are not known make way for each other, so what is left are the team's own.
    let stranger = shared.strangers.enter(peer.ip());
    let Ok(connection) = shared.connections.clone().try_acquire_owned() else {
        shared.strangers.warn(peer, "too many SSH connections, refused one");
        return;
    };
    // russh runs the session in a task of its own; closing the socket is what ends it from outside.
    let Ok(socket) = prepare(&stream) else { return };
    // Before anybody is looked up, so that no change is missed.
    let keys_changed = shared.backend.keys_changed();
    let (known, becomes_known) = oneshot::channel();
    let ended = CancellationToken::new();
    let handler = Connection::new(shared.clone(), peer, known, ended.clone(), connection);
    let session = async {
        match russh::server::run_stream(shared.russh.clone(), stream, handler).await {
            Ok(session) => session.await,
            Err(error) => Err(error),
        }
    };
    let watch = async {
        // Too late, or gone before it was known.
        let known = stranger.made_way().run_until_cancelled(tokio::time::timeout(shared.login_grace, becomes_known));
        let Some(Ok(Ok(client))) = known.await else {
            if stranger.made_way().is_cancelled() {
                shared.strangers.warn(peer, "many SSH connections say nothing, one made way for others");
            }
            return;
        };
        drop(stranger);
        tokio::select! {
            // What runs for it says so itself.
            () = shared.closing.cancelled() => tokio::time::sleep(FAREWELL).await,
            () = client.expelled(&*shared.backend, keys_changed) => {
                tracing::info!(%peer, key = client.principal.name, "ending an SSH connection: its key was removed");
            }
        }
    };
    tokio::select! {
        result = session => {
            if let Err(error) = result {
                tracing::debug!(%peer, %error, "an SSH connection ended");
            }
        }
        () = watch => {
            // What runs for it goes first: it may be what holds the session up.
            ended.cancel();
            let _ = SockRef::from(&socket).shutdown(std::net::Shutdown::Both);
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    stream.as_fd().try_clone_to_owned()
}
