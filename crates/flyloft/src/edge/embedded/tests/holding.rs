//! Requests for an environment that is asleep: what becomes of each of them.

use std::time::Instant;

use super::*;
use crate::edge::Passage;

const ASK: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const BROWSE: &str = "GET /cart?token=secret HTTP/1.1\nHost: shop.test\nAccept: text/html,*/*;q=0.8\n\n";

/// The limits of a test that waits for their end.
fn soon(config: &mut EdgeConfig) {
    config.limits.page = Duration::from_millis(20);
    config.limits.held = Duration::from_millis(40);
}

/// Clients that wait for `shop.test`, one behind the other, each with its number as its path.
async fn queue(stage: &Stage, count: usize) -> Vec<Peer> {
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = stage.connect().await;
        client.say(&format!("GET /{number} HTTP/1.1\r\nHost: shop.test\r\n\r\n")).await;
        stage.waiting(number + 1).await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn a_request_waits_until_the_environment_is_awake() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(echo_head).await;
    let mut client = stage.connect().await;
    client.say("GET /cart?token=secret HTTP/1.1\r\nHost: Shop.test\r\n\r\n").await;
    let visit = visitors.recv().await.unwrap();
    assert_eq!((visit.env, visit.by.as_str()), (env(), "GET /cart from 127.0.0.1"));
    stage.waiting(1).await;
    stage.route("shop.test", app.address).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\n") && answer.contains("GET /cart?token=secret"), "{answer}");
    stage.waiting(0).await;
}

#[tokio::test]
async fn the_daemon_hears_how_the_first_of_those_who_waited_gets_through() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let begun = Instant::now();
    let clients = queue(&stage, 3).await;
    let mut passage = visitors.recv().await.unwrap().passage.unwrap();
    assert_eq!(*passage.borrow(), Passage::default());
    let (_stage, mut arrival) = stage.patient_app().await;
    let mut asked = Vec::new();
    for _ in &clients {
        asked.push(arrival.recv().await.unwrap());
    }
    let before = *passage.borrow();
    assert!(begun < before.passed.unwrap() && before.passed <= before.connected && before.answered.is_none());
    let mut answers = Vec::new();
    for (go, mut client) in asked.into_iter().zip(clients) {
        go.send(()).unwrap();
        // The apps' connections come in any order.
        answers.push(tokio::spawn(async move { client.read_answer().await }));
    }
    for answer in answers {
        assert!(answer.await.unwrap().ends_with("hello"));
    }
    let after = *passage.wait_for(|passage| passage.answered.is_some()).await.unwrap();
    assert!(after.connected < after.answered && after.passed == before.passed, "the first one counts");
    assert!(in_time(passage.changed()).await.is_err(), "nobody waits any more");
    assert_eq!(*passage.borrow(), after);
}

#[tokio::test]
async fn the_daemon_hears_when_nobody_waits_any_more() {
    let (stage, mut visitors) = Stage::asleep(|config| config.limits.half_closed = Duration::ZERO).await;
    drop(queue(&stage, 2).await);
    let mut passage = visitors.recv().await.unwrap().passage.unwrap();
    stage.waiting(0).await;
    stage.route("shop.test", "127.0.0.1:9".parse().unwrap()).await;
    assert!(in_time(passage.changed()).await.is_err());
    assert_eq!(*passage.borrow(), Passage::default());
}

#[tokio::test]
async fn the_daemon_is_told_once_however_many_wait() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(echo_head).await;
    let clients = queue(&stage, 10).await;
    stage.route("shop.test", app.address).await;
    for mut client in clients {
        assert!(client.read_answer().await.starts_with("HTTP/1.1 200 OK\n"));
    }
    assert!(visitors.try_recv().is_ok() && visitors.try_recv().is_err());
}

#[tokio::test]
async fn those_who_wait_go_through_in_order_of_arrival() {
    let (stage, _visitors) = Stage::asleep(|config| config.threads = 1).await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clients = queue(&stage, 20).await;
    stage.route("shop.test", app.local_addr().unwrap()).await;
    let mut connections = Vec::new();
    for number in 0..clients.len() {
        let (stream, _) = app.accept().await.unwrap();
        let mut peer = Peer { stream, unread: Vec::new() };
        let head = peer.read_head().await;
        assert!(head.starts_with(&format!("GET /{number} ")), "{number}: {head}");
        connections.push(peer);
    }
}

#[tokio::test]
async fn a_wake_that_fails_is_told_to_those_who_wait_and_tried_again_for_the_next() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let clients = queue(&stage, 2).await;
    visitors.recv().await.unwrap();
    stage.hold("shop.test", Some("It did not answer within 60 s.")).await;
    let mut answers = Vec::new();
    for mut client in clients {
        answers.push(undated(&client.read_answer().await));
    }
    insta::assert_snapshot!(answers[0], @r"
    HTTP/1.1 503 Service Unavailable
    content-type: text/plain; charset=utf-8
    cache-control: no-store
    content-security-policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'
    retry-after: 5
    x-robots-tag: noindex
    content-length: 81

    shop/main did not wake
    It did not answer within 60 s.

        flyloft why shop/main
    ");
    assert_eq!(answers[0], answers[1]);
    let app = App::start(echo_head).await;
    let mut client = stage.connect().await;
    client.say(ASK).await;
    visitors.recv().await.unwrap();
    stage.route("shop.test", app.address).await;
    assert!(client.read_answer().await.starts_with("HTTP/1.1 200 OK\n"));
}

