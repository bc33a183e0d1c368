//! What counts as use of an environment, and what is waited for before it is taken down.

use std::time::Instant;

use super::*;

const OPEN: &str = "GET /live HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: PROTOCOL\r\n\r\n";
const TEXT: u8 = 0x81;
const PING: u8 = 0x89;

/// Longer than the clock's tick.
const A_WHILE: Duration = Duration::from_millis(30);

/// A frame as a client sends it, masked with zeros.
fn frame(kind: u8, payload: &str) -> Vec<u8> {
    [&[kind, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload.as_bytes()].concat()
}

/// Switches to whatever is asked for, and sends back every byte.
async fn echo_bytes(mut peer: Peer) {
    echo(&mut peer).await;
}

/// The same, and is there when its client has gone, as somebody frozen is.
async fn echo_bytes_and_stay(mut peer: Peer) {
    echo(&mut peer).await;
    std::future::pending().await
}

async fn echo(peer: &mut Peer) {
    let head = peer.read_head().await;
    let protocol = head.split("\r\nupgrade: ").nth(1).unwrap().lines().next().unwrap().to_owned();
    peer.say(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")).await;
    loop {
        let bytes = std::mem::take(&mut peer.unread);
        peer.stream.write_all(&bytes).await.unwrap();
        if peer.read_some().await == 0 {
            return;
        }
    }
}

async fn open(stage: &Stage, protocol: &str) -> Peer {
    let mut client = stage.connect().await;
    client.say(&OPEN.replace("PROTOCOL", protocol)).await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 101 "));
    client
}

/// Sends bytes and has them come back.
async fn echoed(client: &mut Peer, bytes: &[u8]) {
    client.stream.write_all(bytes).await.unwrap();
    client.read_exact(bytes.len()).await;
}

/// Waits until it has not been used for a while.
async fn unused(stage: &Stage) {
    eventually("it is unused", || stage.edge.unused_for("shop.test").is_some_and(|unused| unused >= A_WHILE)).await;
}

/// Whether it was used after `begin`, as exactly as the clock goes.
fn used_since(stage: &Stage, begin: Instant) -> bool {
    stage.edge.unused_for("shop.test").unwrap() <= begin.elapsed() + Duration::from_millis(11)
}

#[tokio::test]
async fn a_request_is_use_from_its_beginning_to_its_end() {
    let (stage, mut arrival) = Stage::new().patient_app().await;
    assert_eq!(stage.edge.unused_for("unknown.test"), None);
    assert_eq!(stage.edge.unused_for("shop.test"), None);
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let go = arrival.recv().await.unwrap();
    let begin = Instant::now();
    eventually("a while has passed", || begin.elapsed() >= A_WHILE).await;
    assert_eq!(stage.edge.unused_for("Shop.test"), Some(Duration::ZERO));
    go.send(()).unwrap();
    client.read_answer().await;
    unused(&stage).await;
}

#[tokio::test]
async fn who_used_it_last_is_known_in_words_and_who_is_no_visitor_has_not() {
    let stage = Stage::new().app(echo_head).await;
    stage.ask("GET / HTTP/1.1\nHost: shop.test\nUser-Agent: Googlebot/2.1\n\n").await;
    assert_eq!(stage.edge.last_user("shop.test"), None);
    stage.ask("GET /cart?token=secret HTTP/1.1\nHost: shop.test\n\n").await;
    assert_eq!(stage.edge.last_user("Shop.test").as_deref(), Some("GET /cart from 127.0.0.1"));
}

#[tokio::test]
async fn a_change_of_route_is_not_the_end_of_a_count() {
    let stage = Stage::new().app(echo_head).await;
    stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    let route = Route::public(env(), Target::Unavailable { why: "over its disk".into() });
    stage.edge.set("shop.test", route).await.unwrap();
    assert!(stage.edge.unused_for("shop.test").is_some());
    stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert_eq!(stage.edge.usage("shop.test").unwrap().answers, [0, 1, 0, 0, 1]);
}

#[tokio::test]
async fn whoever_waits_uses_it() {
    let (stage, _visitors) = Stage::asleep(|_| {}).await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    stage.waiting(1).await;
    assert_eq!(stage.edge.unused_for("shop.test"), Some(Duration::ZERO));
    drop(client);
    unused(&stage).await;
}

#[tokio::test]
async fn a_stream_of_events_is_use_when_it_begins_and_nobody_waits_for_its_end() {
    let (next, mut events) = mpsc::unbounded_channel::<()>();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = app.accept().await.unwrap();
        let mut peer = Peer { stream, unread: Vec::new() };
        peer.read_head().await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n").await;
        events.recv().await.unwrap();
        peer.say("data: 2\n\n").await;
        peer.read_to_end().await;
    });
    let stage = Stage::new();
    stage.route("shop.test", address).await;
    let mut client = stage.connect().await;
    client.say("GET /events HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    client.read_until("data: 1\n\n").await;
    unused(&stage).await;
    assert!(stage.edge.drained(address, Duration::ZERO).await);
    next.send(()).unwrap();
    assert!(client.read_until("data: 2\n\n").await.ends_with("data: 2\n\n"));
    assert!(stage.edge.unused_for("shop.test").unwrap() >= A_WHILE);
    drop(client);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_websocket_is_use_when_its_client_says_something_and_not_when_it_pings() {
    let stage = Stage::new().app(echo_bytes).await;
    let mut client = open(&stage, "websocket").await;
    unused(&stage).await;
    echoed(&mut client, &frame(PING, "still here")).await;
    assert!(stage.edge.unused_for("shop.test").unwrap() >= A_WHILE, "a ping is use");
    let begin = Instant::now();
    echoed(&mut client, &frame(TEXT, "hello")).await;
    assert!(used_since(&stage, begin));
}

#[tokio::test]
async fn any_byte_of_a_client_is_use_of_another_protocol() {
    let stage = Stage::new().app(echo_bytes).await;
    let mut client = open(&stage, "tcp").await;
    unused(&stage).await;
    let begin = Instant::now();
    echoed(&mut client, b"x").await;
    assert!(used_since(&stage, begin));
}

#[tokio::test]
async fn nobody_waits_for_the_end_of_a_switched_connection() {
    let app = App::start(echo_bytes).await;
    let stage = Stage::new();
    stage.route("shop.test", app.address).await;
    let mut client = open(&stage, "websocket").await;
    assert!(stage.edge.drained(app.address, DEADLINE).await);
    echoed(&mut client, &frame(TEXT, "hello")).await;
}

#[tokio::test]
async fn a_message_over_an_open_websocket_wakes_what_is_asleep_and_a_ping_does_not() {
    let (visits, mut visitors) = mpsc::unbounded_channel();
    let stage = Stage::with(|config| config.visits = Some(visits)).app(echo_bytes).await;
    let mut client = open(&stage, "websocket").await;
    stage.hold("shop.test", None).await;
    echoed(&mut client, &frame(PING, "")).await;
    assert!(visitors.try_recv().is_err());
    for _ in 0..2 {
        echoed(&mut client, &frame(TEXT, "hello")).await;
    }
    let visit = visitors.recv().await.unwrap();
    assert_eq!((visit.env, visit.by.as_str()), (env(), "a message over GET /live from 127.0.0.1"));
    assert!(visit.passage.is_none(), "a message waits for no answer");
    assert!(visitors.try_recv().is_err());
}

/// An app that sleeps, a client that has sent it a message, and who wakes it: of the message they have been told once.
async fn told_asleep(app: &App) -> (Stage, Peer, mpsc::UnboundedReceiver<Visit>) {
    let (visits, mut visitors) = mpsc::unbounded_channel();
    let stage = Stage::with(|config: &mut EdgeConfig| {
        config.visits = Some(visits);
        config.limits.unheard = A_WHILE;
    });
    stage.route("shop.test", app.address).await;
    let mut client = open(&stage, "websocket").await;
    stage.hold("shop.test", None).await;
    echoed(&mut client, &frame(TEXT, "hello")).await;
    visitors.recv().await.unwrap();
    (stage, client, visitors)
}

#[tokio::test]
async fn a_message_that_woke_nobody_is_told_of_again_until_it_is_heard() {
    let app = App::start(echo_bytes).await;
    let (stage, _client, mut visitors) = told_asleep(&app).await;
    // While it is waking nobody is told again.
    assert!(tokio::time::timeout(3 * A_WHILE, visitors.recv()).await.is_err());
    for _ in 0..3 {
        stage.hold("shop.test", Some("There is no memory.")).await;
        let again = tokio::time::timeout(DEADLINE, visitors.recv()).await.expect("nobody is told again").unwrap();
        assert_eq!(again.by, "a message over GET /live from 127.0.0.1");
    }
    // It wakes, and falls asleep again before anybody has looked.
    stage.route("shop.test", app.address).await;
    stage.hold("shop.test", None).await;
    assert!(tokio::time::timeout(3 * A_WHILE, visitors.recv()).await.is_err());
    // A failure that comes after that is none of this message's.
    stage.hold("shop.test", Some("There is no memory.")).await;
    assert!(tokio::time::timeout(3 * A_WHILE, visitors.recv()).await.is_err());
}

#[tokio::test]
async fn what_a_client_said_that_has_gone_since_is_not_told_again() {
    let app = App::start(echo_bytes_and_stay).await;
    let (stage, client, mut visitors) = told_asleep(&app).await;
    drop(client);
    stage.hold("shop.test", Some("There is no memory.")).await;
    assert!(tokio::time::timeout(3 * A_WHILE, visitors.recv()).await.is_err());
}
