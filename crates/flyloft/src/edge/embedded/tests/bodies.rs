//! Bodies: streamed both ways, never gathered, whole or visibly broken.

use super::*;

#[tokio::test]
async fn an_answer_is_passed_on_piece_by_piece() {
    let (first_seen, may_go_on) = tokio::sync::oneshot::channel::<()>();
    let may_go_on = Arc::new(std::sync::Mutex::new(Some(may_go_on)));
    let stage = Stage::new()
        .app(move |mut peer: Peer| {
            let may_go_on = may_go_on.lock().unwrap().take();
            async move {
                peer.read_head().await;
                peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
                may_go_on.unwrap().await.unwrap();
                peer.say("6\r\nsecond\r\n0\r\n\r\n").await;
            }
        })
        .await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    client.read_until("first\r\n").await;
    first_seen.send(()).unwrap();
    assert_eq!(client.read_until("0\r\n\r\n").await, "6\r\nsecond\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_upload_is_passed_on_while_it_comes() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            let head = peer.read_head().await;
            assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
            // The answer begins before the upload ends, and goes on after it.
            peer.read_until("ping\r\n").await;
            peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n").await;
            peer.read_until("0\r\n\r\n").await;
            peer.say("4\r\ndone\r\n0\r\n\r\n").await;
        })
        .await;
    let mut client = stage.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n").await;
    client.read_until("pong\r\n").await;
    client.say("0\r\n\r\n").await;
    assert_eq!(client.read_until("0\r\n\r\n").await, "4\r\ndone\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_large_upload_and_a_large_answer_arrive_whole() {
    const SIZE: usize = 64 << 20;
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            let head = peer.read_head().await;
            assert!(head.contains(&format!("\r\ncontent-length: {SIZE}\r\n")), "{head}");
            let mut sum = Sum::default();
            sum.add(&peer.unread);
            let mut buffer = vec![0; 1 << 16];
            while sum.bytes < SIZE {
                let count = peer.stream.read(&mut buffer).await.unwrap();
                assert!(count > 0, "cut after {} bytes", sum.bytes);
                sum.add(&buffer[..count]);
            }
            peer.say(&format!("HTTP/1.1 200 OK\r\nX-Sum: {}\r\nContent-Length: {SIZE}\r\n\r\n", sum.sum)).await;
            let mut sent = 0;
            while sent < SIZE {
                peer.stream.write_all(&pattern(sent, 1 << 16)).await.unwrap();
                sent += 1 << 16;
            }
        })
        .await;
    let mut client = stage.connect().await;
    client.say(&format!("PUT / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    let mut sum = Sum::default();
    while sum.bytes < SIZE {
        let piece = pattern(sum.bytes, 1 << 16);
        sum.add(&piece);
        client.stream.write_all(&piece).await.unwrap();
    }
    let head = client.read_head().await;
    assert!(head.contains(&format!("\r\nx-sum: {}\r\n", sum.sum)), "{head}");
    let mut back = Sum::default();
    back.add(&client.unread);
    let mut buffer = vec![0; 1 << 16];
    while back.bytes < SIZE {
        let count = client.stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "cut after {} bytes", back.bytes);
        back.add(&buffer[..count]);
    }
    assert_eq!((back.bytes, back.sum), (SIZE, sum.sum));
}

/// A checksum that minds the order of what it sums.
#[derive(Default)]
struct Sum {
    bytes: usize,
    sum: u64,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.sum = bytes.iter().fold(self.sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    }
}

fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_told_to_once_its_app_is_there() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            let head = peer.read_head().await;
            assert!(!head.contains("expect"), "{head}");
            let body = peer.read_exact(5).await;
            peer.reply(&body).await;
        })
        .await;
    let request =
        |host| format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let mut client = stage.connect().await;
    client.say(&request("shop.test")).await;
    assert_eq!(client.read_head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("hello").await;
    assert!(client.read_answer().await.ends_with("\n\nhello"));

    let mut client = stage.connect().await;
    client.say(&request("unknown.test")).await;
    let head = client.read_head().await;
    assert!(head.starts_with("HTTP/1.1 404 "), "asked for a body that nobody takes: {head}");
}

