//! What clients send to be taken for somebody else, or for two, where nginx is before the edge: straight to an app, and by
//! way of flyloft.

use super::*;
use crate::edge::embedded::tests::{chunks, length, takes_a_body};

/// How large a body may be where that is bounded.
const BODY_MAX: usize = 1000;

/// Requests that proxies have read differently from those behind them. Each has another one hidden in it.
pub(super) const SMUGGLED: [&str; 13] = [
    "Content-Length: 45\nTransfer-Encoding: chunked\n\n0\n\n",
    "Content-Length: 5\nContent-Length: 6\n\nhello",
    "Content-Length: +5\n\nhello",
    "Content-Length: 5, 6\n\nhello",
    "Transfer-Encoding: chunked\nTransfer-Encoding: identity\n\n0\n\n",
    "Transfer-Encoding: xchunked\n\n0\n\n",
    "Transfer-Encoding : chunked\n\n0\n\n",
    "Transfer-Encoding:\u{b}chunked\n\n0\n\n",
    " Transfer-Encoding: chunked\n\n0\n\n",
    "Transfer-Encoding: chunked\n\n0x5\nhello\n0\n\n",
    "Transfer-Encoding: chunked\n\n5 \nhello\n0\n\n",
    "Transfer-Encoding: chunked\n\n-1\nhello\n0\n\n",
    "Transfer-Encoding: chunked\n\nfffffffffffffffff\nhello\n0\n\n",
];

const HIDDEN: &str = "GET /hidden HTTP/1.1\nHost: shop-main.test\n\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_hides_in_another_one() {
    let (asked, mut asks) = mpsc::unbounded_channel();
    let app = App::start(move |mut peer: Peer| {
        let asked = asked.clone();
        async move {
            loop {
                let head = peer.read_head().await;
                if head.is_empty() {
                    return;
                }
                let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
                asked.send(head.clone()).unwrap();
                if is_chunked {
                    peer.read_until("0\r\n\r\n").await;
                }
                peer.reply(&head).await;
            }
        }
    })
    .await;
    let stage = Stage::new().await;
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
    while asks.try_recv().is_ok() {}
    // Those that look like streams of events go by way of flyloft.
    for accept in ["*/*", "text/event-stream"] {
        for (number, smuggled) in SMUGGLED.into_iter().enumerate() {
            let head = format!("POST /shown HTTP/1.1\nHost: shop-main.test\nAccept: {accept}\n");
            let mut client = stage.connect().await;
            client.say(&(head + smuggled + HIDDEN).replace('\n', "\r\n")).await;
            let first = client.read_head().await;
            assert!(first.starts_with("HTTP/1.1 "), "{smuggled}: {first}");
            drop(client);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut seen = Vec::new();
            while let Ok(head) = asks.try_recv() {
                seen.push(head);
            }
            // One that nginx reads as two is two for the app as well, each with a head of nginx's making.
            let told = |head: &String| head.to_ascii_lowercase().contains("\r\nx-forwarded-for: 127.0.0.1\r\n");
            assert!(seen.iter().all(told), "{accept} {number} {smuggled}: {seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_none_and_a_head_that_is_too_large_are_refused() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
    for heads in [
        "Host: shop-main.test\nHost: other.test\n",
        "Host: shop-main.test@evil.test\n",
        "Host: shop-main.test/evil\n",
        "Host: shop-main.test evil\n",
        "",
    ] {
        let answer = stage.ask(&format!("GET / HTTP/1.1\n{heads}Connection: close\n\n")).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "404"].contains(&status), "{heads}: {answer}");
    }
    // A port that would lead people elsewhere is none.
    let strange = stage.ask("GET / HTTP/1.1\nHost: shop-main.test:80evil.test\nConnection: close\n\n").await;
    assert!(!strange.contains("evil"), "{strange}");
    let large =
        format!("GET / HTTP/1.1\nHost: shop-main.test\nCookie: {}\nConnection: close\n\n", "x".repeat(40 << 10));
    assert!(stage.ask(&large).await.starts_with("HTTP/1.1 400 "), "nginx says so of cookies");
    let bare = "GET / HTTP/1.1\nHost: shop-main.test\nX-A: b\n\nGET /hidden HTTP/1.1\nHost: shop-main.test\n\n";
    let mut client = stage.connect().await;
    client.say(bare).await;
    let seen = client.read_answer().await;
    assert!(seen.starts_with("HTTP/1.1 200 ") && !seen.contains("/hidden"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_larger_than_it_may_be_is_refused_and_wakes_nobody() {
    let mut stage = Stage::at(NginxSite::new("root"), "test", "", |place| place.bounds.body = Some(BODY_MAX as u64));
    stage.start().await;
    let app = App::start(takes_a_body).await;
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
    // Straight, and by way of flyloft.
    for accept in ["*/*", "text/event-stream"] {
        for (size, status) in [(BODY_MAX, "200"), (BODY_MAX + 1, "413")] {
            let head = format!("POST / HTTP/1.1\nHost: shop-main.test\nAccept: {accept}\nConnection: close\n");
            for body in [length(size), chunks(size)] {
                let answer = stage.ask(&format!("{head}{body}")).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{accept} {size}: {answer}");
            }
        }
    }
    stage.edge.set("shop-main.test", held()).await.unwrap();
    assert!(stage.edge.drained(app.address, DEADLINE).await);
    let head = "POST / HTTP/1.1\nHost: shop-main.test\nConnection: close\n";
    let answer = stage.ask(&format!("{head}{}", length(BODY_MAX + 1))).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(stage.visits.try_recv().is_err(), "it was woken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_a_name_of_nobody_where_the_site_has_no_default_reaches_no_environment() {
    let (stage, app) = (Stage::new().await, named("its answer").await);
    stage.route("shop-main.test", &app).await;
    eventually("it is told", || stage.edge.desk.with(|plan| plan.is_so())).await;
    // With servers of its own for an app there are patterns instead of a wildcard.
    for has_snippet in [false, true] {
        if has_snippet {
            stage.snippet("shop", "add_header X-Shop yes always;\n");
            stage.until_told("shop-main.test", "X-Shop: yes").await;
        }
        let names = ["example.org", "test", "*.test", "127.0.0.1", "flyloft.invalid", "shop.invalid"];
        let more = ["shop-main.test.example.org", "a.shop-main.test", "xshop-main.test", "[::1]"];
        for name in names.into_iter().chain(more) {
            let answer = stage.ask(&get(name)).await;
            assert!(answer.starts_with("HTTP/1.1 404 ") && !answer.contains("its answer"), "{name}: {answer}");
        }
        let answer = stage.ask("GET / HTTP/1.0\n\n").await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && !answer.contains("its answer"), "{answer}");
    }
}
