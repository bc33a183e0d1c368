//! More requests of one client than it may have under way.

use flyloft_core::gate::Prefix;

use super::proxies::ask_from;
use super::*;
use crate::own_server::free_port;

const HOST: &str = "shop-main.test";

/// Each address may have three of them, whatever the site counts for itself.
async fn few(change: impl FnOnce(&mut Place)) -> Stage {
    let (site, port) = (NginxSite::new("root"), free_port());
    let own = format!(
        "limit_conn_zone $binary_remote_addr zone=own:1m; limit_conn own 50; \
         server {{ listen 127.0.0.1:{port}; server_name *.test; limit_conn own 50; include {}/server.conf; }}",
        site.path("flyloft").display()
    );
    let mut stage = Stage::at(site, "test", &own, |place| {
        place.bounds.requests = 3;
        change(place);
    });
    stage.start().await;
    stage
}

/// An app that tells of each request for `/slow`, and answers none of them.
async fn slow() -> (App, mpsc::UnboundedReceiver<()>) {
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let serve = move |mut peer: Peer| {
        let arrived = arrived.clone();
        async move {
            loop {
                let head = peer.read_head().await;
                if head.starts_with("GET /slow ") {
                    let _ = arrived.send(());
                    peer.read_to_end().await;
                    return;
                }
                if head.is_empty() {
                    return;
                }
                peer.reply(&head).await;
            }
        }
    };
    (App::start(serve).await, arrivals)
}

/// A request from `127.0.0.from`, with this in its head, that the app has got.
async fn under_way(stage: &Stage, arrivals: &mut mpsc::UnboundedReceiver<()>, from: u8, told: &str) -> Peer {
    let mut client = Peer::connect_from(from, SocketAddr::from(([127, 0, 0, 1], stage.site.port))).await;
    client.say(&format!("GET /slow HTTP/1.1\r\nHost: {HOST}\r\n{told}\r\n")).await;
    tokio::time::timeout(DEADLINE, arrivals.recv()).await.expect("it never came to the app");
    client
}

async fn until_answered(stage: &Stage, from: u8) {
    let begun = Instant::now();
    while !ask_from([127, 0, 0, from], stage, &get(HOST)).await.starts_with("HTTP/1.1 200 ") {
        assert!(begun.elapsed() < DEADLINE, "what has ended is still counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_so_many_requests_under_way_and_another_one_its_own() {
    let stage = few(|_| {}).await;
    let (app, mut arrivals) = slow().await;
    stage.route(HOST, &app).await;
    stage.straight(HOST).await;
    // In the server of all, straight and by way of flyloft, and in one that an app has for its snippet.
    for (from, told, has_snippet) in [(3, "", false), (4, "Accept: text/event-stream\r\n", false), (5, "", true)] {
        if has_snippet {
            stage.snippet("shop", "add_header X-Shop yes always;\n");
            stage.until_told(HOST, "X-Shop: yes").await;
        }
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(under_way(&stage, &mut arrivals, from, told).await);
        }
        let refused = ask_from([127, 0, 0, from], &stage, &get(HOST)).await;
        assert!(refused.starts_with("HTTP/1.1 503 "), "{from}: {refused}");
        let other = ask_from([127, 0, 0, 2], &stage, &get(HOST)).await;
        assert!(other.starts_with("HTTP/1.1 200 "), "{from}: {other}");
        clients.pop();
        until_answered(&stage, from).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_of_ipv6_is_one_client_and_a_proxy_that_says_nothing_is_none() {
    let stage = few(|place| place.trusted = vec![Prefix::parse("127.0.0.1").unwrap()]).await;
    let (app, mut arrivals) = slow().await;
    stage.route(HOST, &app).await;
    stage.straight(HOST).await;
    let mut clients = Vec::new();
    for number in 1..=4 {
        // IPv4 addresses that come as IPv6 ones are as many clients.
        for told in [format!("X-Forwarded-For: ::ffff:203.0.113.{number}\r\n"), String::new()] {
            clients.push(under_way(&stage, &mut arrivals, 1, &told).await);
        }
    }
    for number in 1..=3 {
        let told = format!("X-Forwarded-For: 2001:db8::{number}\r\n");
        clients.push(under_way(&stage, &mut arrivals, 1, &told).await);
    }
    for (client, status) in [
        ("2001:db8::4", "503"),
        ("2001:db8::1:2:3:4", "503"),
        ("2001:db8:0:1::1", "200"),
        ("203.0.113.1", "200"),
        ("127.0.0.1", "200"),
    ] {
        let told = format!("X-Forwarded-For: {client}\nConnection");
        let answer = stage.ask(&get(HOST).replace("Connection", &told)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{client}: {answer}");
    }
}
