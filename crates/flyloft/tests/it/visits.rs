//! What wakes an environment, and what does not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

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

/// Takes its time, and has a child, so that it is held back when it wakes.
const SLOW: &str = r#"
import http.server, os, subprocess, time
subprocess.Popen(["sleep", "infinity"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.3)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"slow")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"#;

#[test]
fn a_wake_is_told_with_all_that_its_visitor_waited_for() {
    let flyloft = Flyloft::start();
    let files = [("Procfile", "web: python3 server.py\n"), ("requirements.txt", ""), ("server.py", SLOW)];
    flyloft.repository("it-visits", &files).pushed(&["main"]);
    flyloft.ok(&["sleep", "it-visits/main"]);
    // After a shorter sleep nobody is held back.
    std::thread::sleep(Duration::from_millis(1100));
    let asked = Instant::now();
    let answer = ask(&flyloft, "/", "");
    let took = asked.elapsed().as_secs_f64() * 1e3;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("slow"), "{answer}");
    let is_seen = |woken: &serde_json::Value| woken["answered_ms"].is_f64();
    let woken = wait_for("the answer to be on record", || Some(why(&flyloft)["woken"].take()).filter(is_seen));
    let ms = |part: &str| woken[part].as_f64().unwrap_or_else(|| panic!("no {part}: {woken}"));
    let parts = ["admitted", "queued", "started", "ready", "passed", "connected", "answered"];
    let sum: f64 = parts.iter().map(|part| ms(&format!("{part}_ms"))).sum();
    assert!(ms("answered_ms") >= 300.0 && ms("total_ms") <= took + 0.1, "{took}: {woken}");
    assert!((sum - ms("total_ms")).abs() < 1.0, "they follow each other, and there is nothing between them: {woken}");
    assert!(ms("released_ms") > 0.0 && ms("released_ms") < ms("total_ms"), "{woken}");
    let stats: serde_json::Value = serde_json::from_str(&flyloft.ok(&["stats", "it-visits/main", "--json"])).unwrap();
    assert_eq!(stats["environments"][0]["wake_p50_ms"], woken["total_ms"]);
    flyloft.ok(&["destroy", "it-visits", "--yes"]);
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
