//! One thread of the edge: its listeners, its clients, its connections to upstreams. Threads share only the routes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Halt;
use super::exchange::{self, Client};
use super::headers::Visitor;
use super::opening::{Opened, Protocol};
use super::routes::Routes;

/// A head may have this many bytes. That it may have 100 headers is hyper's own limit.
const HEAD_MAX: usize = 64 << 10;

/// What HTTP/2 clients may send before the upstream has taken it: enough for a quick upload, on a connection and in it.
const WINDOW: u32 = 1 << 20;

/// A connection that was accepted just before the end still gets its first request answered, if it comes this soon.
const LAST_CALL: Duration = Duration::from_secs(1);

const SWEEP_EVERY: Duration = Duration::from_secs(5);

pub struct Worker {
    pub thread: usize,
    pub routes: Arc<Routes>,
    /// Connections of clients, and what became of them by an upgrade.
    pub tasks: TaskTracker,
    limits: Limits,
    halt: Arc<Halt>,
}

/// How long the edge waits for whom.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a client's next head, the first one included. So it is also how long an idle connection stays open.
    pub head: Duration,
    /// How long an idle connection to an upstream is kept.
    pub idle: Duration,
}

impl Worker {
    pub fn new(thread: usize, routes: Arc<Routes>, limits: Limits, halt: Arc<Halt>) -> Self {
        Self { thread, routes, tasks: TaskTracker::new(), limits, halt }
    }

    /// Serves until told to stop; then lets what is under way end, until the deadline.
    pub async fn run(self: Arc<Self>, listeners: Vec<TcpListener>) {
        // Each thread has a token of its own, or they would meet at its lock with every request.
        let stop = self.halt.token.child_token();
        let mut helpers = tokio::task::JoinSet::new();
        for listener in listeners {
            helpers.spawn(self.clone().accept(listener, stop.clone()));
        }
        helpers.spawn(self.clone().sweep());
        stop.cancelled().await;
        helpers.shutdown().await;
        self.tasks.close();
        let deadline = self.halt.deadline.get().copied().unwrap_or_else(std::time::Instant::now);
        if tokio::time::timeout_at(deadline.into(), self.tasks.wait()).await.is_err() {
            tracing::warn!(thread = self.thread, connections = self.tasks.len(), "connections cut at the end");
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let listener = match listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener)) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "failed to use a listening socket"),
        };
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    self.tasks.spawn(self.clone().serve(stream, peer, stop.clone()));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Out of file descriptors or memory, most likely. Trying again at once would only burn time.
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, stop: CancellationToken) {
        let opening = tokio::time::timeout(self.limits.head, Opened::read(stream));
        let mut opening = std::pin::pin!(opening);
        let opened = tokio::select! {
            opened = opening.as_mut() => opened,
            () = stop.cancelled() => tokio::time::timeout(LAST_CALL, opening).await.unwrap_or_else(Err),
        };
        let Ok(Ok((protocol, stream))) = opened else { return };
        let head_limit = self.limits.head;
        let client = Arc::new(Client { visitor: Visitor::new(peer.ip()), worker: self });
        let service = service_fn(move |request| exchange::answer(client.clone(), request));
        let io = TokioIo::new(stream);
        let ended = match protocol {
            Protocol::Http1 => {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(head_limit)
                    .max_header_size(HEAD_MAX)
                    .serve_connection(io, service)
                    .with_upgrades();
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    biased;
                    ended = connection.as_mut() => ended,
                    () = stop.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
            Protocol::Http2 => {
                let connection = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .keep_alive_interval(Duration::from_secs(30))
                    .max_header_list_size(HEAD_MAX as u32)
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(4 * WINDOW)
                    .serve_connection(io, service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    biased;
                    ended = connection.as_mut() => ended,
                    () = stop.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a client's connection ended badly");
        }
    }

    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_EVERY.min(self.limits.idle)).await;
            self.routes.sweep(self.thread, self.limits.idle);
        }
    }
}

/// accept(2): errors that are already pending on the new connection are passed on by Linux as errors of accept.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted)
}
