//! What of a head goes through, in either direction.

use super::*;

#[tokio::test]
async fn a_request_reaches_the_app_with_the_word_of_the_edge_on_who_asks() {
    let stage = Stage::new().app(echo_head).await;
    let answer = stage.ask("GET /a?b=%20c HTTP/1.1\nHost: Shop.Test:8080\nAccept: */*\n\n").await;
    let (_, seen) = answer.split_once("\n\n").unwrap();
    insta::assert_snapshot!(seen, @r"
    GET /a?b=%20c HTTP/1.1
    host: Shop.Test:8080
    accept: */*
    x-forwarded-port: 8080
    x-forwarded-for: 127.0.0.1
    x-forwarded-proto: http
    x-forwarded-host: Shop.Test:8080
    ");
}

#[tokio::test]
async fn what_a_client_claims_about_itself_is_replaced() {
    let stage = Stage::new().app(echo_head).await;
    let answer = stage
        .ask(
            "GET / HTTP/1.1\nHost: shop.test\nX-Forwarded-For: 6.6.6.6\nx_forwarded_for: 6.6.6.6\n\
             X-Forwarded_Proto: spoof\nX-Forwarded-Server: spoof\nForwarded: for=6.6.6.6\nX-Real-IP: 6.6.6.6\n\
             X_Real_IP: 6.6.6.6\nX-Forwarded-Host: spoof\nProxy: http://6.6.6.6\n\n",
        )
        .await;
    assert!(answer.contains("x-forwarded-for: 127.0.0.1\n"), "{answer}");
    assert!(!answer.contains("6.6.6.6") && !answer.contains("spoof"), "{answer}");
}

#[tokio::test]
async fn headers_about_one_connection_end_there() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            let seen = peer.read_head().await;
            let length = seen.len();
            peer.say(&format!(
                "HTTP/1.1 200 OK\r\nConnection: X-Inner, keep-alive\r\nX-Inner: secret\r\nKeep-Alive: timeout=5\r\n\
                 Upgrade: h2c\r\nX-Kept: yes\r\nContent-Length: {length}\r\n\r\n{seen}"
            ))
            .await;
        })
        .await;
    let answer = stage
        .ask(
            "GET / HTTP/1.1\nHost: shop.test\nConnection: keep-alive, X-Hop\nX-Hop: secret\nKeep-Alive: 5\n\
             Proxy-Connection: x\nProxy-Authorization: secret\nTE: gzip\nUpgrade: h2c\nHTTP2-Settings: x\nX-Kept: yes\n\n",
        )
        .await;
    let (head, seen) = answer.split_once("\n\n").unwrap();
    assert!(head.contains("x-kept: yes") && seen.contains("x-kept: yes"), "{answer}");
    for gone in ["x-hop", "x-inner", "secret", "keep-alive", "connection", "\nte:", "upgrade", "http2-settings"] {
        assert!(!answer.to_ascii_lowercase().contains(gone), "`{gone}` went through: {answer}");
    }
}

#[tokio::test]
async fn nothing_that_is_served_may_be_indexed() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            peer.say("HTTP/1.1 200 OK\r\nX-Robots-Tag: all\r\nContent-Length: 0\r\n\r\n").await;
        })
        .await;
    for host in ["shop.test", "unknown.test"] {
        let answer = stage.ask(&format!("GET / HTTP/1.1\nHost: {host}\n\n")).await;
        assert_eq!(answer.matches("x-robots-tag: noindex\n").count(), 1, "{answer}");
        assert!(!answer.contains("x-robots-tag: all"), "{answer}");
    }
}

#[tokio::test]
async fn a_host_is_found_whatever_its_case_port_and_last_dot() {
    let stage = Stage::new().app(echo_head).await;
    for host in ["shop.test", "SHOP.test", "shop.test:1", "shop.test.", "Shop.Test.:99"] {
        let answer = stage.ask(&format!("GET / HTTP/1.1\nHost: {host}\n\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\n"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn an_absolute_target_comes_before_the_host_header() {
    let stage = Stage::new().app(echo_head).await;
    let answer = stage.ask("GET http://shop.test/x?y HTTP/1.1\nHost: other.test\n\n").await;
    assert!(answer.contains("\n\nGET /x?y HTTP/1.1\nhost: shop.test\n"), "{answer}");
    assert!(!answer.contains("other.test"), "{answer}");
    let answer = stage.ask("GET http://shop.test?y HTTP/1.1\nHost: other.test\n\n").await;
    assert!(answer.contains("\n\nGET /?y HTTP/1.1\nhost: shop.test\n"), "{answer}");
}

#[tokio::test]
async fn a_tunnel_is_refused() {
    let stage = Stage::new().app(echo_head).await;
    let answer = stage.ask("CONNECT shop.test:80 HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
}

#[tokio::test]
async fn a_head_answer_keeps_its_length_and_has_no_body() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            for length in ["Content-Length: 1234\r\n", "Transfer-Encoding: chunked\r\n", ""] {
                assert!(peer.read_head().await.starts_with("HEAD / HTTP/1.1\r\n"));
                peer.say(&format!("HTTP/1.1 200 OK\r\n{length}\r\n")).await;
            }
        })
        .await;
    let mut client = stage.connect().await;
    let heads = [Some("content-length: 1234\r\n"), None, None];
    for length in heads {
        client.say("HEAD / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        match length {
            Some(length) => assert!(head.contains(length), "{head}"),
            None => assert!(!head.contains("content-length"), "a length that the app did not say: {head}"),
        }
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests_until_the_client_says_close() {
    let stage = Stage::new().app(echo_head).await;
    let mut client = stage.connect().await;
    for _ in 0..3 {
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\n") && !answer.contains("connection: close"), "{answer}");
    }
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").await;
    let last = client.read_to_end().await;
    assert!(last.contains("connection: close"), "{last}");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_what_it_understands() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            assert!(peer.read_head().await.starts_with("GET / HTTP/1.1\r\n"));
            peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
        })
        .await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n").await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test]
async fn status_reason_and_repeated_headers_go_through() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            peer.say(
                "HTTP/1.1 418 Short And Stout\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nDate: today\r\n\
                 Content-Length: 0\r\n\r\n",
            )
            .await;
        })
        .await;
    insta::assert_snapshot!(stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await, @r"
    HTTP/1.1 418 Short And Stout
    set-cookie: a=1
    set-cookie: b=2
    date: today
    x-robots-tag: noindex
    content-length: 0
    ");
}

#[tokio::test]
async fn a_question_about_the_server_as_a_whole_goes_through() {
    let stage = Stage::new().app(echo_head).await;
    let answer = stage.ask("OPTIONS * HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.contains("\n\nOPTIONS * HTTP/1.1\n"), "{answer}");
}

#[tokio::test]
async fn a_client_cannot_take_away_what_the_edge_says_or_needs() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            let head = peer.read_head().await;
            let body = peer.read_exact(5).await;
            peer.reply(&(head + &body)).await;
        })
        .await;
    let answer = stage
        .ask(
            "POST / HTTP/1.1\nHost: shop.test\nConnection: host, x-forwarded-for, content-length, x-robots-tag\n\
             Content-Length: 5\n\nhello",
        )
        .await;
    assert!(answer.contains("\nhost: shop.test\n") && answer.contains("\nx-forwarded-for: 127.0.0.1\n"), "{answer}");
    assert_eq!(answer.matches("\ncontent-length: 5\n").count(), 1, "{answer}");
    assert!(answer.ends_with("\n\nhello"), "{answer}");
}
