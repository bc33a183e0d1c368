//! The edge as its clients and its apps see it: over real sockets, byte for byte where that matters.

mod abuse;
mod bodies;
mod clients;
mod crowds;
mod doors;
pub(in crate::edge) mod frames;
mod gates;
mod holding;
mod http2;
mod listening;
mod logins;
mod pages;
mod proxies;
mod requests;
mod secure;
mod slowness;
mod swaps;
mod upgrades;
mod usage;
mod visitors;
mod waits;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::name::EnvRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{EdgeConfig, Embedded};
use crate::edge::{Edge, Route, Target, Visit};

/// Nothing here takes this long unless it never happens.
const DEADLINE: Duration = Duration::from_secs(20);

/// An edge on loopback, gone at the end of the test.
struct Stage {
    edge: Arc<Embedded>,
}

impl Stage {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let mut config = EdgeConfig::new(["127.0.0.1:0".parse().unwrap()]);
        config.threads = 2;
        change(&mut config);
        Self { edge: Embedded::open(config).unwrap() }
    }

    /// Routes `shop.test` to an app that does this with each connection.
    async fn app<F>(self, serve: impl Fn(Peer) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let app = App::start(serve).await;
        self.route("shop.test", app.address).await;
        // The app lives as long as the runtime of the test.
        std::mem::forget(app);
        self
    }

    /// Routes `shop.test` to an app that answers each request with `hello` once it is told to.
    async fn patient_app(self) -> (Self, mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
        let (arrived, arrival) = mpsc::unbounded_channel();
        let serve = move |mut peer: Peer| {
            let arrived = arrived.clone();
            async move {
                peer.read_head().await;
                let (go, may_go) = oneshot::channel();
                arrived.send(go).unwrap();
                may_go.await.unwrap();
                peer.reply("hello").await;
            }
        };
        (self.app(serve).await, arrival)
    }

    /// `shop.test` is asleep. Gives who visits as well.
    async fn asleep(change: impl FnOnce(&mut EdgeConfig)) -> (Self, mpsc::UnboundedReceiver<Visit>) {
        let (visits, visitors) = mpsc::unbounded_channel();
        let stage = Self::with(|config| {
            config.visits = Some(visits);
            change(config);
        });
        stage.hold("shop.test", None).await;
        (stage, visitors)
    }

    async fn hold(&self, host: &str, failure: Option<&str>) {
        let target = Target::Held { failure: failure.map(str::to_owned) };
        self.edge.set(host, Route::public(env(), target)).await.unwrap();
    }

    /// Waits until so many requests wait for `shop.test`.
    async fn waiting(&self, count: usize) {
        let waiting = || self.edge.usage("shop.test").unwrap().waiting;
        eventually("so many wait", || waiting() == count).await;
    }

    async fn route(&self, host: &str, upstream: SocketAddr) {
        let route = Route::public(env(), Target::Upstream(upstream));
        self.edge.set(host, route).await.unwrap();
    }

    /// Waits until the edge has begun to end: newcomers are still served, and told to connect anew.
    async fn ending(&self) {
        while !self.ask("GET / HTTP/1.1\nHost: unknown.test\n\n").await.contains("\nconnection: close\n") {}
    }

    fn address(&self) -> SocketAddr {
        self.edge.addresses()[0]
    }

    async fn connect(&self) -> Peer {
        Peer::connect(self.address()).await
    }

    /// The whole answer to one request over a connection of its own. `\n` in the request stands for CRLF.
    async fn ask(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.say(&request.replace('\n', "\r\n")).await;
        client.read_answer().await
    }
}

fn env() -> EnvRef {
    EnvRef::parse("shop/main").unwrap()
}

/// An app: a listener and what it does with each connection. Dropping it closes the listener and all connections.
pub(in crate::edge) struct App {
    pub(in crate::edge) address: SocketAddr,
    task: JoinHandle<()>,
}

impl App {
    pub(in crate::edge) async fn start<F>(serve: impl Fn(Peer) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(Peer { stream, unread: Vec::new() }));
            }
        });
        Self { address, task }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One end of a connection.
pub(in crate::edge) struct Peer<S = TcpStream> {
    stream: S,
    unread: Vec<u8>,
}

