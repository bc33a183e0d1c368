//! The embedded edge: an HTTP proxy inside the daemon, on threads of its own.
//!
//! ```text
//!   clients ══► listener (one per thread) ─► worker ─► exchange ─► line ══► app
//!                                              │          │  ↑
//!                                crowd, opening, pace     │ hold (until it is awake)
//!                                                         routes ─► host (shared, swapped)
//! ```
//!
//! Each thread runs a single-threaded runtime with its own listening sockets (`SO_REUSEPORT`) and its own connections
//! to the apps, so that a request stays on the core that accepted it. What must hold: a route is changed without
//! losing a request, nothing that a client sends decides more than which route it takes, and no number of clients takes
//! what the rest of the daemon needs.

mod answer;
mod body;
mod clock;
mod crowd;
mod entrance;
mod exchange;
mod framing;
mod gate;
mod half_closed;
mod halt;
mod headers;
mod hold;
mod host;
mod line;
mod lines;
mod listener;
mod login;
mod opening;
mod pace;
mod page;
mod password;
mod proxies;
pub mod quiet;
mod room;
mod routes;
mod secure;
mod seldom;
mod snag;
mod standing;
mod stream;
mod switch;
#[cfg(test)]
pub(in crate::edge) mod tests;
mod turns;
mod upload;
mod upstream;
mod usage;
mod waiting;
mod websocket;
mod witness;
mod worker;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flyloft_core::gate::Guard;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use self::crowd::Crowd;
use self::entrance::Entrance;
use self::halt::Halt;
use self::listener::Listener;
use self::pace::Paces;
pub use self::proxies::Proxies;
use self::quiet::Quiet;
pub use self::room::Room;
use self::routes::Routes;
pub use self::secure::Secure;
pub use self::usage::Usage;
pub use self::worker::Limits;
use self::worker::{Shared, Worker};
use super::{Edge, EdgeError, Route, Visits};
use crate::sso::Sso;
use crate::tls::{Answers, Certificates};

/// How to open an [`Embedded`] edge.
#[derive(Debug)]
pub struct EdgeConfig {
    /// `[::]:PORT` takes IPv4 too; port 0 is any free one.
    pub listen: Vec<SocketAddr>,
    pub threads: usize,
    /// Listening sockets of a predecessor; those on an address of `listen` are used, the rest are closed.
    pub inherited: Vec<OwnedFd>,
    pub secure: Option<SecureConfig>,
    /// Where a proxy comes in that says with each request who has sent it: `X-Forwarded-For`, an address, and
    /// `X-Forwarded-Proto`. Nobody else may be able to connect there.
    pub proxy: Option<UnixListener>,
    /// Where it speaks TLS in the edge's place, and what it shows. Who comes to it over plain HTTP is led there.
    pub proxy_speaks: Option<Secure>,
    /// Who is believed among those who come as clients.
    pub proxies: Proxies,
    /// With whom people log in.
    pub sso: Option<Arc<Sso>>,
    /// What is answered before anything else, and wakes nobody.
    pub answers: Arc<Answers>,
    /// What is routed from the first request on: who takes sockets over finds clients waiting there.
    pub routes: Vec<(String, Route)>,
    /// Who is told of requests that wait.
    pub visits: Option<Visits>,
    /// Parts of the user agents of clients that are no visitors, beside those that are known.
    pub quiet_agents: Vec<String>,
    /// The most bytes that the body of a request may have.
    pub body_max: Option<u64>,
    pub limits: Limits,
    pub room: Room,
}

/// Where clients may speak TLS, and by which certificates.
#[derive(Debug)]
pub struct SecureConfig {
    /// There is at least one.
    pub listen: Vec<SocketAddr>,
    pub inherited: Vec<OwnedFd>,
    pub certificates: Arc<Certificates>,
}

