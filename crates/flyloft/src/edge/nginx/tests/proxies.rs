//! What stands before nginx: who is believed in who came and how, and who is led to where TLS is spoken.

use flyloft_core::gate::{Gate, Guard, Key, NEVER, Prefix, Purpose};
use tokio::net::TcpSocket;

use super::*;
use crate::exec::Cmd;
use crate::own_server::free_port;
use crate::tls::trial::Authority;

const HOST: &str = "shop-main.test";

/// Behind proxies at 127.0.0.1 and 127.0.0.9.
async fn behind(external: Option<u16>) -> Stage {
    let mut stage = Stage::at(NginxSite::new("root"), "test", "", |place| {
        place.trusted = ["127.0.0.1", "127.0.0.9"].map(|range| Prefix::parse(range).unwrap()).into();
        place.external = external;
    });
    stage.start().await;
    stage
}

fn asks(path: &str, told: &str) -> String {
    format!("GET {path} HTTP/1.1\nHost: {HOST}\n{told}Connection: close\n\n")
}

/// The answer to a request from this address.
pub(super) async fn ask_from(from: [u8; 4], stage: &Stage, request: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], stage.site.port))).await.unwrap();
    stream.write_all(request.replace('\n', "\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).replace("\r\n", "\n")
}

/// Waits until it goes straight for who comes over TLS.
async fn straight(stage: &Stage) {
    let begun = Instant::now();
    while !stage.ask(&asks("/", "X-Forwarded-Proto: https\n")).await.contains("\nX-Forwarded-For: ") {
        assert!(begun.elapsed() < DEADLINE, "nginx does not go straight:\n{}", stage.site.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_before_nginx_is_believed_in_who_its_clients_are_and_how_they_came() {
    for external in [None, Some(443)] {
        let (stage, app) = (behind(external).await, App::start(echo_head).await);
        stage.route(HOST, &app).await;
        straight(&stage).await;
        let unsaid = if external.is_some() { "https" } else { "http" };
        let one = "X-Forwarded-For: 6.6.6.6, 203.0.113.7\n";
        let two = "X-Forwarded-For: 203.0.113.7, 127.0.0.9:4711\n";
        let cases = [
            ([127, 0, 0, 1], format!("{one}X-Forwarded-Proto: https\n"), "203.0.113.7", "https"),
            ([127, 0, 0, 1], format!("{one}X-Forwarded-Proto: http, WSS\n"), "203.0.113.7", "https"),
            ([127, 0, 0, 1], one.to_owned(), "203.0.113.7", unsaid),
            // The one that is asked has not seen who came to the other one.
            ([127, 0, 0, 1], format!("{two}X-Forwarded-Proto: https, http\n"), "203.0.113.7", "https"),
            ([127, 0, 0, 1], format!("{two}X-Forwarded-Proto: http\n"), "203.0.113.7", unsaid),
            // Nobody else's word counts.
            ([127, 0, 0, 2], format!("{one}X-Forwarded-Proto: https\n"), "127.0.0.2", "http"),
        ];
        for (from, told, client, scheme) in cases {
            // Straight, and by way of flyloft.
            for accept in ["", "Accept: text/event-stream\n"] {
                let answer = ask_from(from, &stage, &asks("/", &format!("{told}{accept}"))).await;
                let seen = answer.to_ascii_lowercase();
                assert!(answer.starts_with("HTTP/1.1 200 "), "{told}: {answer}");
                let port = if scheme == "https" { "443" } else { "80" };
                for (name, value) in [("for", client), ("proto", scheme), ("port", port)] {
                    assert_eq!(seen.matches(&format!("\nx-forwarded-{name}: ")).count(), 1, "{answer}");
                    assert!(seen.contains(&format!("\nx-forwarded-{name}: {value}\n")), "{told}{name}: {answer}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_came_to_a_proxy_before_nginx_without_tls_is_led_there_and_wakes_nothing() {
    let (mut stage, app) = (behind(Some(8443)).await, App::start(echo_head).await);
    stage.edge.set("shop-asleep.test", held()).await.unwrap();
    stage.route(HOST, &app).await;
    straight(&stage).await;
    let plain = "X-Forwarded-For: 203.0.113.7\nX-Forwarded-Proto: http\n";
    let led = async |request: &str, at: &str| {
        let answer = stage.ask(request).await;
        let location = format!("\nLocation: {at}\n");
        assert!(answer.starts_with("HTTP/1.1 308 ") && answer.contains(&location), "{request}: {answer}");
    };
    led(&asks("/a?b", plain), "https://shop-main.test:8443/a?b").await;
    led(&asks("/robots.txt", plain), "https://shop-main.test:8443/robots.txt").await;
    led(&asks("/a", plain).replace(HOST, "shop-asleep.test"), "https://shop-asleep.test:8443/a").await;
    // An administrator's lines see nobody before that.
    stage.snippet("shop", "return 418;\n");
    stage.until_told_over_tls("HTTP/1.1 418 ").await;
    led(&asks("/a?b", plain), "https://shop-main.test:8443/a?b").await;
    // Not so whoever checks that a name is ours, and who asks for a name that is not.
    let check = stage.ask(&asks("/.well-known/acme-challenge/a-token", plain)).await;
    assert!(check.contains("\nx-forwarded-for: 203.0.113.7\n"), "{check}");
    let other = stage.ask(&asks("/", plain).replace(HOST, "example.org")).await;
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    // Whoever comes past the proxy has not come over it.
    let past = ask_from([127, 0, 0, 2], &stage, &asks("/", plain)).await;
    assert!(past.starts_with("HTTP/1.1 418 "), "{past}");
    assert!(stage.visits.try_recv().is_err(), "somebody was told of");
}

impl Stage {
    async fn until_told_over_tls(&self, of: &str) {
        let begun = Instant::now();
        while !self.ask(&asks("/", "X-Forwarded-Proto: https\n")).await.starts_with(of) {
            assert!(begun.elapsed() < DEADLINE, "{}", self.site.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eventually("nginx is told", || self.edge.desk.with(|plan| plan.is_so())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_opens_a_gate_behind_a_proxy_that_takes_tls_is_the_cookie_of_tls() {
    let (stage, app) = (behind(Some(443)).await, App::start(echo_head).await);
    let key = || Key::new(&[7; 32], 1, HOST, 0);
    let guard = Guard::new(Gate::Link, key(), None).map(Arc::new);
    let gated = Route { guard, ..route(Target::Upstream(app.address)) };
    stage.edge.set(HOST, gated).await.unwrap();
    let link = format!("/?flyloft-link={}", key().sign(Purpose::Link, NEVER));
    let told = "X-Forwarded-For: 203.0.113.7\nX-Forwarded-Proto: https\n";
    let entered = stage.ask(&asks(&link, told)).await;
    assert!(entered.starts_with("HTTP/1.1 303 "), "{entered}");
    assert!(entered.contains("\nset-cookie: __Host-flyloft=") && entered.contains("; Secure"), "{entered}");
    let cookie = format!("{told}Cookie: __Host-flyloft={}\n", key().sign(Purpose::SecureVisit, NEVER));
    let seen = stage.ask(&asks("/", &cookie)).await;
    assert!(seen.starts_with("HTTP/1.1 200 ") && seen.contains("\nx-forwarded-proto: https\n"), "{seen}");
    // No link is opened over plain HTTP.
    let led = stage.ask(&asks(&link, &told.replace("https", "http"))).await;
    assert!(led.starts_with("HTTP/1.1 308 "), "{led}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_server_of_the_site_s_own_speaks_tls_plain_http_is_led_to_it() {
    let issued = Authority::root("Root").issue(&["*.test"]);
    let dir = tempfile::tempdir().unwrap();
    let files = issued.files(dir.path(), "star");
    for speaks in [true, false] {
        let (site, port, app) = (NginxSite::new("root"), free_port(), App::start(echo_head).await);
        let (own, certificate, key) = (site.path("flyloft"), files.certificate.display(), files.key.display());
        let server = format!(
            "server {{ listen 127.0.0.1:{port} ssl; server_name *.test; ssl_certificate {certificate}; \
             ssl_certificate_key {key}; include {}/server.conf; }}",
            own.display()
        );
        let lines = if speaks { server.as_str() } else { "" };
        let mut stage = Stage::at(site, "test", lines, |place| place.external = Some(port));
        stage.start().await;
        stage.route(HOST, &app).await;
        let plain = stage.ask(&asks("/a?b", "")).await;
        if !speaks {
            // Something else may take TLS, of which nobody knows here.
            assert!(plain.starts_with("HTTP/1.1 200 "), "{plain}");
            continue;
        }
        let at = format!("\nLocation: https://{HOST}:{port}/a?b\n");
        assert!(plain.starts_with("HTTP/1.1 308 ") && plain.contains(&at), "{plain}");
        let secure = async || {
            let curl = Cmd::new("curl")
                .args(["--silent", "--show-error", "--insecure", "--max-time", "20"])
                .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")])
                .arg(format!("https://{HOST}:{port}/a?b"));
            String::from_utf8_lossy(&curl.run().await.unwrap().stdout).to_ascii_lowercase()
        };
        // One of nginx's old processes may still answer, for a moment.
        let (begun, mut seen) = (Instant::now(), secure().await);
        while seen.contains("404 not found") && begun.elapsed() < DEADLINE {
            seen = secure().await;
        }
        assert!(seen.contains("\nx-forwarded-proto: https\r\n"), "{seen}");
    }
}