impl Peer {
    pub(in crate::edge) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), unread: Vec::new() }
    }

    /// From another address of this machine, `127.0.0.last`.
    pub(in crate::edge) async fn connect_from(last: u8, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        Self { stream: socket.connect(to).await.unwrap(), unread: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(in crate::edge) fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(in crate::edge) async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Says this again and again, until nobody takes it any more.
    pub(in crate::edge) async fn say_without_end(&mut self, text: &str) {
        while self.stream.write_all(text.as_bytes()).await.is_ok() {}
    }

    /// Answers 200 with this body.
    pub(in crate::edge) async fn reply(&mut self, body: &str) {
        self.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    }

    /// Reads up to and with `end`. Gives what came where the peer closed before, and the empty text at the end.
    pub(in crate::edge) async fn read_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.unread.split_off(at + end.len());
                return text(std::mem::replace(&mut self.unread, rest));
            }
            if self.read_some().await == 0 {
                return text(std::mem::take(&mut self.unread));
            }
        }
    }

    pub(in crate::edge) async fn read_head(&mut self) -> String {
        self.read_until("\r\n\r\n").await
    }

    pub(in crate::edge) async fn read_exact(&mut self, count: usize) -> String {
        while self.unread.len() < count {
            assert!(self.read_some().await > 0, "the peer closed early");
        }
        let rest = self.unread.split_off(count);
        text(std::mem::replace(&mut self.unread, rest))
    }

    /// Reads one answer: the head and a body of the length it names, in chunks, or up to the end. Lines end in `\n`.
    pub(in crate::edge) async fn read_answer(&mut self) -> String {
        let head = self.read_head().await;
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let body = match length {
            Some(length) => self.read_exact(length).await,
            None if lower.contains("transfer-encoding: chunked") => self.read_until("0\r\n\r\n").await,
            None if lower.starts_with("http/1.1 204") || lower.starts_with("http/1.1 304") => String::new(),
            None => self.read_to_end().await,
        };
        (head + &body).replace("\r\n", "\n")
    }

    pub(in crate::edge) async fn read_to_end(&mut self) -> String {
        while self.read_some().await > 0 {}
        text(std::mem::take(&mut self.unread))
    }

    /// A connection that was cut is one that ended.
    async fn read_some(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.unread);
        tokio::time::timeout(DEADLINE, read).await.expect("nothing came").unwrap_or(0)
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer without the line that is another one each time.
fn undated(answer: &str) -> String {
    answer.split_inclusive('\n').filter(|line| !line.starts_with("date: ")).collect()
}

async fn in_time<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait).await.expect("it never came")
}

/// Waits for something that another task or thread is about to bring about.
pub(in crate::edge) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(begin.elapsed() < DEADLINE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The end of a request that has a body of so many bytes: by its length, and in two chunks.
pub(in crate::edge) fn length(size: usize) -> String {
    format!("Content-Length: {size}\n\n{}", "x".repeat(size))
}

pub(in crate::edge) fn chunks(size: usize) -> String {
    let (first, second) = ("x".repeat(size / 2), "x".repeat(size - size / 2));
    let parts = [first, second].map(|part| format!("{:x}\n{part}\n", part.len()));
    format!("Transfer-Encoding: chunked\n\n{}0\n\n", parts.concat())
}

/// An app that answers a request once it has its body, as that is said by [`length`] and [`chunks`].
pub(in crate::edge) async fn takes_a_body(mut peer: Peer) {
    loop {
        let head = peer.read_head().await;
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        match length {
            _ if head.is_empty() => return,
            Some(length) => drop(peer.read_exact(length).await),
            None if lower.contains("transfer-encoding: chunked") => {
                let body = peer.read_until("0\r\n\r\n").await;
                if !body.ends_with("0\r\n\r\n") {
                    return;
                }
            }
            None => {}
        }
        peer.reply(&head).await;
    }
}

/// An app that answers every request with the head it got.
pub(in crate::edge) async fn echo_head(mut peer: Peer) {
    loop {
        let head = peer.read_head().await;
        if head.is_empty() {
            return;
        }
        peer.reply(&head).await;
    }
}