impl EdgeConfig {
    /// A thread for each core.
    pub fn new(listen: impl Into<Vec<SocketAddr>>) -> Self {
        Self {
            listen: listen.into(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            inherited: Vec::new(),
            secure: None,
            proxy: None,
            proxy_speaks: None,
            proxies: Proxies::default(),
            sso: None,
            answers: Arc::default(),
            routes: Vec::new(),
            visits: None,
            quiet_agents: Vec::new(),
            body_max: None,
            limits: Limits::default(),
            room: Room::here(),
        }
    }
}

pub struct Embedded {
    routes: Arc<Routes>,
    addresses: Vec<SocketAddr>,
    secure_addresses: Vec<SocketAddr>,
    /// The edge's own handles to its listening sockets, until it stops listening.
    sockets: Mutex<Sockets>,
    halt: Arc<Halt>,
    /// Of each thread: who was connected before the edge began to end.
    early: Vec<TaskTracker>,
    /// Each resolves when its thread has ended.
    ended: Mutex<Vec<oneshot::Receiver<()>>>,
}

#[derive(Default)]
struct Sockets {
    plain: Vec<TcpListener>,
    secure: Vec<TcpListener>,
}

impl Embedded {
    /// Listens and serves from the return of this call on, whoever calls: the edge has threads of its own.
    pub fn open(config: EdgeConfig) -> Result<Arc<Self>, EdgeError> {
        let threads = config.threads.max(1);
        let (addresses, plain) = listen(config.listen, threads, config.inherited)?;
        let (certificates, (secure_addresses, encrypted)) = match config.secure {
            Some(secure) => (Some(secure.certificates), listen(secure.listen, threads, secure.inherited)?),
            None => Default::default(),
        };
        let secure_port = secure_addresses.first().map(SocketAddr::port);
        let edge = Arc::new(Self {
            routes: Arc::new(Routes::new(threads)),
            addresses,
            secure_addresses,
            sockets: Mutex::default(),
            halt: Arc::default(),
            early: (0..threads).map(|_| TaskTracker::new()).collect(),
            ended: Mutex::default(),
        });
        for (host, route) in config.routes {
            edge.routes.set(&host, route);
        }
        let shared = Shared {
            routes: edge.routes.clone(),
            crowd: Arc::new(Crowd::new(config.room, Paces::new(config.limits.send, config.limits.take))),
            quiet: Arc::new(Quiet::new(&config.quiet_agents)),
            visits: config.visits,
            proofs: Arc::default(),
            sso: config.sso,
            logins: Arc::default(),
            proxies: Arc::new(config.proxies),
            secure: certificates.zip(secure_port).map(|(certificates, port)| Secure { certificates, port }),
            answers: config.answers,
            proxy_speaks: config.proxy_speaks,
            body_max: config.body_max,
            limits: config.limits,
            halt: edge.halt.clone(),
        };
        for thread in 0..threads {
            let own =
                plain.iter().skip(thread).step_by(threads).map(|socket| socket.try_clone().map(Entrance::Clients));
            let encrypted = encrypted.iter().skip(thread).step_by(threads);
            let encrypted = encrypted.map(|socket| socket.try_clone().map(Entrance::Secure));
            // Whoever is free takes who comes by way of the proxy.
            let proxy = config.proxy.iter().map(|socket| socket.try_clone().map(Entrance::Proxy));
            let entrances = own.chain(encrypted).chain(proxy).collect::<Result<_, _>>().map_err(EdgeError::Start)?;
            let worker = Worker::new(thread, edge.early[thread].clone(), shared.clone());
            let ended = start(worker, entrances)?;
            lock(&edge.ended).push(ended);
        }
        *lock(&edge.sockets) = Sockets { plain, secure: encrypted };
        Ok(edge)
    }

    /// Where it listens: the addresses of the configuration with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it speaks TLS.
    pub fn secure_addresses(&self) -> &[SocketAddr] {
        &self.secure_addresses
    }

