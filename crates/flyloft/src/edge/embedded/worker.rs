//! One thread of the edge: its listeners, its clients, its connections to upstreams. Threads share only the routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flyloft_core::name::EnvRef;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::crowd::{Crowd, Guest};
use super::entrance::{Caller, Entrance};
use super::exchange::{self, Client};
use super::half_closed::{Asked, HalfClosed};
use super::halt::Halt;
use super::headers::{Sender, Visitor};
use super::host::{Sleep, Told};
use super::login::Logins;
use super::opening::{Opened, Protocol};
use super::pace::{Busy, Pace, Paced};
use super::password::Proofs;
use super::proxies::{self, Introduced, Proxies};
use super::quiet::{Manner, Quiet};
use super::routes::Routes;
use super::secure::Secure;
use super::stream::Streams;
use crate::edge::{Visit, Visits};
use crate::sso::Sso;
use crate::tls::{Answers, Shown};

/// A head may have this many bytes, and so may a piece of a body. That it may have 100 headers is hyper's own limit.
const HEAD_MAX: usize = 16 << 10;

/// What HTTP/2 clients may send before the upstream has taken it: enough for a quick upload from the same data centre,
/// where proxies that speak it are. Connections may have four of them, and be sent half of one ahead on each stream.
pub const WINDOW: u32 = 64 << 10;
const SEND_AHEAD: usize = WINDOW as usize / 2;

/// Requests that an HTTP/2 connection may have under way: no fewer than RFC 9113 section 6.5.2 recommends.
const STREAMS: u32 = 100;

/// A connection that is open when the end begins still gets a request answered, if it comes this soon. Closed at once,
/// it would be closed to some that are on their way.
const LAST_CALL: Duration = Duration::from_secs(1);

const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// How long nothing is accepted after a failure: the first time, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub struct Worker {
    pub thread: usize,
    /// Connections that were there when the end began, and those that came after that; without such as have no end.
    early: TaskTracker,
    late: TaskTracker,
    pub shared: Shared,
}

/// For how long the end of the edge waits for a connection.
struct Stay {
    /// Cancelled when the connection is to come to its end.
    stop: CancellationToken,
    held: TaskTrackerToken,
}

/// Who is at the other end of a connection.
struct Peer {
    sender: Sender,
    /// By what it knows the edge, over TLS.
    shown: Option<Arc<Shown>>,
    socket: RawFd,
    busy: Busy,
    guest: Arc<Guest>,
}

impl Peer {
    fn new(sender: Sender, socket: RawFd, pace: &Pace, guest: Guest) -> Self {
        Self { sender, shown: None, socket, busy: pace.busy(), guest: Arc::new(guest) }
    }
}

/// What the threads have in common.
#[derive(Clone)]
pub struct Shared {
    pub routes: Arc<Routes>,
    pub crowd: Arc<Crowd>,
    pub quiet: Arc<Quiet>,
    pub visits: Option<Visits>,
    pub proxies: Arc<Proxies>,
    /// Where clients may speak TLS.
    pub secure: Option<Secure>,
    pub answers: Arc<Answers>,
    /// Where they may speak it with the proxy.
    pub proxy_speaks: Option<Secure>,
    pub proofs: Arc<Proofs>,
    /// With whom people log in, if with anybody.
    pub sso: Option<Arc<Sso>>,
    pub logins: Arc<Logins>,
    /// The most bytes that the body of a request may have.
    pub body_max: Option<u64>,
    pub limits: Limits,
    pub halt: Arc<Halt>,
}

impl Shared {
    /// Whether there is anything at `host` (lower case).
    pub fn serves(&self, host: &str) -> bool {
        self.routes.knows(host) || self.login_at(host).is_some()
    }

    /// With whom people log in at `host` (lower case), if they do so there.
    pub fn login_at(&self, host: &str) -> Option<&Arc<Sso>> {
        self.sso.as_ref().filter(|sso| sso.host == host)
    }
}

