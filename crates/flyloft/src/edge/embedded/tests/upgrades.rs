//! Connections that go on in another protocol: WebSocket, and whatever else two sides agree on.

use super::*;

const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nHost: shop.test\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Accepts any upgrade and sends everything back, until the client says `bye`.
async fn echo_socket(mut peer: Peer) {
    let head = peer.read_head().await;
    let protocol = head.split("\r\nupgrade: ").nth(1).unwrap().lines().next().unwrap().to_owned();
    assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    // The first words of the new protocol come together with the answer.
    peer.say(&format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Accept: y\r\n\r\nwelcome\n"
    ))
    .await;
    loop {
        let line = peer.read_until("\n").await;
        if line.is_empty() || line == "bye\n" {
            return;
        }
        peer.say(&line).await;
    }
}

#[tokio::test]
async fn a_websocket_carries_both_ways() {
    let stage = Stage::new().app(echo_socket).await;
    let mut client = stage.connect().await;
    // The client does not wait for the answer either.
    client.say(&format!("{HANDSHAKE}early\n")).await;
    insta::assert_snapshot!(undated(&client.read_head().await.replace("\r\n", "\n")), @r"
    HTTP/1.1 101 Switching Protocols
    sec-websocket-accept: y
    upgrade: websocket
    connection: upgrade
    x-robots-tag: noindex
    ");
    assert_eq!(client.read_until("\n").await, "welcome\n");
    assert_eq!(client.read_until("\n").await, "early\n");
    for line in ["one\n", "two\n"] {
        client.say(line).await;
        assert_eq!(client.read_until("\n").await, line);
    }
    client.say("bye\n").await;
    assert_eq!(client.read_to_end().await, "");
}

#[tokio::test]
async fn any_other_protocol_may_be_switched_to() {
    let stage = Stage::new().app(echo_socket).await;
    let mut client = stage.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").await;
    assert!(client.read_head().await.contains("\r\nupgrade: tcp\r\n"));
    client.say("hello\n").await;
    assert_eq!(client.read_until("hello\n").await, "welcome\nhello\n");
}

#[tokio::test]
async fn an_upgrade_that_the_app_declines_is_an_ordinary_answer() {
    let stage = Stage::new().app(echo_head).await;
    let mut client = stage.connect().await;
    for _ in 0..2 {
        client.say(HANDSHAKE).await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_an_error() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
            peer.read_to_end().await;
        })
        .await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}