    /// The listening sockets, for a successor: while either process has them, no connection is refused.
    pub fn listeners(&self) -> std::io::Result<Vec<OwnedFd>> {
        copies(&lock(&self.sockets).plain)
    }

    /// Those of TLS.
    pub fn secure_listeners(&self) -> std::io::Result<Vec<OwnedFd>> {
        copies(&lock(&self.sockets).secure)
    }

    pub fn usage(&self, host: &str) -> Option<Usage> {
        self.routes.usage(host)
    }

    /// Ends. Who is connected brings what is under way to its end, for `limit` at most, and is told to connect anew,
    /// while newcomers are still served. Then nobody is let in any more: newcomers wait in the sockets for a successor
    /// that has them, or are refused. Those who came meanwhile have `limit`, too; what is left is cut.
    ///
    /// Nobody waits for connections that have switched protocols, nor for streams of events: they have no end.
    pub async fn shutdown(&self, limit: Duration) {
        self.halt.leave(Instant::now() + limit);
        let early = async {
            for connections in &self.early {
                connections.close();
                connections.wait().await;
            }
        };
        let _ = tokio::time::timeout(limit, early).await;
        *lock(&self.sockets) = Sockets::default();
        self.halt.close(Instant::now() + limit);
        let ended = std::mem::take(&mut *lock(&self.ended));
        for thread in ended {
            let _ = thread.await;
        }
    }
}

/// The sockets on these addresses, and what the addresses really are.
fn listen(
    addresses: Vec<SocketAddr>,
    threads: usize,
    inherited: Vec<OwnedFd>,
) -> Result<(Vec<SocketAddr>, Vec<TcpListener>), EdgeError> {
    let mut inherited = listener::adopt(inherited);
    let open = |address| Listener::open(address, threads, &mut inherited);
    let listeners = addresses.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let addresses = listeners.iter().map(|listener| listener.address).collect();
    Ok((addresses, listeners.into_iter().flat_map(|listener| listener.sockets).collect()))
}

fn copies(sockets: &[TcpListener]) -> std::io::Result<Vec<OwnedFd>> {
    sockets.iter().map(|socket| socket.try_clone().map(OwnedFd::from)).collect()
}

/// Starts a thread of the edge. It has ended when what is returned resolves.
fn start(worker: Worker, entrances: Vec<Entrance>) -> Result<oneshot::Receiver<()>, EdgeError> {
    let worker = Arc::new(worker);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(EdgeError::Start)?;
    let (ending, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name(format!("edge-{}", worker.thread))
        .spawn(move || {
            runtime.block_on(worker.run(entrances));
            drop(runtime);
            let _ = ending.send(());
        })
        .map_err(EdgeError::Start)?;
    Ok(ended)
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.halt.close(Instant::now());
    }
}

#[async_trait]
impl Edge for Embedded {
    async fn set(&self, host: &str, route: Route) -> Result<(), EdgeError> {
        self.routes.set(host, route);
        Ok(())
    }

    async fn remove(&self, host: &str) -> Result<(), EdgeError> {
        self.routes.remove(host);
        Ok(())
    }

    async fn guard(&self, host: &str, guard: Option<Arc<Guard>>) -> Result<(), EdgeError> {
        self.routes.keep(host, guard);
        Ok(())
    }

    fn explain(&self, host: &str, doing: &str) {
        self.routes.explain(host, doing);
    }

    fn unused_for(&self, host: &str) -> Option<Duration> {
        self.routes.unused_for(host)
    }

    fn last_user(&self, host: &str) -> Option<Arc<str>> {
        self.routes.last_user(host)
    }

    fn answers(&self, host: &str) -> [u64; 5] {
        self.routes.usage(host).map_or([0; 5], |usage| usage.answers)
    }

    async fn drained(&self, upstream: SocketAddr, limit: Duration) -> bool {
        self.routes.drained(upstream, limit).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
