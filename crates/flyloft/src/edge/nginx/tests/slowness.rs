//! Clients that do not keep up, where nginx goes straight to an app.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const HOST: &str = "shop-main.test";

const BRIEF: Duration = Duration::from_secs(2);

/// Clients may be slow for this long.
async fn strict() -> Stage {
    let mut stage = Stage::at(NginxSite::new("root"), "test", "", |place| {
        place.bounds = Bounds { head: BRIEF, send: BRIEF, take: BRIEF, ..bounds() };
    });
    stage.start().await;
    stage
}

/// An app that takes bodies and sends without end, and how often neither came to its end.
async fn patient(stage: &Stage) -> (App, Arc<AtomicUsize>) {
    let cut = Arc::new(AtomicUsize::new(0));
    let counted = cut.clone();
    let serve = move |mut peer: Peer| {
        let counted = counted.clone();
        async move {
            loop {
                let head = peer.read_head().await;
                if head.starts_with("POST ") && peer.read_until("the end").await.ends_with("the end") {
                    peer.reply("got it").await;
                } else if head.starts_with("GET / ") {
                    peer.reply(&head).await;
                } else {
                    if head.starts_with("GET /endless ") {
                        peer.say("HTTP/1.1 200 OK\r\n\r\n").await;
                        peer.say_without_end(&"x".repeat(1 << 16)).await;
                    }
                    counted.fetch_add(usize::from(!head.is_empty()), Ordering::SeqCst);
                    return;
                }
            }
        }
    };
    let app = App::start(serve).await;
    stage.route(HOST, &app).await;
    stage.straight(HOST).await;
    (app, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_comes_a_byte_at_a_time_has_its_time_as_a_whole() {
    let stage = strict().await;
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], stage.site.port))).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Long: {}\r\n\r\n", "x".repeat(500));
    let begun = Instant::now();
    for byte in head.bytes() {
        // Nothing is read of what nginx may say before it closes.
        if stream.write_all(&[byte]).await.is_err() || stream.try_read(&mut [0; 1024]).is_ok_and(|read| read == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() < DEADLINE, "it was let go on to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stops_coming_ends_at_its_app_and_one_that_comes_slowly_goes_on() {
    let stage = strict().await;
    let (_app, cut) = patient(&stage).await;
    let post = |length: usize| format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n");
    let mut slow = stage.connect().await;
    slow.say(&post(8 + "the end".len())).await;
    for _ in 0..8 {
        slow.say("x").await;
        tokio::time::sleep(BRIEF / 3).await;
    }
    slow.say("the end").await;
    let answer = slow.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("got it"), "{answer}");
    assert_eq!(cut.load(Ordering::SeqCst), 0);
    let mut stalls = stage.connect().await;
    stalls.say(&post(1000)).await;
    stalls.say("x").await;
    let end = stalls.read_to_end().await;
    assert!(end.is_empty() || end.starts_with("HTTP/1.1 408 "), "{end}");
    eventually("its app sees the end", || cut.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_takes_ends_at_its_app() {
    let stage = strict().await;
    let (_app, cut) = patient(&stage).await;
    let mut client = stage.connect().await;
    client.say(&format!("GET /endless HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    client.read_until("x").await;
    eventually("its app sees the end", || cut.load(Ordering::SeqCst) == 1).await;
}
