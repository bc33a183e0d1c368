//! Clients that keep their connections while nginx reads its configuration anew: none of their requests fails.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::secure::{HOST, Lock};
use super::*;

/// Bytes of a long answer, which is under way for a moment.
const LONG: usize = 256 << 10;

/// How often nginx reads anew, and how many clients of each kind ask meanwhile.
const RELOADS: usize = 8;
const CLIENTS: usize = 6;

/// A connection by which one client asks.
enum Line {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Line {
    async fn new(lock: &Lock, is_two: bool) -> Self {
        let stream = TokioIo::new(lock.offer(HOST, &[if is_two { "h2" } else { "http/1.1" }]).await.unwrap());
        if is_two {
            let (line, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            return Self::Two(line);
        }
        let (line, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self::One(line)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(line) => {
                line.ready().await?;
                line.send_request(request).await
            }
            Self::Two(line) => {
                line.ready().await?;
                line.send_request(request).await
            }
        }
    }
}

/// Asks over one connection until it is told to end, and over the next one where that has ended, as nginx ends those that it
/// keeps for nobody. Gives how many were answered, and how many asked again.
async fn load(lock: Arc<Lock>, number: usize, done: Arc<AtomicBool>) -> [usize; 2] {
    let is_two = number % 2 == 1;
    let mut line = Line::new(&lock, is_two).await;
    let (mut cut, mut answered, mut again) = (0, 0, 0);
    while !done.load(Ordering::Relaxed) {
        let (method, path, length) = match answered % 3 {
            0 => ("GET", "/", 5),
            1 => ("POST", "/", 5),
            _ => ("GET", "/long", LONG),
        };
        let body = if method == "POST" { format!("{number}-{answered}") } else { String::new() };
        // Over HTTP/2 the host is part of the address.
        let place = if is_two { format!("https://{HOST}{path}") } else { path.to_owned() };
        let request = Request::builder().method(method).uri(place).header("x-number", format!("{number}-{answered}"));
        let request = if is_two { request } else { request.header("host", HOST) };
        let answer = match line.send(request.body(Full::new(body.into())).unwrap()).await {
            Ok(answer) => answer,
            Err(error) => {
                // Each of nginx's old processes may have taken one just before it was told to leave.
                assert!(cut < 3, "{number}: a connection of its own is cut: {error:?}");
                (line, cut, again) = (Line::new(&lock, is_two).await, cut + 1, again + 1);
                continue;
            }
        };
        assert_eq!(answer.status(), 200, "{number}: {method} {path}");
        let body = answer.into_body().collect().await.unwrap_or_else(|error| panic!("{number}: cut off: {error:?}"));
        assert_eq!(body.to_bytes().len(), length, "{number}: {method} {path}");
        (cut, answered) = (0, answered + 1);
    }
    [answered, again]
}

/// The site says of a server of its own how long a connection to it may go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_nobody_goes_straight_by_a_connection_that_is_older_than_a_minute() {
    let (site, port, app) = (NginxSite::new("root"), own_server::free_port(), App::start(echo_head).await);
    let server = site.path("flyloft/server.conf");
    let lines =
        format!("server {{ listen 127.0.0.1:{port} http2; server_name *.test; include {}; }}", server.display());
    let mut stage = Stage::at(site, "test", &lines, |_| ());
    stage.start().await;
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
    let stream = TokioIo::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    let (mut line, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let (begun, connection) = (Instant::now(), tokio::spawn(connection));
    for (from, is_straight) in [(0, true), (50, true), (61, false)] {
        tokio::time::sleep_until((begun + Duration::from_secs(from)).into()).await;
        let request = Request::get("http://shop-main.test/").body(Full::new(Bytes::new())).unwrap();
        line.ready().await.unwrap();
        let answer = line.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let heard = String::from_utf8_lossy(&answer).into_owned();
        // The embedded edge writes names of headers in lower case.
        assert_eq!(heard.contains("X-Forwarded-For: "), is_straight, "after {from} s: {heard}");
        assert!(heard.to_ascii_lowercase().contains("x-forwarded-for: 127.0.0.1"), "{heard}");
    }
    assert!(!connection.is_finished(), "it is the same one");
}

/// How often the app has got each request.
type Seen = Arc<Mutex<BTreeMap<String, usize>>>;

async fn serve(mut peer: Peer, seen: Seen) {
    loop {
        let head = peer.read_head().await;
        if head.is_empty() {
            return;
        }
        let number = head
            .to_ascii_lowercase()
            .split("\r\nx-number: ")
            .nth(1)
            .and_then(|rest| Some(rest.lines().next()?.to_owned()));
        if let Some(number) = number {
            *seen.lock().unwrap().entry(number.clone()).or_default() += 1;
            if head.starts_with("POST ") {
                peer.read_exact(number.len()).await;
            }
        }
        if head.starts_with("GET /long ") {
            peer.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n{}", "x".repeat(LONG / 2))).await;
            tokio::task::yield_now().await;
            peer.say(&"x".repeat(LONG - LONG / 2)).await;
        } else {
            peer.reply("hello").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_keep_their_connections_lose_no_request_when_nginx_reads_anew() {
    let lock = Arc::new(Lock::new().await);
    let seen = Seen::default();
    let its = seen.clone();
    let app = App::start(move |peer| serve(peer, its.clone())).await;
    lock.stage.route(HOST, &app).await;
    lock.show(&["*.staging.test"]).await;
    eventually("nginx goes straight", || lock.stage.edge.desk.with(|plan| plan.is_so())).await;
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> =
        (0..2 * CLIENTS).map(|number| tokio::spawn(load(lock.clone(), number, done.clone()))).collect();
    let before = lock.stage.site.reloads();
    for _ in 0..RELOADS {
        // All of them ask for something before the next one.
        let asked = seen.lock().unwrap().len();
        eventually("they ask", || seen.lock().unwrap().len() > asked + 10 * CLIENTS).await;
        lock.stage.edge.desk.with(|plan| plan.lost());
        eventually("nginx has read anew", || lock.stage.edge.desk.with(|plan| plan.is_so())).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut all = [0, 0];
    for client in clients {
        let [answered, again] = client.await.unwrap();
        assert!(answered > 0);
        all = [all[0] + answered, all[1] + again];
    }
    assert!(lock.stage.site.reloads() >= before + RELOADS, "{}", lock.stage.site.log());
    // Whoever had to ask again was not heard before.
    let twice: Vec<_> =
        seen.lock().unwrap().iter().filter(|(_, times)| **times != 1).map(|(number, _)| number.clone()).collect();
    assert!(twice.is_empty(), "{twice:?} of {} requests, {} of them asked again", all[0], all[1]);
}
