//! Who may look, by way of nginx: what holds at the edge in the daemon holds here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flyloft_core::gate::{Gate, Guard, Hashed, Key, NEVER, Purpose};

use super::proxies::ask_from;
use super::*;

const HOST: &str = "shop-main.test";

/// `round` is another one after each `share --revoke`.
fn key(round: u32) -> Key {
    Key::new(&[7; 32], 1, HOST, round)
}

fn guard(gate: &str) -> Option<Arc<Guard>> {
    Guard::new(Gate::parse(gate).unwrap(), key(0), None).map(Arc::new)
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}

fn cookie(answer: &str) -> String {
    header(answer, "set-cookie").split(';').next().unwrap_or_default().to_owned()
}

/// A request for this, with these lines in its head.
fn asks(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\nHost: {HOST}\n{lines}Connection: close\n\n")
}

/// What somebody asks who may not look.
const ASKED: [&str; 5] = [
    "GET / HTTP/1.1\nHost: shop-main.test\n\n",
    "POST / HTTP/1.1\nHost: shop-main.test\nContent-Length: 3\n\nabc",
    "OPTIONS / HTTP/1.1\nHost: shop-main.test\nOrigin: http://a.test\nAccess-Control-Request-Method: PUT\n\n",
    "GET / HTTP/1.1\nHost: shop-main.test\nConnection: upgrade\nUpgrade: websocket\n\n",
    "GET /?flyloft-link=AAAA HTTP/1.1\nHost: SHOP-main.test:80\nCookie: flyloft-gate=AAAA; __Host-flyloft=AAAA\n\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_look_wakes_nothing_and_whoever_has_a_link_does() {
    let (mut stage, app) = (Stage::new().await, App::start(echo_head).await);
    let gated = |round| {
        let guard = Guard::new(Gate::Link, key(round), None).map(Arc::new);
        Route { guard, ..held() }
    };
    for was_straight in [false, true] {
        if was_straight {
            stage.route(HOST, &app).await;
            stage.straight(HOST).await;
        }
        stage.edge.set(HOST, gated(0)).await.unwrap();
        assert!(stage.edge.drained(app.address, DEADLINE).await);
        for request in ASKED {
            let answer = stage.ask(request).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{was_straight}: {request}: {answer}");
            assert_eq!(header(&answer, "cache-control"), "no-store", "{answer}");
        }
        assert!(stage.visits.try_recv().is_err(), "{was_straight}: a stranger has woken it");
        if !was_straight {
            assert_eq!(stage.edge.unused_for(HOST), None, "a stranger has used it");
            assert_eq!(stage.edge.answers(HOST), [0, 0, 0, 5, 0]);
        }
    }
    let link = format!("/a?b=1&flyloft-link={}", key(0).sign(Purpose::Link, NEVER));
    let entered = stage.ask(&asks(&link, "")).await;
    assert!(entered.starts_with("HTTP/1.1 303 ") && header(&entered, "location") == "/a?b=1", "{entered}");
    assert!(stage.visits.try_recv().is_err(), "it has not come in yet");
    let cookie = format!("Cookie: {}\n", cookie(&entered));
    // As after `share --revoke`, and as it was before.
    stage.edge.set(HOST, gated(1)).await.unwrap();
    for (target, lines) in [("/a", cookie.as_str()), (link.as_str(), "")] {
        let answer = stage.ask(&asks(target, lines)).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
    }
    assert!(stage.visits.try_recv().is_err(), "what was revoked has woken it");
    stage.edge.set(HOST, gated(0)).await.unwrap();
    let mut client = stage.connect().await;
    client.say(&asks("/a", &cookie).replace('\n', "\r\n")).await;
    let visit = tokio::time::timeout(DEADLINE, stage.visits.recv()).await.unwrap().unwrap();
    assert_eq!(visit.by, "GET /a from 127.0.0.1");
}

