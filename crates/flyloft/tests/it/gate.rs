//! Who may look: a stranger, somebody with a link, and a test with a token.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::harness::{Flyloft, wait_for};
use crate::push::{app, borrowed};
use crate::terminal::Seat;

/// The whole answer to a request.
fn ask(flyloft: &Flyloft, target: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, flyloft.http)).unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nHost: it-gate-main.gate.test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn state(flyloft: &Flyloft) -> String {
    let shown: serde_json::Value = serde_json::from_str(&flyloft.ok(&["show", "it-gate/main", "--json"])).unwrap();
    shown["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn outside_localhost_an_environment_is_opened_by_links_and_a_stranger_does_not_wake_it() {
    let mut flyloft = Flyloft::start();
    flyloft.kill();
    flyloft.domain = "gate.test";
    flyloft.serve();
    let said = flyloft.repository("it-gate", &borrowed(&app("hello"))).pushed(&["main"]);
    assert!(said.contains("A link opens it: flyloft share it-gate/main"), "{said}");
    flyloft.ok(&["sleep", "it-gate/main"]);
    let refused = ask(&flyloft, "/", "");
    assert!(refused.starts_with("HTTP/1.1 403 ") && !refused.contains("hello"), "{refused}");
    assert_eq!(state(&flyloft), "asleep");

    let url = flyloft.ok(&["share", "it-gate/main", "--for", "1h"]);
    let target = url.trim().strip_prefix(&format!("http://it-gate-main.gate.test:{}", flyloft.http)).unwrap();
    let entered = ask(&flyloft, target, "");
    assert!(entered.starts_with("HTTP/1.1 303 ") && entered.contains("\r\nlocation: /\r\n"), "{entered}");
    assert_eq!(state(&flyloft), "asleep");
    let cookie = entered.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next()).unwrap();
    let cookie = format!("Cookie: {cookie}\r\n");
    let answer = ask(&flyloft, "/", &cookie);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    assert_eq!(state(&flyloft), "awake");

    // What was given out is good for the next daemon, which asks from its first moment on.
    flyloft.kill();
    flyloft.serve();
    assert!(ask(&flyloft, "/", "").starts_with("HTTP/1.1 403 "));
    assert!(ask(&flyloft, "/", &cookie).starts_with("HTTP/1.1 200 "));

    let token = flyloft.ok(&["gate", "token", "it-gate/main"]);
    let token = format!("X-Flyloft-Bypass: {}\r\n", token.trim());
    assert!(ask(&flyloft, "/", &token).starts_with("HTTP/1.1 200 "));
    flyloft.ok(&["share", "it-gate/main", "--revoke"]);
    for old in [&cookie, &token] {
        assert!(ask(&flyloft, "/", old).starts_with("HTTP/1.1 403 "));
    }
    flyloft.ok(&["apps", "set", "it-gate", "gate=public"]);
    assert!(ask(&flyloft, "/", "").starts_with("HTTP/1.1 200 "));
    flyloft.ok(&["destroy", "it-gate", "--yes"]);
}

#[test]
fn a_password_is_asked_for_on_a_terminal_that_does_not_show_it() {
    let flyloft = Flyloft::start();
    flyloft.ok(&["apps", "create", "it-locked"]);
    let mut seat = Seat::take(flyloft.command(&["gate", "password", "it-locked"]), 200, 24);
    seat.sees("Password for `it-locked`: ");
    seat.types("correct horse\n");
    seat.sees("`it-locked` has a password; no gate asks for it yet");
    let status = wait_for("the command to end", || seat.child.try_wait().unwrap());
    assert!(status.success() && !seat.seen().contains("horse"), "{}", seat.seen());
    flyloft.ok(&["destroy", "it-locked", "--yes"]);
}
