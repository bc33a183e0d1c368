//! More clients than there is room for.

use super::super::Room;
use super::doors::doors;
use super::*;

const ASK: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";

fn room(connections: usize, of_one: usize, lines: usize) -> impl Fn(&mut EdgeConfig) {
    move |config| {
        let room = Room { lines_of_one: lines, held: 8, held_for_one: 8, ..Room::here() };
        config.room = Room { connections, of_one, lines, ..room };
    }
}

fn with_room(connections: usize, of_one: usize, lines: usize) -> Stage {
    Stage::with(room(connections, of_one, lines))
}

/// How many of them have had to go.
fn gone(clients: &[Peer]) -> usize {
    let is_open = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    clients.iter().filter(|client| client.stream.try_read(&mut [0]).as_ref().err().is_none_or(|e| !is_open(e))).count()
}

#[tokio::test]
async fn a_flood_of_silent_clients_makes_way_for_one_that_asks() {
    for door in doors(room(40, 40, 40), echo_head).await {
        let mut flood = Vec::new();
        // The last one would say hello to TLS.
        for beginning in ["", "PRI * HT", "GET / HTTP/1.1\r\nHost: shop.test\r\nX: ", "\x16\x03\x01\x01"].repeat(75) {
            let mut client = Peer::connect(door.address()).await;
            // Who is refused, or had to go at once, cannot be told anything.
            let _ = client.stream.write_all(beginning.as_bytes()).await;
            flood.push(client);
        }
        let begin = std::time::Instant::now();
        loop {
            if let Ok(mut client) = door.try_connect().await {
                let _ = client.stream.write_all(ASK.as_bytes()).await;
                if client.read_head().await.starts_with("HTTP/1.1 200 OK\r\n") {
                    break;
                }
            }
            assert!(begin.elapsed() < DEADLINE, "{}: nobody makes way", door.name());
        }
        // The limits for heads and for handshakes are further away.
        eventually("who has no room has gone", || gone(&flood) >= 260).await;
    }
}

#[tokio::test]
async fn a_request_under_way_is_not_cut_by_a_flood() {
    let (stage, mut arrival) = with_room(8, 8, 8).patient_app().await;
    let mut client = stage.connect().await;
    client.say(ASK).await;
    let go = arrival.recv().await.unwrap();
    let mut flood = Vec::new();
    for _ in 0..50 {
        flood.push(stage.connect().await);
    }
    eventually("who has no room has gone", || gone(&flood) >= 43).await;
    go.send(()).unwrap();
    assert!(client.read_answer().await.ends_with("hello"));
}

#[tokio::test]
async fn one_address_does_not_take_the_room_of_another() {
    for door in doors(room(40, 4, 40), echo_head).await {
        let mut client = door.connect().await;
        client.say(ASK).await;
        client.read_answer().await;
        let mut flood = Vec::new();
        for _ in 0..100 {
            flood.push(Peer::connect_from(2, door.address()).await);
        }
        eventually("who has no room has gone", || gone(&flood) >= 96).await;
        // On the same connection, which was idle for longer than any other.
        client.say(ASK).await;
        assert!(client.read_answer().await.starts_with("HTTP/1.1 200 OK\n"), "{}", door.name());
    }
}

#[tokio::test]
async fn connections_over_tls_count_with_those_over_plain_http() {
    let [_, secure] = doors(room(40, 4, 40), echo_head).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut client = secure.connect().await;
        client.say(ASK).await;
        assert!(client.read_answer().await.starts_with("HTTP/1.1 200 OK\n"));
        idle.push(client);
    }
    // The longest idle one of the same address makes way, and no other.
    let _plain = secure.stage.connect().await;
    assert_eq!(idle[0].read_to_end().await, "");
    for client in &mut idle[1..] {
        client.say(ASK).await;
        assert!(client.read_answer().await.starts_with("HTTP/1.1 200 OK\n"));
    }
}

#[tokio::test]
async fn an_idle_connection_to_an_app_makes_way_for_one_to_another() {
    let other = App::start(echo_head).await;
    let stage = with_room(8, 8, 1).app(echo_head).await;
    stage.route("other.test", other.address).await;
    for host in ["shop.test", "other.test", "shop.test"] {
        let answer = stage.ask(&format!("GET / HTTP/1.1\nHost: {host}\n\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\n"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn more_requests_than_there_are_connections_to_apps_are_told_so() {
    let (stage, mut arrival) = with_room(8, 8, 1).patient_app().await;
    let mut first = stage.connect().await;
    first.say(ASK).await;
    let go = arrival.recv().await.unwrap();
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Too much at a time\n"), "{answer}");
    go.send(()).unwrap();
    assert!(first.read_answer().await.ends_with("hello"));
    // It is not the app that failed.
    assert_eq!(stage.edge.usage("shop.test").unwrap().answers, [0, 1, 0, 0, 0]);
}

#[tokio::test]
async fn an_app_that_hangs_leaves_the_connections_of_others() {
    let other = App::start(echo_head).await;
    let stage = Stage::with(|config| config.room = Room { lines: 8, lines_of_one: 2, ..Room::here() });
    let (stage, mut arrival) = stage.patient_app().await;
    stage.route("other.test", other.address).await;
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut client = stage.connect().await;
        client.say(ASK).await;
        hanging.push((client, arrival.recv().await.unwrap()));
    }
    assert!(stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.starts_with("HTTP/1.1 503 "));
    assert!(stage.ask("GET / HTTP/1.1\nHost: other.test\n\n").await.starts_with("HTTP/1.1 200 OK\n"));
    for (mut client, go) in hanging {
        go.send(()).unwrap();
        assert!(client.read_answer().await.ends_with("hello"));
    }
}

#[tokio::test]
async fn a_switched_connection_keeps_its_place_and_its_connection_to_the_app() {
    let stage = with_room(2, 2, 1)
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
            peer.read_until("bye\n").await;
        })
        .await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 101 "));
    for _ in 0..2 {
        let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\nConnection: close\n\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    client.say("bye\n").await;
    assert_eq!(client.read_to_end().await, "");
}
