//! Who may look: what strangers, guests and apps see of a gate.

use std::time::{SystemTime, UNIX_EPOCH};

use flyloft_core::gate::{Gate, Guard, Hashed, Key, Purpose};

use super::*;

fn key() -> Key {
    Key::new(&[7; 32], 1, "shop.test", 0)
}

fn guard(gate: &str) -> Option<Arc<Guard>> {
    Guard::new(Gate::parse(gate).unwrap(), key(), None).map(Arc::new)
}

fn sign(purpose: Purpose) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    key().sign(purpose, now + 3600)
}

/// An app at `shop.test`, behind this gate, that tells of the head that it has got.
async fn gated(gate: &str) -> Stage {
    let stage = Stage::new().app(echo_head).await;
    stage.edge.guard("shop.test", guard(gate)).await.unwrap();
    stage
}

pub(super) fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}

#[tokio::test]
async fn a_stranger_wakes_nothing_waits_for_nothing_and_is_no_use() {
    let (stage, mut visits) = Stage::asleep(|_| {}).await;
    stage.edge.guard("shop.test", guard("link")).await.unwrap();
    for request in [
        "GET / HTTP/1.1\nHost: shop.test\n\n",
        "POST / HTTP/1.1\nHost: shop.test\nContent-Length: 3\n\nabc",
        "OPTIONS / HTTP/1.1\nHost: shop.test\nOrigin: http://a.test\nAccess-Control-Request-Method: PUT\n\n",
        "GET / HTTP/1.1\nHost: shop.test\nConnection: upgrade\nUpgrade: websocket\n\n",
        "GET /?flyloft-link=AAAA HTTP/1.1\nHost: SHOP.test:80\nCookie: flyloft-gate=AAAA; __Host-flyloft=AAAA\n\n",
    ] {
        let answer = stage.ask(request).await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\n"), "{answer}");
        assert!(answer.contains("\ncache-control: no-store\n"), "{answer}");
    }
    assert!(visits.try_recv().is_err(), "a stranger has woken it");
    assert_eq!(stage.edge.unused_for("shop.test"), None);
    assert_eq!(stage.edge.answers("shop.test"), [0, 0, 0, 5, 0]);
}

#[tokio::test]
async fn whoever_has_a_link_wakes_it_like_any_visitor() {
    let (stage, mut visits) = Stage::asleep(|_| {}).await;
    stage.edge.guard("shop.test", guard("link")).await.unwrap();
    let target = format!("/a?b=1&flyloft-link={}", sign(Purpose::Link));
    let entered = stage.ask(&format!("GET {target} HTTP/1.1\nHost: shop.test\n\n")).await;
    assert!(entered.starts_with("HTTP/1.1 303 See Other\n"), "{entered}");
    assert_eq!((header(&entered, "location"), header(&entered, "referrer-policy")), ("/a?b=1", "no-referrer"));
    assert!(visits.try_recv().is_err(), "it has not come in yet");
    let cookie = header(&entered, "set-cookie").split(';').next().unwrap().to_owned();
    let mut client = stage.connect().await;
    client.say(&format!("GET /a HTTP/1.1\r\nHost: shop.test\r\nCookie: {cookie}\r\n\r\n")).await;
    let visit = in_time(visits.recv()).await.unwrap();
    assert_eq!(visit.by, "GET /a from 127.0.0.1");
}

#[tokio::test]
async fn a_link_lets_a_client_of_http_2_in_that_sends_its_cookies_in_pieces() {
    let stage = gated("link").await;
    let path = format!("/a?flyloft-link={}&b", sign(Purpose::Link));
    let entered = http2::curl(&stage, &path, &["--cookie", "c=d"]).await;
    assert!(entered.starts_with("HTTP/2 303 \n") && header(&entered, "location") == "/a?b", "{entered}");
    // HTTP/2 may send each pair in a header of its own (RFC 9113 section 8.2.3).
    let pair = format!("Cookie: {}", header(&entered, "set-cookie").split(';').next().unwrap());
    let args = ["--header", "Cookie: c=d", "--header", &pair, "--header", "Cookie: e=f"];
    let answer = http2::curl(&stage, header(&entered, "location"), &args).await;
    assert!(answer.starts_with("HTTP/2 200 \n") && answer.contains("\ncookie: c=d; e=f\n"), "{answer}");
}

