//! Proxies before the edge: who is believed, in what, and who is not.

use flyloft_core::gate::Prefix;

use super::*;
use crate::edge::embedded::Proxies;

fn behind(trusted: &str, introduce: bool) -> Stage {
    Stage::with(|config| {
        config.proxies = Proxies { trusted: vec![Prefix::parse(trusted).unwrap()], introduce, tls_port: None }
    })
}

const TOLD: &str = "GET / HTTP/1.1\nHost: shop.test\nX-Forwarded-For: 6.6.6.6, 203.0.113.7\n\
                    X-Forwarded-For: 127.0.0.9\nX-Forwarded-Proto: https\n";

#[tokio::test]
async fn a_proxy_that_is_trusted_says_who_its_clients_are_and_nobody_else_does() {
    for (trusted, expected) in [("127.0.0.0/8", ["203.0.113.7", "https"]), ("10.0.0.0/8", ["127.0.0.1", "http"])] {
        let stage = behind(trusted, false).app(echo_head).await;
        let seen = stage.ask(&format!("{TOLD}\n")).await;
        for (name, value) in ["x-forwarded-for", "x-forwarded-proto"].into_iter().zip(expected) {
            assert!(seen.contains(&format!("\n{name}: {value}\n")), "{trusted}: {seen}");
        }
        assert!(!seen.contains("6.6.6.6"), "{seen}");
    }
    // One that says nothing speaks for itself.
    let stage = behind("127.0.0.1", false).app(echo_head).await;
    let seen = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(seen.contains("\nx-forwarded-for: 127.0.0.1\n") && seen.contains("\nx-forwarded-proto: http\n"), "{seen}");
}

#[tokio::test]
async fn a_proxy_introduces_its_clients() {
    let stage = behind("127.0.0.1", true).app(echo_head).await;
    let mut client = stage.connect().await;
    client.say("PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n").await;
    client.say(&TOLD.replace('\n', "\r\n")).await;
    client.say("\r\n").await;
    let seen = client.read_answer().await;
    // Whoever is introduced is no proxy: what it says of itself is not believed.
    assert!(seen.contains("\nx-forwarded-for: 2001:db8::7\n") && !seen.contains("203.0.113.7"), "{seen}");
    // Also where it is not said who that is: then it is the proxy's word that counts, and not what it passes on.
    let mut unknown = stage.connect().await;
    unknown.say("PROXY UNKNOWN\r\n").await;
    unknown.say(&format!("{TOLD}\n").replace('\n', "\r\n")).await;
    let seen = unknown.read_answer().await;
    assert!(seen.contains("\nx-forwarded-for: 127.0.0.1\n") && !seen.contains("203.0.113.7"), "{seen}");
    // Another request of the same client.
    client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert!(client.read_answer().await.contains("\nx-forwarded-for: 2001:db8::7\n"));

    let mut silent = stage.connect().await;
    silent.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(silent.read_to_end().await, "", "it was not introduced");
}

