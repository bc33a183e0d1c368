//! What clients send to be taken for two, or to keep the edge busy. It is the same over plain HTTP and over TLS.

use super::doors::doors;
use super::*;

#[tokio::test]
async fn a_request_without_one_clear_host_is_refused() {
    for door in doors(|_| {}, echo_head).await {
        for request in [
            "GET / HTTP/1.1\n\n",
            "GET / HTTP/1.1\nHost:\n\n",
            "GET / HTTP/1.1\nHost: shop.test\nHost: shop.test\n\n",
            "GET http://user@shop.test/ HTTP/1.1\nHost: shop.test\n\n",
            "GET / HTTP/1.1\nHost: shop.test:80@evil.test\n\n",
            "GET / HTTP/1.1\nHost: shop.test:abc\n\n",
            "GET / HTTP/1.1\nHost: shop.test:80:80\n\n",
            "GET / HTTP/1.1\nHost: shop.test:+80\n\n",
            "GET / HTTP/1.1\nHost: shop.test:800000\n\n",
            "GET http://shop.test:abc/ HTTP/1.1\nHost: shop.test\n\n",
        ] {
            let answer = door.ask(request).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{}: {request}: {answer}", door.name());
        }
    }
}

#[tokio::test]
async fn conflicting_lengths_do_not_make_a_second_request() {
    let serve = async |mut peer: Peer| {
        let head = peer.read_head().await;
        let body = peer.read_until("0\r\n\r\n").await;
        peer.reply(&(head + &body)).await;
    };
    for door in doors(|_| {}, serve).await {
        let smuggled = "0\n\nGET /admin HTTP/1.1\nHost: shop.test\n\n";
        let both =
            format!("POST / HTTP/1.1\nHost: shop.test\nContent-Length: 45\nTransfer-Encoding: chunked\n\n{smuggled}");
        let answer = door.ask(&both).await;
        // The coding counts, the length is gone, and what follows is a request of its own for the edge as well.
        assert!(answer.starts_with("HTTP/1.1 200 OK\n"), "{}: {answer}", door.name());
        assert!(!answer.contains("\ncontent-length: 45") && !answer.contains("/admin"), "{answer}");

        for lengths in [
            "Content-Length: 5\nContent-Length: 6\n\nhello",
            "Content-Length: +5\n\nhello",
            "Content-Length: 5, 6\n\nhello",
            "Transfer-Encoding: chunked\nTransfer-Encoding: identity\n\n0\n\n",
            "Transfer-Encoding: gzip\n\nhello",
            // It would lose its label.
            "Transfer-Encoding: gzip, chunked\n\n0\n\n",
            "Transfer-Encoding : chunked\n\n0\n\n",
            "Transfer-Encoding: xchunked\n\n0\n\n",
        ] {
            let answer = door.ask(&format!("POST / HTTP/1.1\nHost: shop.test\n{lengths}")).await;
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(["400", "501"].contains(&status), "{}: {lengths}: {answer}", door.name());
        }
    }
}

#[tokio::test]
async fn a_chunk_whose_size_is_not_clear_ends_its_connection() {
    let serve = async |mut peer: Peer| {
        peer.read_head().await;
        peer.read_to_end().await;
    };
    for door in doors(|_| {}, serve).await {
        for size in ["0x5", "-1", "+5", "fffffffffffffffff", "", "5\r"] {
            let mut client = door.connect().await;
            client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            client.say(&format!("{size}\r\nhello\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: shop.test\r\n\r\n")).await;
            let said = client.read_to_end().await;
            let is_clear = said.matches("HTTP/1.1 ").count() <= 1 && !said.contains("200 OK");
            assert!(is_clear, "{}: {size:?}: {said}", door.name());
        }
    }
}