#[tokio::test]
async fn an_informational_answer_of_the_app_does_not_end_the_request() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            peer.say("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
            peer.reply("hello").await;
        })
        .await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\n") && answer.ends_with("\n\nhello"), "{answer}");
}

#[tokio::test]
async fn trailers_go_through_both_ways() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            let head = peer.read_head().await;
            assert!(head.contains("\r\nte: trailers\r\n") && head.contains("\r\nconnection: te\r\n"), "{head}");
            let body = peer.read_until("\r\n\r\n").await;
            assert_eq!(body, "4\r\nping\r\n0\r\nx-sum: 1\r\n\r\n");
            peer.say("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            peer.say("4\r\npong\r\n0\r\nX-Sum: 2\r\n\r\n").await;
        })
        .await;
    let mut client = stage.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n").await;
    client.say("Transfer-Encoding: chunked\r\n\r\n4\r\nping\r\n0\r\nX-Sum: 1\r\n\r\n").await;
    client.read_head().await;
    assert_eq!(client.read_until("\r\n\r\n").await, "4\r\npong\r\n0\r\nx-sum: 2\r\n\r\n");
}

#[tokio::test]
async fn an_answer_up_to_the_end_of_its_connection_is_chunked_for_the_client() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            peer.say("HTTP/1.0 200 OK\r\n\r\nhello").await;
        })
        .await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\n"), "{answer}");
    assert!(answer.contains("transfer-encoding: chunked\n") && answer.ends_with("\n\n5\nhello\n0\n\n"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    for cut in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let seen = Arc::new(tokio::sync::Notify::new());
        let wait = seen.clone();
        let stage = Stage::new()
            .app(move |mut peer: Peer| {
                let wait = wait.clone();
                async move {
                    peer.read_head().await;
                    peer.say(&format!("HTTP/1.1 200 OK\r\n{cut}")).await;
                    wait.notified().await;
                }
            })
            .await;
        let mut client = stage.connect().await;
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        client.read_until("hello").await;
        seen.notify_one();
        let rest = client.read_to_end().await;
        assert_eq!(rest.trim_start_matches("\r\n"), "", "{cut}");
    }
}

#[tokio::test]
async fn an_answer_with_length_and_coding_is_read_by_its_coding() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            peer.say("5\r\nhello\r\n0\r\n\r\n").await;
        })
        .await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(!answer.contains("content-length") && answer.ends_with("\n\n5\nhello\n0\n\n"), "{answer}");
}

#[tokio::test]
async fn a_get_with_a_body_keeps_it() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            let body = peer.read_until("0\r\n\r\n").await;
            peer.reply(&body).await;
        })
        .await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n").await;
    assert!(answer.ends_with("\n\n5\nhello\n0\n\n"), "{answer}");
}

#[tokio::test]
async fn a_body_that_nobody_takes_does_not_cost_the_client_its_answer() {
    let gone = App::start(echo_head).await;
    let stage = Stage::new();
    stage.route("gone.test", gone.address).await;
    drop(gone);
    let mut client = stage.connect().await;
    for (host, status) in [("unknown.test", "404"), ("gone.test", "502"), ("unknown.test", "404")] {
        client.say(&format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 500000\r\n\r\n")).await;
        client.stream.write_all(&pattern(0, 500_000)).await.unwrap();
        let answer = client.read_answer().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_its_client_spoils_is_not_blamed_on_the_app() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_to_end().await;
        })
        .await;
    for body in ["0x2\nab\n0\n\n", "fffffffffffffffff\nab\n0\n\n", "2\nabc\n0\n\n"] {
        let answer =
            stage.ask(&format!("POST / HTTP/1.1\nHost: shop.test\nTransfer-Encoding: chunked\n\n{body}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body}: {answer}");
    }
    let usage = || stage.edge.usage("shop.test").unwrap();
    assert_eq!(usage().answers, [0, 0, 0, 3, 0]);

    // One that breaks off, and nobody is there to be told.
    let mut client = stage.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhe").await;
    drop(client);
    eventually("the request has ended", || usage().answers != [0, 0, 0, 3, 0]).await;
    assert_eq!(usage().answers, [0, 0, 0, 4, 0]);
}
