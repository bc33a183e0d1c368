//! Where the edge listens, how it hands that over, and how it ends.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use super::*;
use crate::edge::EdgeError;

#[tokio::test]
async fn one_listener_serves_both_families() {
    let stage = Stage::with(|config| config.listen = vec!["[::]:0".parse().unwrap()]).app(echo_head).await;
    let port = stage.address().port();
    for (host, seen) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
        let mut client = Peer::connect(SocketAddr::new(host.parse().unwrap(), port)).await;
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        let answer = client.read_answer().await;
        assert!(answer.contains(&format!("\nx-forwarded-for: {seen}\n")), "{answer}");
    }
}

#[tokio::test]
async fn an_app_may_listen_on_ipv6_alone() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let stage = Stage::new();
    stage.route("shop.test", listener.local_addr().unwrap()).await;
    let app = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        echo_head(Peer { stream, unread: Vec::new() }).await;
    });
    assert!(stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.starts_with("HTTP/1.1 200 "));
    app.abort();
}

#[tokio::test]
async fn several_addresses_are_listened_on_and_reported() {
    let listen: Vec<SocketAddr> = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let stage = Stage::with(|config| config.listen = listen).app(echo_head).await;
    let addresses = stage.edge.addresses().to_vec();
    assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6(), "{addresses:?}");
    for address in addresses {
        assert_ne!(address.port(), 0);
        let mut client = Peer::connect(address).await;
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert!(client.read_answer().await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_even_if_another_edge_has_it() {
    let stage = Stage::new();
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for taken in [stage.address(), socket.local_addr().unwrap()] {
        match Embedded::open(EdgeConfig::new([taken])) {
            Err(EdgeError::Listen { address, source }) => {
                assert_eq!((address, source.kind()), (taken, ErrorKind::AddrInUse));
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{taken} is shared"),
        }
    }
}

#[tokio::test]
async fn a_successor_takes_the_sockets_over_and_no_request_is_lost() {
    let serve = |name| {
        move |mut peer: Peer| async move {
            peer.read_head().await;
            peer.reply(name).await;
        }
    };
    let (old_app, new_app) = (App::start(serve("old")).await, App::start(serve("new")).await);
    // Fewer threads than sockets, and more: no socket is left alone, no thread without one.
    for threads in [1, 4] {
        let old = Stage::new();
        old.route("shop.test", old_app.address).await;
        let address = old.address();
        assert!(old.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.ends_with("old"));
        let inherited = old.edge.listeners().unwrap();
        assert_eq!(inherited.len(), 2);

        let route = Route::public(env(), Target::Upstream(new_app.address));
        let new = Stage::with(|config| {
            config.listen = vec![address];
            config.inherited = inherited;
            config.threads = threads;
            config.routes = vec![("shop.test".to_owned(), route)];
        });
        assert_eq!(new.address(), address);
        let (answers, ()) = tokio::join!(ask_again_and_again(address, 200), old.edge.shutdown(DEADLINE));
        let lost = answers.iter().find(|answer| !answer.ends_with("old") && !answer.ends_with("new"));
        assert_eq!(lost, None);
        for _ in 0..20 {
            assert!(new.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.ends_with("new"));
        }
    }
}

async fn ask_again_and_again(address: SocketAddr, times: usize) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..times {
        let mut client = Peer::connect(address).await;
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").await;
        answers.push(client.read_answer().await);
    }
    answers
}

#[tokio::test]
async fn a_shutdown_lets_requests_end_closes_idle_connections_and_keeps_nobody_else_waiting() {
    let (stage, mut arrival) = Stage::new().patient_app().await;
    let (mut idle, mut silent, mut busy) = (stage.connect().await, stage.connect().await, stage.connect().await);
    idle.say("GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n").await;
    idle.read_answer().await;
    busy.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let go = arrival.recv().await.unwrap();

    let edge = stage.edge.clone();
    let ending = tokio::spawn(async move { edge.shutdown(DEADLINE).await });
    assert_eq!(idle.read_to_end().await, "");
    assert_eq!(silent.read_to_end().await, "");
    let newcomer = stage.ask("GET / HTTP/1.1\nHost: unknown.test\n\n").await;
    assert!(newcomer.starts_with("HTTP/1.1 404 ") && newcomer.contains("\nconnection: close\n"), "{newcomer}");
    assert!(!ending.is_finished());
    go.send(()).unwrap();
    assert!(busy.read_answer().await.ends_with("hello"));
    tokio::time::timeout(DEADLINE, ending).await.unwrap().unwrap();
    assert!(std::net::TcpStream::connect(stage.address()).is_err());
}

#[tokio::test]
async fn a_client_that_keeps_its_connection_loses_no_request_when_the_edge_ends() {
    let old = Stage::new().app(echo_head).await;
    let mut client = old.connect().await;
    let ask = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    client.say(ask).await;
    assert!(client.read_answer().await.starts_with("HTTP/1.1 200 "));
    let new = Stage::with(|config| {
        config.listen = vec![old.address()];
        config.inherited = old.edge.listeners().unwrap();
    });
    let new = new.app(echo_head).await;
    let edge = old.edge.clone();
    let ending = tokio::spawn(async move { edge.shutdown(DEADLINE).await });
    // As long as it is not told to close, it goes on.
    loop {
        client.say(ask).await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        if answer.contains("\nconnection: close\n") {
            break;
        }
    }
    assert_eq!(client.read_to_end().await, "");
    tokio::time::timeout(DEADLINE, ending).await.unwrap().unwrap();
    assert!(new.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_shutdown_cuts_what_does_not_end_in_time() {
    let (stage, mut arrival) = Stage::new().patient_app().await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let _never = arrival.recv().await.unwrap();
    let begin = std::time::Instant::now();
    stage.edge.shutdown(Duration::from_millis(100)).await;
    assert!(begin.elapsed() >= Duration::from_millis(100));
    assert_eq!(client.read_to_end().await, "");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_what_has_no_end() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            let head = match peer.read_head().await.to_ascii_lowercase().contains("upgrade: x") {
                true => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nwelcome\n",
                false => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: welcome\n",
            };
            peer.say(head).await;
            peer.read_to_end().await;
        })
        .await;
    let (mut socket, mut events) = (stage.connect().await, stage.connect().await);
    socket.say("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
    socket.read_until("welcome\n").await;
    events.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    events.read_until("welcome\n").await;
    let begin = std::time::Instant::now();
    stage.edge.shutdown(DEADLINE).await;
    assert!(begin.elapsed() < DEADLINE / 2, "it waited {:?}", begin.elapsed());
    assert_eq!(socket.read_to_end().await, "");
    events.read_to_end().await;
}

#[tokio::test]
async fn an_edge_that_is_dropped_stops_listening() {
    let stage = Stage::new();
    let address = stage.address();
    drop(stage);
    eventually("the address is free", || std::net::TcpListener::bind(address).is_ok()).await;
}

#[tokio::test]
async fn a_connection_from_just_before_the_shutdown_still_gets_its_answer() {
    let stage = Stage::with(|config| config.threads = 1).app(echo_head).await;
    let mut client = stage.connect().await;
    // Another request makes sure that both have been accepted.
    stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    let edge = stage.edge.clone();
    let ending = tokio::spawn(async move { edge.shutdown(DEADLINE).await });
    stage.ending().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert!(client.read_answer().await.starts_with("HTTP/1.1 200 "));
    ending.await.unwrap();
}