#[tokio::test]
async fn the_page_for_a_stranger_says_whom_to_ask() {
    let stage = gated("link").await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    insta::assert_snapshot!(undated(&answer), @r"
    HTTP/1.1 403 Forbidden
    content-type: text/plain; charset=utf-8
    cache-control: no-store
    content-security-policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'
    x-robots-tag: noindex
    content-length: 108

    shop/main is not public
    Whoever works on it can give you a link that opens it.

        flyloft share shop/main
    ");
    let old = key().sign(Purpose::Link, 1);
    let answer = stage.ask(&format!("GET /?flyloft-link={old} HTTP/1.1\nHost: shop.test\nAccept: text/html\n\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("<p>Your link has expired."), "{answer}");
}

#[tokio::test]
async fn an_app_sees_the_request_and_nothing_of_what_opened_the_gate() {
    let stage = gated("link").await;
    let (cookie, token) = (sign(Purpose::Visit), sign(Purpose::Bypass));
    for (target, headers) in [
        ("/a?b=1", format!("Cookie: c=d; flyloft-gate={cookie}; e=f\nAuthorization: Bearer own\n")),
        ("/a?b=1", format!("Cookie: c=d; e=f\nX-Flyloft-Bypass: {token}\nAuthorization: Bearer own\n")),
        (format!("/a?flyloft-bypass={token}&b=1").as_str(), "Cookie: c=d; e=f\nAuthorization: Bearer own\n".to_owned()),
        (
            format!("/a?b=1&flyloft-link={}", key().sign(Purpose::Link, 1)).as_str(),
            format!("Cookie: flyloft-gate={cookie}; c=d\nCookie: e=f; __Host-flyloft=x\nAuthorization: Bearer own\n"),
        ),
    ] {
        let answer = stage.ask(&format!("GET {target} HTTP/1.1\nHost: shop.test\n{headers}\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\n"), "{answer}");
        assert!(answer.contains("\n\nGET /a?b=1 HTTP/1.1\n"), "{answer}");
        assert!(
            answer.contains("\nauthorization: Bearer own\n") && answer.contains("\ncookie: c=d; e=f\n"),
            "{answer}"
        );
        assert!(!answer.contains("flyloft"), "{answer}");
    }
    let only = format!("GET / HTTP/1.1\nHost: shop.test\nCookie: flyloft-gate={cookie}\n\n");
    let answer = stage.ask(&only).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\n") && !answer.contains("cookie"), "{answer}");
}

#[tokio::test]
async fn a_browser_goes_on_without_the_token_of_its_address_and_no_page_tells_of_one() {
    let stage = gated("ip:192.0.2.1").await;
    let token = sign(Purpose::Bypass);
    let target = format!("/a?flyloft-bypass={token}&b=1");
    let ask = async |target: &str, headers: &str| {
        stage.ask(&format!("GET {target} HTTP/1.1\nHost: shop.test\n{headers}\n")).await
    };
    for headers in ["Accept: text/html\n", "Accept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\n"] {
        let entered = ask(&target, headers).await;
        assert!(entered.starts_with("HTTP/1.1 303 "), "{entered}");
        assert_eq!((header(&entered, "location"), header(&entered, "referrer-policy")), ("/a?b=1", "no-referrer"));
        let cookie = header(&entered, "set-cookie").split(';').next().unwrap();
        let answer = ask("/a?b=1", &format!("{headers}Cookie: {cookie}\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("flyloft"), "{answer}");
        assert!(header(&answer, "referrer-policy").is_empty(), "{answer}");
    }
    // Who would not follow, or not with a cookie.
    for headers in [
        "",
        "Accept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe\n",
        "Accept: text/html\nSec-Fetch-Mode: cors\nSec-Fetch-Dest: empty\n",
    ] {
        let answer = ask(&target, headers).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("flyloft"), "{answer}");
        assert_eq!(header(&answer, "referrer-policy"), "no-referrer", "{answer}");
    }
    let said = format!("X-Flyloft-Bypass: {token}\nReferer: http://shop.test{target}\n");
    let answer = ask("/style", &said).await;
    assert!(answer.contains("\nreferer: http://shop.test/a?b=1\n") && !answer.contains("flyloft"), "{answer}");
}

#[tokio::test]
async fn a_page_of_another_host_does_not_get_in_with_its_visitors_cookie() {
    let stage = gated("link").await;
    let (cookie, link) = (sign(Purpose::Visit), sign(Purpose::Link));
    let upgrade = "Connection: upgrade\nUpgrade: websocket\n";
    for (method, headers, may) in [
        ("GET", upgrade.to_owned() + "Origin: http://evil.test\n", false),
        ("GET", upgrade.to_owned() + "Origin: null\n", false),
        ("GET", upgrade.to_owned() + "Origin: http://shop.test.evil.test\n", false),
        ("GET", upgrade.to_owned() + "Origin: http://SHOP.test:8080\n", true),
        ("GET", upgrade.to_owned(), true),
        ("GET", "Sec-Fetch-Site: same-site\nSec-Fetch-Mode: no-cors\n".to_owned(), false),
        ("GET", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: cors\nOrigin: http://evil.test\n".to_owned(), false),
        ("GET", "Sec-Fetch-Site: same-site\nSec-Fetch-Mode: navigate\n".to_owned(), true),
        ("POST", "Sec-Fetch-Site: same-site\nSec-Fetch-Mode: navigate\n".to_owned(), false),
        ("POST", "Origin: http://evil.test\n".to_owned(), false),
        ("POST", "Origin: http://shop.test\nSec-Fetch-Site: same-origin\n".to_owned(), true),
        ("GET", "Sec-Fetch-Site: none\nSec-Fetch-Mode: navigate\n".to_owned(), true),
    ] {
        let body = if method == "POST" { "Content-Length: 0\n" } else { "" };
        let request = format!("{method} / HTTP/1.1\nHost: shop.test\n{headers}{body}Cookie: flyloft-gate={cookie}\n\n");
        let answer = stage.ask(&request).await;
        assert_eq!(answer.starts_with("HTTP/1.1 200 "), may, "{request}{answer}");
        assert_eq!(answer.starts_with("HTTP/1.1 403 "), !may, "{request}{answer}");
    }
    // A link is said, not sent along.
    let said = format!("GET /?flyloft-link={link} HTTP/1.1\nHost: shop.test\n{upgrade}Origin: http://evil.test\n\n");
    assert!(stage.ask(&said).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_address_of_the_list_may_look_and_another_may_not() {
    let request = "GET / HTTP/1.1\nHost: shop.test\nX-Forwarded-For: 203.0.113.7\n\n";
    let answer = gated("ip:127.0.0.0/8").await.ask(request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\n"), "{answer}");
    let answer = gated("ip:203.0.113.7,::/0").await.ask(request).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("for some addresses only"), "{answer}");
}

/// One that is asked at the gate again in no time, and what a client says to it.
async fn staying<F: Future<Output = ()> + Send + 'static>(
    app: impl Fn(Peer) -> F + Send + 'static,
    says: &str,
) -> (Stage, String) {
    let stage = Stage::with(|config| config.limits.standing = Duration::from_millis(20)).app(app).await;
    stage.edge.guard("shop.test", guard("link")).await.unwrap();
    (stage, says.replace("COOKIE", &format!("Cookie: flyloft-gate={}\r\n", sign(Purpose::Visit))))
}

#[tokio::test]
async fn who_stays_has_to_go_when_the_gate_is_shut_and_not_before() {
    let events = |mut peer: Peer| async move {
        peer.read_head().await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nwelcome\n").await;
        peer.read_to_end().await;
    };
    let socket = |mut peer: Peer| async move {
        peer.read_head().await;
        peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nwelcome\n").await;
        peer.read_to_end().await;
    };
    let open = "GET / HTTP/1.1\r\nHost: shop.test\r\nCOOKIE\r\n";
    let upgrade = "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: upgrade\r\nUpgrade: x\r\nCOOKIE\r\n";
    let endless = |mut peer: Peer| async move {
        peer.read_head().await;
        peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nwelcome\n\r\n").await;
        peer.read_to_end().await;
    };
    let stages = [staying(events, open).await, staying(socket, upgrade).await, staying(endless, open).await];
    for (stage, says) in stages {
        let mut client = stage.connect().await;
        client.say(&says).await;
        client.read_until("welcome\n").await;
        // A route that is set anew, as by a wake, changes nothing.
        for gate in ["public", "ip:127.0.0.1", "link"] {
            stage.edge.guard("shop.test", guard(gate)).await.unwrap();
            let still = tokio::time::timeout(Duration::from_millis(100), client.read_to_end()).await;
            assert!(still.is_err(), "{gate}: {still:?}");
        }
        // As after `share --revoke`.
        let revoked = Guard::new(Gate::Link, Key::new(&[7; 32], 1, "shop.test", 1), None).map(Arc::new);
        stage.edge.guard("shop.test", revoked).await.unwrap();
        in_time(client.read_to_end()).await;
        let answer = stage.ask(&says.replace("\r\n", "\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
}

#[tokio::test]
async fn a_gate_that_is_opened_or_shut_holds_from_the_next_request_on_also_on_a_connection_that_is_open() {
    let stage = gated("link").await;
    let mut client = stage.connect().await;
    for (gate, status) in [("link", "403"), ("public", "200"), ("ip:192.0.2.1", "403"), ("ip:127.0.0.1", "200")] {
        stage.edge.guard("shop.test", guard(gate)).await.unwrap();
        client.say("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{gate}: {answer}");
    }
}

#[tokio::test]
async fn crawlers_are_told_to_stay_away_and_not_let_in() {
    let stage = gated("link").await;
    let robots = stage.ask("GET /robots.txt HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(robots.starts_with("HTTP/1.1 200 ") && robots.ends_with("Disallow: /\n"), "{robots}");
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\nUser-Agent: Googlebot\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

/// An app behind a password.
async fn locked() -> Stage {
    let stage = Stage::new().app(echo_head).await;
    let password = Hashed::new("correct horse", &[9; 16]);
    let guard = Guard::new(Gate::Password, key(), Some(password)).map(Arc::new);
    stage.edge.guard("shop.test", guard).await.unwrap();
    stage
}

const RIGHT: &str = "Authorization: Basic YWRhOmNvcnJlY3QgaG9yc2U=\n";
const WRONG: &str = "Authorization: Basic YWRhOndyb25nIGhvcnNl\n";

#[tokio::test]
async fn a_program_says_the_password_in_a_header_that_its_app_does_not_see() {
    let stage = locked().await;
    let ask = async |headers: &str| stage.ask(&format!("GET /a HTTP/1.1\nHost: shop.test\n{headers}\n")).await;
    let refused = ask("").await;
    assert!(refused.starts_with("HTTP/1.1 401 Unauthorized\n"), "{refused}");
    assert_eq!(header(&refused, "www-authenticate"), "Basic realm=\"staging\", charset=\"UTF-8\"");
    // Before anybody has said the right one, and after that.
    for _ in 0..2 {
        assert!(ask(WRONG).await.starts_with("HTTP/1.1 401 "));
        let answer = ask(RIGHT).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("authorization"), "{answer}");
    }
    let fetched = ask("Sec-Fetch-Mode: cors\n").await;
    assert!(fetched.starts_with("HTTP/1.1 403 ") && header(&fetched, "www-authenticate").is_empty(), "{fetched}");
}

/// What a browser gets that sends this form.
async fn send_form(stage: &Stage, form: &str) -> String {
    let length = form.len();
    let head = "POST /.flyloft/gate HTTP/1.1\nHost: shop.test\nAccept: text/html\nContent-Type: application/x-www-form-urlencoded";
    stage.ask(&format!("{head}\nContent-Length: {length}\n\n{form}")).await
}

#[tokio::test]
async fn a_browser_gets_a_form_for_the_password_and_a_cookie_for_it() {
    let stage = locked().await;
    let page = stage.ask("GET /a?b='&c=d HTTP/1.1\nHost: shop.test\nAccept: text/html\n\n").await;
    assert!(page.starts_with("HTTP/1.1 403 ") && header(&page, "www-authenticate").is_empty(), "{page}");
    assert!(page.contains("<input type=\"hidden\" name=\"to\" value=\"/a?b=&#39;&amp;c=d\">"), "{page}");
    assert!(header(&page, "content-security-policy").ends_with("; form-action 'self'"), "{page}");

    let again = send_form(&stage, "to=%2Fa%3Fb&password=wrong+horse").await;
    assert!(again.starts_with("HTTP/1.1 403 ") && again.contains("That is not its password."), "{again}");
    assert!(again.contains("value=\"/a?b\""), "{again}");
    let entered = send_form(&stage, "to=%2Fa%3Fb&password=correct+horse").await;
    assert!(entered.starts_with("HTTP/1.1 303 ") && header(&entered, "location") == "/a?b", "{entered}");
    let cookie = header(&entered, "set-cookie").split(';').next().unwrap();
    let own = "Authorization: Basic b3duOm93bg==";
    let answer = stage.ask(&format!("GET /a?b HTTP/1.1\nHost: shop.test\nCookie: {cookie}\n{own}\n\n")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("\nauthorization: Basic b3duOm93bg==\n"),
        "{answer}"
    );
    assert!(!answer.contains("flyloft"), "{answer}");

    for to in ["https://evil.example", "", "/%0d%0aSet-Cookie:%20a=b", "//evil.example"] {
        let entered = send_form(&stage, &format!("to={to}&password=correct+horse")).await;
        let location = header(&entered, "location");
        assert!(["/", "/.//evil.example"].contains(&location) && !entered.contains("a=b"), "{entered}");
    }
    let endless = send_form(&stage, &format!("password={}", "x".repeat(9000))).await;
    assert!(endless.starts_with("HTTP/1.1 400 "), "{endless}");
}

#[tokio::test]
async fn whoever_tries_passwords_is_slowed_down_and_who_has_a_cookie_is_not() {
    let stage = locked().await;
    let cookie = send_form(&stage, "password=correct+horse").await;
    let cookie = header(&cookie, "set-cookie").split(';').next().unwrap().to_owned();
    let ask = async |headers: &str| stage.ask(&format!("GET / HTTP/1.1\nHost: shop.test\n{headers}\n")).await;
    for _ in 0..100 {
        assert!(ask(RIGHT).await.starts_with("HTTP/1.1 200 "), "a right one is no attempt");
    }
    for _ in 0..10 {
        assert!(ask(WRONG).await.starts_with("HTTP/1.1 401 "));
    }
    for headers in [WRONG, RIGHT] {
        let answer = ask(headers).await;
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        assert!((1..=7).contains(&header(&answer, "retry-after").parse().unwrap()), "{answer}");
    }
    assert!(send_form(&stage, "password=correct+horse").await.starts_with("HTTP/1.1 429 "));
    assert!(ask(&format!("Cookie: {cookie}\n")).await.starts_with("HTTP/1.1 200 "));
    assert!(ask("").await.starts_with("HTTP/1.1 401 "));
}

#[tokio::test]
async fn where_no_password_was_set_the_page_says_who_sets_one() {
    let answer = gated("password").await.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("flyloft gate password shop"), "{answer}");
}