#[tokio::test]
async fn a_browser_gets_a_page_that_comes_back_by_itself() {
    let (stage, mut visitors) = Stage::asleep(soon).await;
    let answer = undated(&stage.ask(BROWSE).await);
    visitors.recv().await.unwrap();
    let (begin, end) = (answer.find("<style>").unwrap(), answer.find("</style>").unwrap());
    let answer = format!("{}{}", &answer[..begin + 7], &answer[end..]);
    let answer: Vec<_> = answer.lines().filter(|line| !line.starts_with("content-length: ")).collect();
    insta::assert_snapshot!(answer.join("\n"), @r#"
    HTTP/1.1 503 Service Unavailable
    content-type: text/html; charset=utf-8
    cache-control: no-store
    content-security-policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'
    retry-after: 1
    x-robots-tag: noindex

    <!doctype html>
    <html lang="en">
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width">
    <meta http-equiv="refresh" content="1">
    <title>shop/main is waking up</title>
    <style></style>
    <main>
    <small>503</small>
    <h1>shop/main is waking up</h1>
    <p>Nobody had visited it for a while. It has been waking for 0 s. This page comes back by itself.</p>
    </main>
    "#);
}

#[tokio::test]
async fn only_the_window_of_a_browser_gets_that_page() {
    let (stage, _visitors) = Stage::asleep(soon).await;
    for request in [
        "POST / HTTP/1.1\nHost: shop.test\nAccept: text/html\nContent-Length: 0\n\n",
        "GET / HTTP/1.1\nHost: shop.test\nAccept: text/html\nSec-Fetch-Mode: cors\n\n",
        "GET / HTTP/1.1\nHost: shop.test\nAccept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe\n\n",
        "GET / HTTP/1.1\nHost: shop.test\nAccept: */*\n\n",
        "GET / HTTP/1.1\nHost: shop.test\n\n",
    ] {
        let answer = stage.ask(request).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\nretry-after: 5\n"), "{answer}");
        assert!(!answer.contains("refresh") && answer.contains("Try again in a moment."), "{answer}");
    }
    let window =
        "GET / HTTP/1.1\nHost: shop.test\nAccept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\n\n";
    assert!(stage.ask(window).await.contains("refresh"));
}

#[tokio::test]
async fn a_page_that_comes_back_after_a_failure_says_so_and_the_next_visit_tries_again() {
    let (stage, mut visitors) = Stage::asleep(soon).await;
    assert!(stage.ask(BROWSE).await.contains("comes back by itself"));
    visitors.recv().await.unwrap();
    stage.hold("shop.test", Some("Its web process ended")).await;
    let answer = stage.ask(BROWSE).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Its web process ended."), "{answer}");
    assert!(!answer.contains("refresh") && visitors.try_recv().is_err(), "{answer}");
    assert!(stage.ask(BROWSE).await.contains("comes back by itself"));
    visitors.recv().await.unwrap();
}

#[tokio::test]
async fn what_a_wake_takes_so_long_for_is_said_on_the_page_and_to_other_clients() {
    let (stage, mut visitors) = Stage::asleep(soon).await;
    assert!(stage.ask(BROWSE).await.contains("Nobody had visited it for a while."));
    visitors.recv().await.unwrap();
    stage.edge.explain("Shop.test", "It is being built anew from <i>commit</i> 0123456.");
    let page = stage.ask(BROWSE).await;
    let said = "It is being built anew from &lt;i&gt;commit&lt;/i&gt; 0123456. It has been waking for ";
    assert!(page.contains(said) && page.contains("This page comes back by itself."), "{page}");
    stage.edge.explain("shop.test", "It is being started.");
    assert!(stage.ask(BROWSE).await.contains("<p>It is being started. It has been waking for "), "it has gone on");
    stage.hold("shop.test", None).await;
    assert!(stage.ask(BROWSE).await.contains("Nobody had visited it for a while."), "that was another wake");
}

#[tokio::test]
async fn what_cannot_wake_any_more_lets_those_who_wait_go() {
    let (stage, _visitors) = Stage::asleep(|_| {}).await;
    let clients = queue(&stage, 2).await;
    let target = Target::Unavailable { why: "It is over its disk.".into() };
    stage.edge.set("shop.test", Route::public(env(), target)).await.unwrap();
    for mut client in clients {
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("It is over its disk.\n"), "{answer}");
    }
    stage.hold("shop.test", None).await;
    let clients = queue(&stage, 2).await;
    stage.edge.remove("shop.test").await.unwrap();
    for mut client in clients {
        assert!(client.read_answer().await.starts_with("HTTP/1.1 404 "));
    }
}

#[tokio::test]
async fn an_environment_that_is_held_anew_is_told_anew() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(echo_head).await;
    let mut clients = queue(&stage, 1).await;
    visitors.recv().await.unwrap();
    stage.hold("shop.test", None).await;
    visitors.recv().await.unwrap();
    stage.route("shop.test", app.address).await;
    assert!(clients[0].read_answer().await.starts_with("HTTP/1.1 200 OK\n"));
}

#[tokio::test]
async fn an_edge_that_ends_lets_requests_wait_until_shortly_before() {
    let (stage, _visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(echo_head).await;
    let mut clients = queue(&stage, 2).await;
    let edge = stage.edge.clone();
    let ending = tokio::spawn(async move { edge.shutdown(DEADLINE).await });
    stage.ending().await;
    stage.route("shop.test", app.address).await;
    for client in &mut clients {
        assert!(client.read_answer().await.starts_with("HTTP/1.1 200 OK\n"));
    }
    drop(clients);
    ending.await.unwrap();
}

#[tokio::test]
async fn an_edge_that_ends_answers_those_who_still_wait() {
    let (stage, _visitors) = Stage::asleep(|_| {}).await;
    let clients = queue(&stage, 2).await;
    stage.edge.shutdown(Duration::from_millis(600)).await;
    for mut client in clients {
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\nretry-after: "), "{answer}");
    }
}
