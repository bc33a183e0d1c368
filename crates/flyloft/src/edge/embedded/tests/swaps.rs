//! A route that changes under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// Asks as fast as it is answered until told to stop, over one connection or a new one each time.
async fn load(address: SocketAddr, keep: bool, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    let mut client = Peer::connect(address).await;
    for turn in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        // What may be repeated and what may not, short answers and long ones.
        let request = match turn % 3 {
            0 => "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n",
            1 => "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello",
            _ => "GET /long HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        };
        client.say(request).await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\n") && answer.ends_with("end"), "failed: {answer:.200}");
        answered.fetch_add(1, Ordering::SeqCst);
        if !keep {
            client = Peer::connect(address).await;
        }
    }
}

async fn serve(mut peer: Peer) {
    loop {
        let head = peer.read_head().await;
        if head.starts_with("POST ") {
            peer.read_exact(5).await;
            peer.reply("end").await;
        } else if head.starts_with("GET /long ") {
            // In two parts, so that a swap can come in between.
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbegin").await;
            tokio::task::yield_now().await;
            peer.say("end").await;
        } else if head.is_empty() {
            return;
        } else {
            peer.reply("end").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_a_route_goes_back_and_forth() {
    let stage = Stage::new();
    let mut app = App::start(serve).await;
    stage.route("shop.test", app.address).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> =
        (0..8).map(|n| tokio::spawn(load(stage.address(), n % 4 != 0, stop.clone(), answered.clone()))).collect();
    for _ in 0..50 {
        let before = answered.load(Ordering::SeqCst);
        let next = App::start(serve).await;
        stage.route("shop.test", next.address).await;
        assert!(stage.edge.drained(app.address, DEADLINE).await);
        // The old one goes at once, with every connection that the edge still holds.
        app = next;
        let failed = || clients.iter().any(|client| client.is_finished());
        eventually("requests go on", || failed() || answered.load(Ordering::SeqCst) > before + 20).await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert!(answered.load(Ordering::SeqCst) > 1000);
    drop(app);
}

#[tokio::test]
async fn an_upstream_is_drained_when_its_last_answer_has_been_sent() {
    let (arrived, mut arrival) = tokio::sync::mpsc::unbounded_channel();
    let app = App::start(move |mut peer: Peer| {
        let arrived = arrived.clone();
        async move {
            peer.read_head().await;
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel").await;
            let (go, may_go) = tokio::sync::oneshot::channel::<()>();
            arrived.send(go).unwrap();
            may_go.await.unwrap();
            peer.say("lo").await;
            peer.read_head().await;
        }
    })
    .await;
    let other = App::start(echo_head).await;
    let stage = Stage::new();
    assert!(stage.edge.drained(app.address, Duration::ZERO).await, "nothing has ever gone there");
    stage.route("shop.test", app.address).await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let go = arrival.recv().await.unwrap();
    stage.route("shop.test", other.address).await;
    assert!(!stage.edge.drained(app.address, Duration::from_millis(50)).await);
    assert!(stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.contains("x-forwarded-for"));

    let edge = stage.edge.clone();
    let address = app.address;
    let drained = tokio::spawn(async move { edge.drained(address, DEADLINE).await });
    go.send(()).unwrap();
    assert!(client.read_answer().await.ends_with("hello"));
    assert!(drained.await.unwrap());
}

#[tokio::test]
async fn a_removed_route_answers_as_if_it_had_never_been() {
    let stage = Stage::new().app(echo_head).await;
    stage.edge.remove("SHOP.test").await.unwrap();
    assert!(stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.starts_with("HTTP/1.1 404 "));
}
