//! What wakes an environment, and what does not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::harness::{Flyloft, wait_for};
use crate::push::{app, borrowed};

/// What `flyloft ls` says of the only environment.
fn state(flyloft: &Flyloft) -> String {
    let listed: serde_json::Value = serde_json::from_str(&flyloft.ok(&["ls", "--json"])).unwrap();
    listed["environments"][0]["state"].as_str().unwrap_or_default().to_owned()
}

fn why(flyloft: &Flyloft) -> serde_json::Value {
    flyloft.why("it-visits/main")
}

/// The whole answer to a request of this client.
fn ask(flyloft: &Flyloft, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, flyloft.http)).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: it-visits-main.localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_visit_wakes_what_is_asleep_or_off_and_a_link_preview_does_not() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-visits", &borrowed(&app("hello")));
    repository.pushed(&["main"]);
    for down in ["sleep", "off"] {
        flyloft.ok(&[down, "it-visits/main"]);
        let before = wait_for("it to go down", || Some(state(&flyloft)).filter(|state| state != "awake"));
        let preview = ask(&flyloft, "/", "User-Agent: Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)\r\n");
        assert!(preview.starts_with("HTTP/1.1 503 ") && preview.contains("retry-after: 3600"), "{down}: {preview}");
        let robots = ask(&flyloft, "/robots.txt", "");
        assert!(robots.starts_with("HTTP/1.1 200 ") && robots.ends_with("Disallow: /\n"), "{down}: {robots}");
        assert!(ask(&flyloft, "/favicon.ico", "").starts_with("HTTP/1.1 503 "), "{down}");
        assert_eq!(state(&flyloft), before, "somebody who is no visitor woke it");
        let told = why(&flyloft);
        assert!(told["memory"]["awake"].as_u64() > Some(1 << 20), "{told}");
        assert!(told["memory"]["held"].as_u64() <= told["memory"]["awake"].as_u64(), "{told}");

        // Many at once, of which one wakes it and all are answered.
        let answers: Vec<String> = std::thread::scope(|scope| {
            let visitors: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&flyloft, "/", ""))).collect();
            visitors.into_iter().map(|visitor| visitor.join().unwrap()).collect()
        });
        for answer in answers {
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{down}: {answer}");
        }
        wait_for("it to be awake", || (state(&flyloft) == "awake").then_some(()));
        let from = if down == "sleep" { "asleep" } else { "off" };
        let woken = wait_for("a record", || Some(why(&flyloft)["woken"].take()).filter(|woken| woken["from"] == from));
        let by = woken["by"].as_str().unwrap_or_default();
        assert!(by.starts_with("GET / from 127.0.0.1"), "{woken}");
        assert!(woken["total_ms"].as_f64() > Some(0.0) && woken["failure"].is_null(), "{woken}");
    }
    flyloft.ok(&["destroy", "it-visits", "--yes"]);
}