/// How long the edge waits for whom.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a client's next head, the first one included. So it is also how long an idle connection stays open. Up to
    /// [`SWEEP_EVERY`] longer.
    pub head: Duration,
    /// For a client to agree on TLS.
    pub handshake: Duration,
    /// How long an idle connection to an upstream is kept.
    pub idle: Duration,
    /// For a client that sends a body, until something worth the name has come; for one that is sent one, until it has
    /// taken as much. See [`pace`](super::pace).
    pub send: Duration,
    pub take: Duration,
    /// For an environment to wake, before a browser gets a page that says so.
    pub page: Duration,
    /// For an environment to wake, where another client waits.
    pub held: Duration,
    /// For an environment that did not wake for what was said over an open connection, until it is asked again.
    pub unheard: Duration,
    /// For an answer to a client that has shut its sending side, which may have gone as well.
    pub half_closed: Duration,
    /// For whoever came in by what has no end, until it is asked at the gate again.
    pub standing: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(65),
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            send: Duration::from_secs(30),
            take: Duration::from_secs(60),
            page: Duration::from_millis(1500),
            held: Duration::from_secs(30),
            unheard: Duration::from_secs(15),
            half_closed: Duration::from_secs(10),
            standing: Duration::from_secs(10),
        }
    }
}

impl Worker {
    pub fn new(thread: usize, early: TaskTracker, shared: Shared) -> Self {
        Self { thread, early, late: TaskTracker::new(), shared }
    }

    /// Lets the daemon know that somebody has come to an environment, who may wait for an answer, if it does not know
    /// yet.
    pub fn tell(&self, env: &EnvRef, sleep: &Sleep, waits: bool, by: impl FnOnce() -> String) {
        if let Some(visits) = &self.shared.visits
            && let Some(Told { at, witness }) = sleep.tell(waits)
        {
            let passage = witness.map(|witness| witness.follow());
            // When it is gone, everything ends.
            let _ = visits.send(Visit { env: env.clone(), by: by(), at, passage });
        }
    }

    /// Serves until told to stop; then lets what is under way end, until the deadline.
    pub async fn run(self: Arc<Self>, entrances: Vec<Entrance>) {
        // Each thread has tokens of its own, or they would meet at their locks with every connection.
        let (leaving, closed) = (self.shared.halt.leaving.child_token(), self.shared.halt.closed.child_token());
        let mut helpers = tokio::task::JoinSet::new();
        for entrance in entrances {
            helpers.spawn(self.clone().accept(entrance, leaving.clone(), closed.clone()));
        }
        helpers.spawn(self.clone().sweep());
        closed.cancelled().await;
        helpers.shutdown().await;
        self.late.close();
        let deadline = self.shared.halt.close_by().unwrap_or_else(std::time::Instant::now);
        let _ = tokio::time::timeout_at(deadline.into(), self.late.wait()).await;
        let left = self.early.len() + self.late.len();
        if left > 0 {
            tracing::warn!(thread = self.thread, connections = left, "connections cut at the end");
        }
    }

