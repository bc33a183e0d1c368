//! Clients whom what stands before nginx introduces by the PROXY protocol, as the README has a site take it.

use flyloft_core::gate::{Gate, Guard, Key};
use tokio::net::TcpSocket;

use super::secure::Lock;
use super::*;
use crate::own_server::free_port;

const HOST: &str = "shop-main.test";

/// The answer to a request of somebody who is introduced so, over a connection from `127.0.0.from`. Nothing where there is
/// none: nginx listens for a moment when it is asked what it would say to a configuration.
async fn introduced(from: u8, port: u16, as_whom: &str, host: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
    let Ok(mut stream) = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await else { return String::new() };
    let _ = stream.write_all(format!("{as_whom}{}", get(host)).replace('\n', "\r\n").as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it never ended");
    String::from_utf8_lossy(&answer).replace("\r\n", "\n")
}

fn proxy(family: u8, client: &str, server: &str) -> String {
    format!("PROXY TCP{family} {client} {server} 4711 80\n")
}

/// Waits until nginx goes straight for who is introduced.
async fn straight(stage: &Stage, port: u16) {
    let (begun, proxy) = (Instant::now(), proxy(4, "203.0.113.7", "203.0.113.1"));
    while !introduced(1, port, &proxy, HOST).await.contains("\nX-Forwarded-For: 203.0.113.7\n") {
        assert!(begun.elapsed() < DEADLINE, "nginx does not go straight:\n{}", stage.site.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Clients are who they were introduced as, to apps and to gates, straight and by way of flyloft.
async fn are_known(stage: &Stage, app: &App, port: u16) {
    stage.route(HOST, app).await;
    straight(stage, port).await;
    let (four, six) = (proxy(4, "203.0.113.7", "203.0.113.1"), proxy(6, "2001:db8::7", "2001:db8::1"));
    for (said, client) in [(&four, "203.0.113.7"), (&six, "2001:db8::7")] {
        // A header is nobody's introduction.
        let claims = format!("{HOST}\nX-Forwarded-For: 6.6.6.6\nX-Real-IP: 6.6.6.6");
        for accept in ["", "\nAccept: text/event-stream"] {
            let seen = introduced(1, port, said, &format!("{claims}{accept}")).await.to_ascii_lowercase();
            assert!(seen.contains(&format!("\nx-forwarded-for: {client}\n")) && !seen.contains("6.6.6.6"), "{seen}");
        }
    }
    for gate in ["ip:203.0.113.7", "ip:2001:db8::/64"] {
        let guard = Guard::new(Gate::parse(gate).unwrap(), Key::new(&[7; 32], 1, "shop-gated.test", 0), None);
        let route = Route { guard: guard.map(Arc::new), ..route(Target::Upstream(app.address)) };
        stage.edge.set("shop-gated.test", route).await.unwrap();
        for (said, may) in [(&four, gate.contains("203")), (&six, gate.contains("2001"))] {
            let answer = introduced(1, port, said, "shop-gated.test").await;
            let status = if may { "200" } else { "403" };
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{gate}, {said}: {answer}");
        }
        // Whoever else introduces somebody is not believed, and is no client itself without an introduction.
        let stranger = introduced(2, port, &four, "shop-gated.test").await;
        assert!(stranger.starts_with("HTTP/1.1 403 "), "{gate}: {stranger}");
        assert_eq!(introduced(1, port, "", "shop-gated.test").await, "", "{gate}");
    }
    let log = stage.site.log();
    assert!(!log.contains("[warn]"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_introduced_at_an_address_of_the_site_s_own() {
    let (site, port, app) = (NginxSite::new("root"), free_port(), App::start(echo_head).await);
    let server = format!(
        "server {{ listen 127.0.0.1:{port} proxy_protocol; server_name *.test; set_real_ip_from 127.0.0.1; \
         real_ip_header proxy_protocol; include {}/server.conf; }}",
        site.path("flyloft").display()
    );
    let mut stage = Stage::at(site, "test", &server, |_| {});
    stage.start().await;
    are_known(&stage, &app, port).await;
    // Elsewhere nobody need introduce anybody.
    let plain = stage.ask(&get(HOST)).await;
    assert!(plain.to_ascii_lowercase().contains("\nx-forwarded-for: 127.0.0.1\n"), "{plain}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_introduced_wherever_flyloft_has_nginx_listen() {
    let (site, app) = (NginxSite::new("root"), App::start(echo_head).await);
    let port = site.port;
    let lines = format!(
        "set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol; \
         server {{ listen 127.0.0.1:{port} proxy_protocol; server_name introduced.invalid; return 444; }}"
    );
    let mut stage = Stage::at(site, "test", &lines, |_| {});
    stage.site.start();
    are_known(&stage, &app, port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_introduced_before_they_speak_tls() {
    let mut lock = Lock::beside(
        "set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol; server { listen 127.0.0.1:PORT ssl proxy_protocol; \
         server_name introduced.invalid; ssl_reject_handshake on; }",
    )
    .await;
    let app = App::start(echo_head).await;
    lock.stage.route(secure::HOST, &app).await;
    lock.introduction = proxy(4, "203.0.113.7", "203.0.113.1").replace('\n', "\r\n");
    lock.show(&["*.staging.test"]).await;
    let mut client = Peer::over(lock.connect(secure::HOST).await.unwrap());
    client.say(&get(secure::HOST).replace('\n', "\r\n")).await;
    let seen = client.read_answer().await.to_ascii_lowercase();
    for line in ["x-forwarded-for: 203.0.113.7", "x-forwarded-proto: https"] {
        assert!(seen.contains(&format!("\n{line}\n")), "{line}: {seen}");
    }
    lock.introduction.clear();
    assert!(lock.connect(secure::HOST).await.is_err(), "it has not been introduced");
}