const RIGHT: &str = "Authorization: Basic YWRhOmNvcnJlY3QgaG9yc2U=\n";
const WRONG: &str = "Authorization: Basic YWRhOndyb25nIGhvcnNl\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_said_in_a_header_or_a_form_and_tried_so_often_from_each_address() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    let guard = Guard::new(Gate::Password, key(0), Some(Hashed::new("correct horse", &[9; 16]))).map(Arc::new);
    stage.edge.set(HOST, Route { guard, ..route(Target::Upstream(app.address)) }).await.unwrap();
    let refused = stage.ask(&asks("/a", "")).await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    assert_eq!(header(&refused, "www-authenticate"), "Basic realm=\"staging\", charset=\"UTF-8\"");
    let told = stage.ask(&asks("/a", RIGHT)).await;
    assert!(told.starts_with("HTTP/1.1 200 ") && !told.contains("authorization"), "{told}");

    let form = "to=%2Fa%3Fb&password=correct+horse";
    let sent = format!(
        "POST /.flyloft/gate HTTP/1.1\nHost: {HOST}\nAccept: text/html\nContent-Length: {}\n\
         Content-Type: application/x-www-form-urlencoded\nConnection: close\n\n{form}",
        form.len()
    );
    let entered = stage.ask(&sent).await;
    assert!(entered.starts_with("HTTP/1.1 303 ") && header(&entered, "location") == "/a?b", "{entered}");
    let cookie = format!("Cookie: c=d; {}\n", cookie(&entered));
    let seen = stage.ask(&asks("/a?b", &cookie)).await;
    assert!(seen.contains("\ncookie: c=d\n") && !seen.contains("flyloft"), "{seen}");

    for _ in 0..10 {
        assert!(stage.ask(&asks("/", WRONG)).await.starts_with("HTTP/1.1 401 "));
    }
    // Whatever it says of itself.
    for claim in ["", "X-Forwarded-For: 203.0.113.7\n", "X-Real-IP: 203.0.113.7\nForwarded: for=203.0.113.7\n"] {
        let answer = stage.ask(&asks("/", &format!("{claim}{RIGHT}"))).await;
        assert!(answer.starts_with("HTTP/1.1 429 "), "{claim}: {answer}");
    }
    assert!(ask_from([127, 0, 0, 2], &stage, &asks("/", RIGHT)).await.starts_with("HTTP/1.1 200 "));
    assert!(stage.ask(&asks("/", &cookie)).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_of_both_families_are_those_that_clients_have_and_not_what_they_say() {
    let mut stage = Stage::at(NginxSite::new("root"), "test", "", |place| {
        let port = place.listen[0].port();
        place.listen.push((Ipv6Addr::LOCALHOST, port).into());
    });
    stage.start().await;
    let app = App::start(echo_head).await;
    let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let route = route(Target::Upstream(app.address));
    stage.edge.set(HOST, Route { guard: guard("link"), ..route }).await.unwrap();
    for (gate, may) in [("ip:::1", six), ("ip:::/64", six), ("ip:127.0.0.0/8,2001:db8::/32", four)] {
        stage.edge.guard(HOST, guard(gate)).await.unwrap();
        for ip in [four, six] {
            let claim = if ip == four { "X-Forwarded-For: ::1\n" } else { "X-Forwarded-For: 127.0.0.1\n" };
            let mut client = Peer::connect(SocketAddr::new(ip, stage.site.port)).await;
            client.say(&asks("/", claim).replace('\n', "\r\n")).await;
            let answer = client.read_answer().await;
            let status = if ip == may { "200" } else { "403" };
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{gate}, {ip}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_passes_and_its_app_sees_nothing_of_it() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    let route = route(Target::Upstream(app.address));
    stage.edge.set(HOST, Route { guard: guard("ip:192.0.2.1"), ..route }).await.unwrap();
    assert!(stage.ask(&asks("/a", "")).await.starts_with("HTTP/1.1 403 "));
    let token = key(0).sign(Purpose::Bypass, NEVER);
    for (target, lines) in [
        ("/a?b=1".to_owned(), format!("X-Flyloft-Bypass: {token}\n")),
        (format!("/a?flyloft-bypass={token}&b=1"), String::new()),
    ] {
        let answer = stage.ask(&asks(&target, &lines)).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\n\nGET /a?b=1 HTTP/1.1\n"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("flyloft"), "{answer}");
    }
}