    async fn accept(self: Arc<Self>, entrance: Entrance, leaving: CancellationToken, closed: CancellationToken) {
        let entrance = match entrance.open() {
            Ok(entrance) => entrance,
            Err(error) => return tracing::error!(%error, "failed to use a listening socket"),
        };
        let mut pause = PAUSE_MIN;
        loop {
            match entrance.accept().await {
                Ok(caller) => {
                    pause = PAUSE_MIN;
                    // Behind a proxy there are many.
                    let alone = caller.address().filter(|from| !self.shared.proxies.trusts(*from));
                    // Who is not let in is closed at once.
                    if let Some(guest) = self.shared.crowd.admit(alone) {
                        let stay = match self.shared.halt.has_begun() {
                            false => Stay { stop: leaving.clone(), held: self.early.token() },
                            true => Stay { stop: closed.clone(), held: self.late.token() },
                        };
                        tokio::spawn(self.clone().receive(caller, guest, stay));
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Out of file descriptors or memory, most likely. Trying again at once would only burn time.
                    if self.shared.crowd.troubled.now() {
                        tracing::warn!(%error, "failed to accept connections");
                    }
                    tokio::time::sleep(pause).await;
                    pause = PAUSE_MAX.min(pause * 2);
                }
            }
        }
    }

    /// Lets in who has come, and learns who that is.
    async fn receive(self: Arc<Self>, caller: Caller, guest: Guest, stay: Stay) {
        match caller {
            Caller::Client(mut stream, from) => {
                let proxies = self.shared.proxies.clone();
                let Some(client) = self.introduced(&mut stream, from, &guest, &stay).await else { return };
                // Where visitors come over TLS to what stands before, that need not say so.
                let over_tls = client.over_tls || (proxies.tls_port.is_some() && proxies.trusts(from));
                let visitor = if over_tls { Visitor::over_tls } else { Visitor::new };
                let sender = self.sender(visitor(client.address));
                self.serve(stream, sender, guest, stay).await;
            }
            Caller::Secure(mut stream, from) => {
                let Some(client) = self.introduced(&mut stream, from, &guest, &stay).await else { return };
                let sender = self.sender(Visitor::over_tls(client.address));
                self.serve_secure(stream, sender, guest, stay).await;
            }
            Caller::Proxy(stream) => {
                let nobody = Visitor::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                self.serve(stream, Sender::Proxy(nobody), guest, stay).await;
            }
        }
    }

    /// Who is at the other end of a connection, or of the one before it where a proxy introduces its clients. None if it
    /// should and does not.
    async fn introduced(&self, stream: &mut TcpStream, from: IpAddr, guest: &Guest, stay: &Stay) -> Option<Introduced> {
        let proxies = &self.shared.proxies;
        let itself = Introduced { address: from, over_tls: false };
        if !proxies.introduce || !proxies.trusts(from) {
            return Some(itself);
        }
        let told = tokio::select! {
            told = tokio::time::timeout(self.shared.limits.handshake, proxies::introduced(stream)) => told.ok()?,
            () = guest.expelled() => return None,
            () = stay.stop.cancelled() => return None,
        };
        match told {
            Ok(client) => Some(client.unwrap_or(itself)),
            Err(error) => {
                if self.shared.crowd.troubled.now() {
                    tracing::warn!(%from, %error, "a proxy that is to use the PROXY protocol does not");
                }
                None
            }
        }
    }

    /// What introduces its clients only passes on what they say afterwards.
    fn sender(&self, visitor: Visitor) -> Sender {
        let proxies = &self.shared.proxies;
        match !proxies.introduce && proxies.trusts(visitor.ip()) {
            true => Sender::Proxy(visitor),
            false => Sender::Client(visitor),
        }
    }

    async fn serve<S>(self: Arc<Self>, stream: S, sender: Sender, guest: Guest, stay: Stay)
    where
        S: AsyncRead + AsyncWrite + AsRawFd + Unpin + Send + 'static,
    {
        let (pace, socket) = (self.shared.crowd.paces.taker(), stream.as_raw_fd());
        let peer = Peer::new(sender, socket, &pace, guest);
        self.converse(Paced::new(stream, pace), peer, stay).await;
    }

    /// The same over TLS, once the client has agreed to that.
    async fn serve_secure(self: Arc<Self>, stream: TcpStream, sender: Sender, guest: Guest, stay: Stay) {
        let Some(secure) = self.shared.secure.clone().filter(|_| guest.speaks_tls()) else { return };
        let (pace, socket) = (self.shared.crowd.paces.taker(), stream.as_raw_fd());
        let mut peer = Peer::new(sender, socket, &pace, guest);
        let agreed = {
            let agreeing = Box::pin(secure.agree(Paced::new(stream, pace)));
            let mut agreeing = std::pin::pin!(tokio::time::timeout(self.shared.limits.handshake, agreeing));
            tokio::select! {
                agreed = agreeing.as_mut() => agreed.ok(),
                () = peer.guest.expelled() => None,
                () = stay.stop.cancelled() => tokio::time::timeout(LAST_CALL, agreeing).await.ok().and_then(Result::ok),
            }
        };
        match agreed {
            Some(Ok((stream, shown))) => {
                peer.shown = Some(shown);
                self.converse(stream, peer, stay).await;
            }
            Some(Err(error)) => tracing::debug!(sender = ?peer.sender, %error, "no TLS with a client"),
            None => {}
        }
    }

    async fn converse<S>(self: Arc<Self>, stream: S, peer: Peer, stay: Stay)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Stay { stop, held } = stay;
        let Peer { sender, shown, socket, busy, guest } = peer;
        let mut opening = std::pin::pin!(Opened::read(stream));
        let opened = tokio::select! {
            opened = opening.as_mut() => opened.ok(),
            () = guest.expelled() => None,
            () = stop.cancelled() => tokio::time::timeout(LAST_CALL, opening).await.ok().and_then(Result::ok),
        };
        let Some((protocol, stream)) = opened else { return };
        if protocol == Protocol::Http2 && !guest.speaks_http2() {
            return;
        }
        // A proxy that closes its side has nobody left who waits.
        let half_closed = match &sender {
            Sender::Client(_) => self.shared.limits.half_closed,
            Sender::Proxy(_) => Duration::ZERO,
        };
        let asked = Asked::default();
        let client = Arc::new(Client {
            sender,
            shown,
            patience: half_closed,
            manner: Manner::default(),
            asked: asked.clone(),
            socket,
            busy,
            guest: guest.clone(),
            held: Mutex::new(Some(held)),
            worker: self,
        });
        let service = service_fn(move |request| {
            client.asked.note(&request);
            exchange::answer(client.clone(), request)
        });
        let ended = match protocol {
            Protocol::Http1 => {
                let io = TokioIo::new(HalfClosed::new(stream, guest.clone(), asked, half_closed));
                let connection = http1::Builder::new()
                    // The crowd sees to it. A timer for each head costs more than reading it.
                    .header_read_timeout(None)
                    .max_header_size(HEAD_MAX)
                    .max_buf_size(HEAD_MAX)
                    .serve_connection(io, service)
                    .with_upgrades();
                // Answers say that the connection is closed. An idle one is closed later, and here.
                let stop = async {
                    stop.cancelled().await;
                    tokio::time::sleep(LAST_CALL).await;
                };
                conduct(connection, http1::UpgradeableConnection::graceful_shutdown, &guest, stop).await
            }
            Protocol::Http2 => {
                let connection = http2::Builder::new(Streams)
                    .timer(TokioTimer::new())
                    .keep_alive_interval(Duration::from_secs(30))
                    .max_header_list_size(HEAD_MAX as u32)
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(4 * WINDOW)
                    .max_concurrent_streams(STREAMS)
                    .max_send_buf_size(SEND_AHEAD)
                    .serve_connection(TokioIo::new(stream), service);
                conduct(connection, http2::Connection::graceful_shutdown, &guest, stop.cancelled()).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client's connection ended badly");
        }
    }

    async fn sweep(self: Arc<Self>) {
        loop {
            let Limits { head, idle, send, take, .. } = self.shared.limits;
            tokio::time::sleep(SWEEP_EVERY.min(head).min(idle).min(send).min(take)).await;
            self.shared.routes.sweep(self.thread, idle);
            // What the threads share is for one of them.
            if self.thread == 0 {
                self.shared.crowd.sweep(head);
                self.shared.crowd.paces.sweep();
                if self.shared.crowd.has_shrunk() {
                    tokio::task::spawn_blocking(crate::memory::give_back);
                }
            }
        }
    }
}

/// Drives a client's connection to its end: its own, or the one that the edge or somebody in need of the room brings.
/// `close` lets what is under way on it end, and nothing more begin.
async fn conduct<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    close: impl Fn(Pin<&mut C>),
    guest: &Guest,
    stop: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let told = async {
        tokio::select! {
            () = stop => Duration::MAX,
            () = guest.expelled() => guest.farewell(),
        }
    };
    // It is looked at only when it has something to say, and not with every step of the connection.
    let mut told = std::pin::pin!(FuturesUnordered::from_iter([told]));
    let mut connection = std::pin::pin!(connection);
    let farewell = tokio::select! {
        biased;
        farewell = told.next() => farewell.unwrap_or(Duration::MAX),
        ended = connection.as_mut() => return ended,
    };
    close(connection.as_mut());
    tokio::time::timeout(farewell, connection).await.unwrap_or(Ok(()))
}

/// accept(2): errors that are already pending on the new connection are passed on by Linux as errors of accept.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted)
}