#[tokio::test]
async fn lines_that_end_in_a_line_feed_alone_hide_no_second_request() {
    for door in doors(|_| {}, echo_head).await {
        let mut client = door.connect().await;
        client.say("GET /a HTTP/1.1\nHost: shop.test\nX-A: b\n\nGET /b HTTP/1.1\nHost: shop.test\n\n").await;
        for path in ["/a", "/b"] {
            let answer = client.read_answer().await;
            // What an app reads has whole ends of lines.
            assert!(answer.contains(&format!("\n\nGET {path} HTTP/1.1\n")), "{}: {answer}", door.name());
            assert_eq!(answer.matches("HTTP/1.1\n").count(), 1, "{answer}");
        }
        let answer = door.ask("GET / HTTP/1.1\nHost: shop.test\nX-A: b\rX-B: c\n\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{}: {answer}", door.name());
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    for door in doors(|_| {}, echo_head).await {
        let ask = async |more: String| door.ask(&format!("GET / HTTP/1.1\nHost: shop.test\n{more}\n")).await;
        for (more, status) in [
            (format!("Cookie: {}\n", "x".repeat(12 << 10)), "200"),
            (format!("Cookie: {}\n", "x".repeat(20 << 10)), "431"),
            ("X-A: b\n".repeat(95), "200"),
            ("X-A: b\n".repeat(101), "431"),
        ] {
            let size = more.len();
            let answer = ask(more).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {size}: {answer}", door.name());
        }
    }
}

#[tokio::test]
async fn a_body_that_is_larger_than_it_may_be_is_refused() {
    for door in doors(|config| config.body_max = Some(1000), takes_a_body).await {
        for (body, status) in
            [(length(1000), "200"), (chunks(1000), "200"), (length(1001), "413"), (chunks(1001), "413")]
        {
            let answer = door.ask(&format!("POST / HTTP/1.1\nHost: shop.test\n{body}")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer}", door.name());
            let is_told = answer.ends_with("Too large\nThe body of a request may have 1000B here.\n");
            assert_eq!(is_told, status == "413", "{answer}");
        }
        // One that says its length does not come to the app, and the other one is none of the app's doing.
        assert_eq!(door.stage.edge.usage("shop.test").unwrap().answers, [0, 2, 0, 1, 0], "{}", door.name());
    }
}

#[tokio::test]
async fn a_body_that_says_that_it_is_too_large_wakes_nobody() {
    let (stage, mut visits) = Stage::asleep(|config| config.body_max = Some(1000)).await;
    let answer = stage.ask(&format!("POST / HTTP/1.1\nHost: shop.test\n{}", length(1001))).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(visits.try_recv().is_err(), "it was woken");
}

#[tokio::test]
async fn a_client_that_sends_no_head_is_dropped_in_time() {
    for door in doors(|config| config.limits.head = Duration::from_millis(300), echo_head).await {
        for beginning in ["", "PRI * HT", "GET / HTTP/1.1\r\nHost: sh"] {
            let mut client = door.connect().await;
            client.say(beginning).await;
            let end = client.read_to_end().await;
            assert!(end.is_empty() || end.starts_with("HTTP/1.1 408 "), "{}: {beginning}: {end}", door.name());
        }
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_ends_and_its_app_is_free() {
    let (ended, mut end) = mpsc::unbounded_channel();
    let serve = move |mut peer: Peer| {
        let ended = ended.clone();
        async move {
            peer.read_to_end().await;
            ended.send(()).unwrap();
        }
    };
    for door in doors(|config| config.limits.send = Duration::from_millis(200), serve).await {
        let mut client = door.connect().await;
        client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000000\r\n\r\n").await;
        client.say("x").await;
        let answer = client.read_answer().await;
        let is_told = answer.starts_with("HTTP/1.1 408 ") && answer.contains("Too slow\n");
        assert!(is_told, "{}: {answer}", door.name());
        in_time(end.recv()).await.unwrap();
        // It is not the app that failed.
        assert_eq!(door.stage.edge.usage("shop.test").unwrap().answers, [0, 0, 0, 1, 0]);
    }
}