#[tokio::test]
async fn where_a_proxy_takes_tls_who_came_to_it_without_is_led_there() {
    let stage = Stage::with(|config| {
        let trusted = vec![Prefix::parse("127.0.0.1").unwrap()];
        config.proxies = Proxies { trusted, introduce: false, tls_port: Some(8443) };
    })
    .app(echo_head)
    .await;
    let ask = async |target: &str, host: &str, told: &str| {
        stage.ask(&format!("GET {target} HTTP/1.1\nHost: {host}\n{told}\n")).await
    };
    let led = ask("/a?b", "shop.test", "X-Forwarded-Proto: http\n").await;
    assert!(led.starts_with("HTTP/1.1 308 ") && led.contains("\nlocation: https://shop.test:8443/a?b\n"), "{led}");
    for (target, host, told, expected) in [
        ("/", "shop.test", "X-Forwarded-Proto: http, https\n", "200"),
        ("/", "shop.test", "X-Forwarded-Proto: WSS\n", "200"),
        ("/", "shop.test", "", "200"),
        ("/.well-known/acme-challenge/x", "shop.test", "X-Forwarded-Proto: http\n", "200"),
        ("/", "elsewhere.test", "X-Forwarded-Proto: http\n", "404"),
    ] {
        let answer = ask(target, host, told).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{target} {host} {told}: {answer}");
    }
    // One that does not say is taken to be asked over TLS.
    let seen = ask("/", "shop.test", "").await;
    assert!(seen.contains("\nx-forwarded-proto: https\n"), "{seen}");
    // Nobody else's word counts.
    let stage = Stage::with(|config| {
        config.proxies = Proxies { tls_port: Some(443), ..Proxies::default() };
    })
    .app(echo_head)
    .await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\nX-Forwarded-Proto: http\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn nobody_is_led_to_tls_by_a_proxy_that_has_not_seen_who_came() {
    // 127.0.0.9 is a proxy as well, before the one that asks.
    let ask = async |tls_port: Option<u16>, told: &str| {
        let stage = Stage::with(|config| {
            let trusted = vec![Prefix::parse("127.0.0.0/8").unwrap()];
            config.proxies = Proxies { trusted, introduce: false, tls_port };
        })
        .app(echo_head)
        .await;
        stage.ask(&format!("GET / HTTP/1.1\nHost: shop.test\n{told}\n")).await
    };
    let behind = "X-Forwarded-For: 203.0.113.7, 127.0.0.9\n";
    for (words, external, otherwise) in [
        ("X-Forwarded-Proto: http\n", "https", "http"),
        ("X-Forwarded-Proto: https, http\n", "https", "https"),
        ("X-Forwarded-Proto: https\nX-Forwarded-Proto: http\n", "https", "https"),
        ("X-Forwarded-Proto: http, http\n", "https", "http"),
        ("", "https", "http"),
    ] {
        for (tls_port, scheme) in [(Some(443), external), (None, otherwise)] {
            let seen = ask(tls_port, &format!("{behind}{words}")).await;
            assert!(seen.contains(&format!("\nx-forwarded-proto: {scheme}\n")), "{words}{tls_port:?}: {seen}");
            assert!(seen.contains("\nx-forwarded-for: 203.0.113.7\n"), "{words}: {seen}");
        }
    }
    // The inner one has made up its own list, in which the outer one is the client.
    let seen = ask(Some(443), "X-Forwarded-For: 127.0.0.9\nX-Forwarded-Proto: http\n").await;
    assert!(seen.contains("\nx-forwarded-proto: https\n"), "{seen}");
    // One that has seen who came says the last word, whatever was claimed before.
    let led = ask(Some(443), "X-Forwarded-For: 127.0.0.9, 203.0.113.7\nX-Forwarded-Proto: https, http\n").await;
    assert!(led.starts_with("HTTP/1.1 308 "), "{led}");
}

#[tokio::test]
async fn a_proxy_that_speaks_tls_with_the_edge_has_those_led_that_came_to_it_without() {
    let lock = secure::Lock::with(&["shop.test"], |config| {
        let trusted = vec![Prefix::parse("127.0.0.1").unwrap()];
        config.proxies = Proxies { trusted, introduce: false, tls_port: Some(8443) };
    })
    .app(echo_head)
    .await;
    let ask =
        async |told: &str| lock.curl("/a?b", &["--header", "X-Forwarded-For: 203.0.113.7", "--header", told]).await;
    let led = ask("X-Forwarded-Proto: http").await;
    assert!(led.starts_with("HTTP/2 308 ") && led.contains("\nlocation: https://shop.test:8443/a?b\n"), "{led}");
    for told in ["X-Forwarded-Proto: https", "X-Other: http"] {
        let seen = ask(told).await;
        assert!(seen.starts_with("HTTP/2 200 ") && seen.contains("\nx-forwarded-proto: https\n"), "{told}: {seen}");
    }
}

#[tokio::test]
async fn who_is_not_trusted_introduces_nobody() {
    let stage = behind("10.0.0.0/8", true).app(echo_head).await;
    let seen = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(seen.contains("\nx-forwarded-for: 127.0.0.1\n"), "{seen}");
    let mut client = stage.connect().await;
    client.say("PROXY TCP4 6.6.6.6 10.0.0.1 4711 80\r\nGET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let refused = client.read_to_end().await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
}

#[tokio::test]
async fn a_proxy_may_open_more_connections_than_a_client() {
    let stage = Stage::with(|config| {
        config.proxies = Proxies { trusted: vec![Prefix::parse("127.0.0.1").unwrap()], ..Proxies::default() };
        config.room = crate::edge::embedded::Room { of_one: 4, ..config.room };
    })
    .app(echo_head)
    .await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = stage.connect().await;
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert!(client.read_answer().await.starts_with("HTTP/1.1 200 "));
        clients.push(client);
    }
    for client in &mut clients {
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert!(client.read_answer().await.starts_with("HTTP/1.1 200 "));
    }
}
