//! Clients that come, wait and go away, and what that does to apps and to other clients.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// An app that counts its connections and answers what `serve` says.
fn counted(count: &Arc<AtomicUsize>) -> impl Fn() -> usize + Send + Clone + 'static {
    let count = count.clone();
    move || count.fetch_add(1, Ordering::SeqCst)
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_at_the_app() {
    let ended = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(AtomicUsize::new(0));
    let (end, begin) = (ended.clone(), begun.clone());
    let stage = Stage::with(|config| config.limits.half_closed = Duration::from_millis(50))
        .app(move |mut peer: Peer| {
            let (end, begin) = (end.clone(), begin.clone());
            async move {
                peer.read_head().await;
                begin.fetch_add(1, Ordering::SeqCst);
                assert_eq!(peer.read_to_end().await, "");
                end.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    eventually("the request reaches the app", || begun.load(Ordering::SeqCst) == 1).await;
    drop(client);
    eventually("the app sees the end", || ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_client_that_only_shuts_its_sending_side_gets_its_answer() {
    // A connection that ended only with this patience would be an endless one.
    let patience = Duration::from_secs(3_600);
    let (stage, mut arrival) = Stage::with(|config| config.limits.half_closed = patience).patient_app().await;
    let ask = async |host: &str| {
        let mut client = stage.connect().await;
        client.say(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        client.stream.shutdown().await.unwrap();
        client
    };
    let mut client = ask("shop.test").await;
    arrival.recv().await.unwrap().send(()).unwrap();
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    // A page of the edge itself. Often the end comes with the request.
    for _ in 0..50 {
        assert!(ask("nobody.test").await.read_to_end().await.starts_with("HTTP/1.1 404 "));
    }
    // And an answer that is not the last one of its connection.
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\nGET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    arrival.recv().await.unwrap().send(()).unwrap();
    let answers = client.read_to_end().await;
    assert!(answers.starts_with("HTTP/1.1 404 ") && answers.ends_with("hello"), "{answers}");
}

#[tokio::test]
async fn a_client_that_has_shut_its_sending_side_and_is_slow_gets_all_of_its_answer() {
    const SIZE: usize = 8 << 20;
    let app = App::start(async |mut peer: Peer| {
        let head = peer.read_head().await;
        let size = SIZE + head.split(['/', ' ']).nth(2).unwrap().parse::<usize>().unwrap();
        peer.say(&format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n")).await;
        peer.stream.write_all(&vec![b'x'; size]).await.unwrap();
        peer.read_to_end().await;
    })
    .await;
    let stage = Stage::new();
    stage.route("shop.test", app.address).await;
    // How much the edge still has of an answer when the app has done its part depends on how it is cut into pieces.
    for more in (0..10).map(|turn| turn * 150_000) {
        let mut client = stage.connect().await;
        client.say(&format!("GET /{more} HTTP/1.1\r\nHost: shop.test\r\n\r\n")).await;
        client.stream.shutdown().await.unwrap();
        let mut taken = client.read_until("\r\n\r\n").await.split_once("\r\n\r\n").unwrap().1.len();
        while !stage.edge.drained(app.address, Duration::ZERO).await {
            taken += client.stream.read(&mut vec![0; 16 << 10]).await.unwrap();
        }
        assert_eq!(taken + client.read_to_end().await.len(), SIZE + more);
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_an_answer_ends_it_at_the_app() {
    let ended = Arc::new(AtomicUsize::new(0));
    let end = ended.clone();
    let stage = Stage::new()
        .app(move |mut peer: Peer| {
            let end = end.clone();
            async move {
                peer.read_head().await;
                peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                while peer.stream.write_all(b"5\r\nhello\r\n").await.is_ok() {
                    tokio::task::yield_now().await;
                }
                end.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    client.read_until("hello").await;
    drop(client);
    eventually("the app sees the end", || ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_its_app_and_nobody_else() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let stage = Stage::with(|config| config.threads = 1)
        .app(move |mut peer: Peer| {
            let count = count.clone();
            async move {
                let head = peer.read_head().await;
                if !head.starts_with("GET /endless ") {
                    return peer.reply("hello").await;
                }
                peer.say("HTTP/1.1 200 OK\r\n\r\n").await;
                while peer.stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {
                    count.fetch_add(1 << 16, Ordering::SeqCst);
                }
            }
        })
        .await;
    let mut slow = stage.connect().await;
    slow.say("GET /endless HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    slow.read_until("x").await;
    // The edge holds a few hundred kilobytes; the rest is what the kernel's buffers take on both sides.
    let mut before = 0;
    loop {
        for _ in 0..20 {
            assert!(stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.ends_with("hello"));
        }
        let now = written.load(Ordering::SeqCst);
        assert!(now < 64 << 20, "the edge takes an endless answer in");
        if now == before {
            break;
        }
        before = now;
    }
}

#[tokio::test]
async fn a_slow_answer_is_not_cut_by_the_limit_for_heads() {
    let stage = Stage::with(|config| config.limits.head = Duration::from_millis(50))
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            peer.reply("hello").await;
        })
        .await;
    assert!(stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await.ends_with("hello"));
}

#[tokio::test]
async fn connections_to_an_app_are_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = counted(&connections);
    let stage = Stage::with(|config| config.threads = 1)
        .app(move |mut peer: Peer| {
            count();
            async move {
                loop {
                    match peer.read_head().await {
                        head if head.is_empty() => return,
                        head if head.starts_with("POST ") => peer.read_exact(5).await,
                        _ => String::new(),
                    };
                    peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
                }
            }
        })
        .await;
    for _ in 0..10 {
        stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
        stage.ask("POST / HTTP/1.1\nHost: shop.test\nContent-Length: 5\n\nhello").await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_an_app_says_behind_an_answer_is_no_answer_to_the_next_request() {
    let stage = Stage::with(|config| config.threads = 1)
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            let behind = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstrays";
            peer.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello{behind}")).await;
            peer.read_to_end().await;
        })
        .await;
    let mut client = stage.connect().await;
    for _ in 0..3 {
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert!(client.read_answer().await.ends_with("\n\nhello"));
    }
}

#[tokio::test]
async fn an_idle_connection_to_an_app_is_closed_in_time() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = counted(&closed);
    let stage = Stage::with(|config| config.limits.idle = Duration::from_millis(50))
        .app(move |peer: Peer| {
            let count = count.clone();
            async move {
                echo_head(peer).await;
                count();
            }
        })
        .await;
    stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    eventually("the app sees the end", || closed.load(Ordering::SeqCst) == 1).await;
}

/// The first connection answers one request, and breaks when the second one has been read.
async fn breaks_on_the_second_request(mut peer: Peer, connection: usize) {
    peer.read_head().await;
    peer.reply("hello").await;
    if connection == 0 {
        peer.read_head().await;
    } else {
        echo_head(peer).await;
    }
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_repeated_where_that_is_safe() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = counted(&connections);
    let stage = Stage::with(|config| config.threads = 1)
        .app(move |peer: Peer| breaks_on_the_second_request(peer, count()))
        .await;
    for _ in 0..2 {
        let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_request_that_is_not_idempotent_is_never_repeated() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = counted(&connections);
    let stage = Stage::with(|config| config.threads = 1)
        .app(move |peer: Peer| breaks_on_the_second_request(peer, count()))
        .await;
    stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    let answer = stage.ask("POST / HTTP/1.1\nHost: shop.test\nContent-Length: 0\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_is_repeated_only_once_and_only_before_the_answer() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = counted(&requests);
    let stage = Stage::with(|config| config.threads = 1)
        .app(move |mut peer: Peer| {
            let count = count.clone();
            async move {
                peer.read_head().await;
                if count() == 0 {
                    peer.reply("hello").await;
                    peer.read_head().await;
                    count();
                }
            }
        })
        .await;
    stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    // The one that went well, the one that met the end, its repetition.
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_app_that_closed_its_idle_connection_is_asked_over_a_new_one() {
    let connections = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(AtomicUsize::new(0));
    let (count, close) = (counted(&connections), counted(&closed));
    let stage = Stage::with(|config| config.threads = 1)
        .app(move |mut peer: Peer| {
            count();
            let close = close.clone();
            async move {
                peer.read_head().await;
                peer.reply("hello").await;
                drop(peer);
                close();
            }
        })
        .await;
    for asked in 1..=20 {
        let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
        assert!(answer.ends_with("hello"), "{answer}");
        eventually("the app closes", || closed.load(Ordering::SeqCst) == asked).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn an_early_answer_to_an_upload_reaches_the_client() {
    for app_stays in [true, false] {
        let stage = Stage::new()
            .app(move |mut peer: Peer| async move {
                peer.read_head().await;
                peer.say("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
                if app_stays {
                    peer.read_to_end().await;
                }
            })
            .await;
        let mut client = stage.connect().await;
        client.say("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 800000\r\n\r\n").await;
        // It sends all that it has before it looks for an answer.
        client.stream.write_all(&[b'x'; 800_000]).await.unwrap();
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("big"), "{answer}");
    }
}
