//! HTTP/2 with prior knowledge, spoken by curl, and by hyper where many requests share a connection.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::exec::Cmd;

/// What curl prints for this path of `shop.test`, over HTTP/2.
pub(super) async fn curl(stage: &Stage, path: &str, args: &[&str]) -> String {
    let address = stage.address();
    let output = Cmd::new("curl")
        .args(["--silent", "--show-error", "--include", "--http2-prior-knowledge", "--max-time", "20"])
        .args(["--resolve", &format!("shop.test:{}:{}", address.port(), address.ip())])
        .args(args)
        .arg(format!("http://shop.test:{}{path}", address.port()))
        .run()
        .await
        .unwrap();
    text(output.stdout).replace("\r\n", "\n")
}

#[tokio::test]
async fn a_request_of_http_2_reaches_the_app_as_http_1_1() {
    let stage = Stage::new().app(echo_head).await;
    let answer = curl(&stage, "/a?b", &["--user-agent", "x", "--cookie", "a=1; b=2"]).await;
    assert!(answer.starts_with("HTTP/2 200 \n") && answer.contains("\nx-robots-tag: noindex\n"), "{answer}");
    let (_, seen) = answer.split_once("\n\n").unwrap();
    let seen = seen.replace(&stage.address().port().to_string(), "PORT");
    insta::assert_snapshot!(seen, @r"
    GET /a?b HTTP/1.1
    host: shop.test:PORT
    user-agent: x
    accept: */*
    cookie: a=1; b=2
    x-forwarded-port: PORT
    x-forwarded-for: 127.0.0.1
    x-forwarded-proto: http
    x-forwarded-host: shop.test:PORT
    ");
}

#[tokio::test]
async fn bodies_and_trailers_pass_from_http_2_and_back() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            let head = peer.read_head().await;
            assert!(head.starts_with("POST / HTTP/1.1\r\n") && head.contains("\r\ncontent-length: 5\r\n"), "{head}");
            let body = peer.read_exact(5).await;
            peer.say(&format!(
                "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\n{body}\r\n0\r\nX-Sum: 7\r\n\r\n"
            ))
            .await;
        })
        .await;
    let answer = curl(&stage, "/", &["--data-binary", "hello"]).await;
    assert!(answer.contains("\n\nhello"), "{answer}");
    assert!(answer.contains("x-sum: 7"), "{answer}");
}

#[tokio::test]
async fn requests_of_one_http_2_connection_run_side_by_side() {
    let barrier = Arc::new(tokio::sync::Barrier::new(8));
    let stage = Stage::new()
        .app(move |mut peer: Peer| {
            let barrier = barrier.clone();
            async move {
                peer.read_head().await;
                // Nobody is answered before all have asked.
                barrier.wait().await;
                peer.reply("hello").await;
            }
        })
        .await;
    let stream = TokioIo::new(stage.connect().await.stream);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let asked = (0..8).map(|_| {
        let mut sender = sender.clone();
        let request = Request::get("http://shop.test/").body(Empty::<Bytes>::new()).unwrap();
        async move { sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes() }
    });
    let answers = tokio::time::timeout(DEADLINE, futures_util::future::join_all(asked)).await.unwrap();
    assert!(answers.iter().all(|answer| answer == "hello"), "{answers:?}");
    connection.abort();
}

#[tokio::test]
async fn a_connection_of_http_2_over_which_nothing_is_asked_for_long_is_closed() {
    let (stage, mut arrival) = Stage::with(|config| config.limits.head = Duration::from_millis(50)).patient_app().await;
    let stream = TokioIo::new(stage.connect().await.stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://shop.test/").body(Empty::<Bytes>::new()).unwrap();
    let asked = tokio::spawn(sender.send_request(request));
    let go = arrival.recv().await.unwrap();
    // Others that ask for nothing are closed while it waits for its answer.
    assert_eq!(stage.connect().await.read_to_end().await, "");
    go.send(()).unwrap();
    let answer = asked.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(answer, "hello");
    tokio::time::timeout(DEADLINE, connection).await.unwrap().unwrap().unwrap();
}

/// RFC 9113 section 6.5.2.
#[tokio::test]
async fn a_connection_of_http_2_may_send_no_more_ahead_than_is_counted_for_it() {
    let stage = Stage::new();
    let mut client = stage.connect().await;
    client.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    while client.unread.len() < 9 || client.unread.len() < 9 + usize::from(client.unread[2]) {
        assert!(client.read_some().await > 0);
    }
    assert_eq!(client.unread[3], 4, "it is no SETTINGS frame");
    let settings = &client.unread[9..9 + usize::from(client.unread[2])];
    let setting = |id| {
        let of = settings.chunks(6).find(|setting| setting[..2] == [0, id]).unwrap();
        u32::from_be_bytes(of[2..].try_into().unwrap())
    };
    let (streams, window, heads) = (setting(3), setting(4), setting(6));
    assert_eq!((streams, window, heads), (100, 64 << 10, 16 << 10));
}

#[tokio::test]
async fn an_upgrade_offer_to_http_2_is_answered_in_http_1_1() {
    let stage = Stage::new().app(echo_head).await;
    let answer = stage
        .ask(
            "GET / HTTP/1.1\nHost: shop.test\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: A\n\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\n") && !answer.to_lowercase().contains("h2c"), "{answer}");
}

#[tokio::test]
async fn large_bodies_pass_over_http_2() {
    const SIZE: usize = 16 << 20;
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            let body = peer.read_exact(SIZE).await;
            assert!(body.bytes().all(|byte| byte == b'x'));
            peer.reply(&body).await;
        })
        .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, vec![b'x'; SIZE]).unwrap();
    let answer = curl(&stage, "/", &["--data-binary", &format!("@{}", file.path().display())]).await;
    let (_, body) = answer.split_once("\n\n").unwrap();
    assert!(body.len() == SIZE && body.bytes().all(|byte| byte == b'x'), "{} bytes came back", body.len());
}

#[tokio::test]
async fn a_request_that_http_2_takes_back_ends_at_the_app() {
    let (arrived, mut arrival) = tokio::sync::mpsc::unbounded_channel();
    let stage = Stage::new()
        .app(move |mut peer: Peer| {
            let arrived = arrived.clone();
            async move {
                arrived.send(peer.read_head().await).unwrap();
                arrived.send(peer.read_to_end().await).unwrap();
            }
        })
        .await;
    let stream = TokioIo::new(stage.connect().await.stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let asked =
        tokio::spawn(sender.send_request(Request::get("http://shop.test/").body(Empty::<Bytes>::new()).unwrap()));
    assert!(arrival.recv().await.unwrap().starts_with("GET / HTTP/1.1\r\n"));
    asked.abort();
    // The connection itself stays, so only the request can have ended.
    assert_eq!(tokio::time::timeout(DEADLINE, arrival.recv()).await.unwrap().unwrap(), "");
    assert!(!connection.is_finished());
    connection.abort();
}

#[tokio::test]
async fn a_shutdown_lets_requests_of_http_2_end_and_takes_no_more() {
    let (stage, mut arrival) = Stage::new().patient_app().await;
    let stream = TokioIo::new(stage.connect().await.stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || Request::get("http://shop.test/").body(Empty::<Bytes>::new()).unwrap();
    let asked = tokio::spawn(sender.send_request(request()));
    let go = arrival.recv().await.unwrap();
    let edge = stage.edge.clone();
    let ending = tokio::spawn(async move { edge.shutdown(DEADLINE).await });
    stage.ending().await;
    go.send(()).unwrap();
    let answer = asked.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(answer, "hello");
    tokio::time::timeout(DEADLINE, ending).await.unwrap().unwrap();
    tokio::time::timeout(DEADLINE, connection).await.unwrap().unwrap().unwrap();
    assert!(sender.send_request(request()).await.is_err());
}
