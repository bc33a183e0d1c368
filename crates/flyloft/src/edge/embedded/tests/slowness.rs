//! Clients that do not keep up, and apps and conversations that take their time.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::super::Room;
use super::*;

const BRIEF: Duration = Duration::from_millis(200);

/// Clients may be slow for this long.
fn with_limits(send: Duration, take: Duration) -> Stage {
    Stage::with(|config| (config.limits.send, config.limits.take) = (send, take))
}

const POST: &str = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000000\r\n\r\n";

/// An app that sends without end, and the count of those of its answers that were ended.
async fn endless(stage: Stage) -> (Stage, Arc<AtomicUsize>) {
    let ended = Arc::new(AtomicUsize::new(0));
    let end = ended.clone();
    let serve = move |mut peer: Peer| {
        let end = end.clone();
        async move {
            if !peer.read_head().await.starts_with("GET /endless ") {
                return peer.reply("hello").await;
            }
            peer.say("HTTP/1.1 200 OK\r\n\r\n").await;
            peer.say_without_end(&"x".repeat(1 << 16)).await;
            end.fetch_add(1, Ordering::SeqCst);
        }
    };
    (stage.app(serve).await, ended)
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_at_the_app() {
    let (stage, ended) = endless(with_limits(DEADLINE, BRIEF)).await;
    let mut client = stage.connect().await;
    client.say("GET /endless HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    client.read_until("x").await;
    eventually("the app sees the end", || ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_stream_of_http_2_that_nobody_takes_ends_alone() {
    let (stage, ended) = endless(with_limits(DEADLINE, BRIEF)).await;
    let stream = TokioIo::new(stage.connect().await.stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut ask = |path: &str| {
        sender.send_request(Request::get(format!("http://shop.test{path}")).body(Empty::<Bytes>::new()).unwrap())
    };
    // Its window is not opened again, as nobody reads.
    let _answer = ask("/endless").await.unwrap();
    eventually("the app sees the end", || ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(ask("/").await.unwrap().status(), 200);
    connection.abort();
}

#[tokio::test]
async fn an_app_may_think_for_longer_than_a_client_may_be_slow() {
    let stage = with_limits(BRIEF, BRIEF)
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            tokio::time::sleep(4 * BRIEF).await;
            // Most of it still waits for the app to read it.
            peer.read_exact(8_000_000).await;
            tokio::time::sleep(4 * BRIEF).await;
            peer.reply("hello").await;
        })
        .await;
    let mut client = stage.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 8000000\r\n\r\n").await;
    client.stream.write_all(&vec![b'x'; 8_000_000]).await.unwrap();
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn conversations_may_be_quiet_on_both_sides() {
    let stage = with_limits(BRIEF, BRIEF)
        .app(async |mut peer: Peer| {
            if peer.read_head().await.contains("upgrade: x\r\n") {
                peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
            } else {
                peer.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
            }
            peer.say("first\n").await;
            tokio::time::sleep(4 * BRIEF).await;
            peer.say("second\n").await;
        })
        .await;
    let heads = [
        "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        // An upload whose answer has begun is one side of a conversation.
        POST,
    ];
    for head in heads {
        let mut client = stage.connect().await;
        client.say(head).await;
        client.read_until("first\n").await;
        assert!(client.read_until("second\n").await.ends_with("second\n"), "{head}");
    }
}

#[tokio::test]
async fn the_slowest_upload_makes_way_for_a_request_that_needs_its_place() {
    let other = App::start(echo_head).await;
    let (arrived, mut arrival) = mpsc::unbounded_channel();
    let stage = Stage::with(|config| {
        // It is slow by itself only after the end of this test.
        config.limits.send = DEADLINE + DEADLINE / 5;
        config.room = Room { lines: 1, lines_of_one: 1, ..Room::here() };
    })
    .app(move |mut peer: Peer| {
        let arrived = arrived.clone();
        async move {
            peer.read_head().await;
            arrived.send(()).unwrap();
            peer.read_to_end().await;
        }
    })
    .await;
    stage.route("other.test", other.address).await;
    let mut slow = stage.connect().await;
    slow.say(POST).await;
    arrival.recv().await.unwrap();
    let begin = std::time::Instant::now();
    while !stage.ask("GET / HTTP/1.1\nHost: other.test\n\n").await.starts_with("HTTP/1.1 200 ") {
        assert!(begin.elapsed() < DEADLINE, "it makes no way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(slow.read_answer().await.starts_with("HTTP/1.1 408 "));
}
