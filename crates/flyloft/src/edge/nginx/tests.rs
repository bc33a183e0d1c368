//! nginx as the edge, with a real nginx: what clients and apps see of it, and what it is told when.

mod abuse;
mod crowds;
mod introduced;
mod reloads;
mod slowness;
mod snippets;
mod strangers;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flyloft_core::gate::{Gate, Key};
use flyloft_core::host::{Domain, HostName};
use flyloft_core::name::EnvRef;
use flyloft_core::nginx::Bounds;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::*;
use crate::edge::embedded::tests::{App, Peer, echo_head, eventually};
use crate::edge::embedded::{EdgeConfig, Embedded, Secure};
use crate::own_server;
use crate::tls::Answers;
use nginx_site::{NginxSite, OTHER};

mod gates;
#[allow(dead_code, reason = "user stories use the rest")]
#[path = "../../../tests/it/nginx_site.rs"]
mod nginx_site;
mod proxies;
mod secure;

/// Nothing here takes this long unless it never happens.
const DEADLINE: Duration = Duration::from_secs(30);

/// An nginx with flyloft behind it, gone at the end of the test.
struct Stage {
    site: NginxSite,
    edge: Arc<Nginx>,
    visits: mpsc::UnboundedReceiver<Visit>,
    answers: Arc<Answers>,
}

impl Stage {
    /// nginx runs.
    async fn new() -> Self {
        let mut stage = Self::without_nginx().await;
        stage.start().await;
        stage
    }

    /// Has nginx run, and waits until it is there for good: that somebody listens tells nothing, since nginx does so for a
    /// moment when it is asked what it would say to a configuration.
    async fn start(&mut self) {
        self.site.start();
        self.told().await;
    }

    /// It may have read our file before there was anything in it.
    async fn told(&self) {
        let (begun, address) = (Instant::now(), SocketAddr::from(([127, 0, 0, 1], self.site.port)));
        loop {
            let mut answer = Vec::new();
            if let Ok(mut stream) = TcpStream::connect(address).await
                && stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.is_ok()
                && stream.read_to_end(&mut answer).await.is_ok_and(|count| count > 0)
            {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "nginx is told nothing:\n{}", self.site.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn without_nginx() -> Self {
        Self::at(NginxSite::new("root"), "test", "", |_| {})
    }

    /// nginx does not run yet. Its site has these lines, too.
    fn at(site: NginxSite, domain: &str, lines: &str, change: impl FnOnce(&mut Place)) -> Self {
        let dir = site.path("flyloft");
        files::prepare(&dir, flyloft_core::nginx::Site::nothing()).unwrap();
        site.configure(&format!("include {}/flyloft.conf;\n{lines}", dir.display()));
        let own = nix::unistd::User::from_name(site.user).unwrap().unwrap().uid;
        let (told, visits) = mpsc::unbounded_channel();
        let mut place = Place {
            instance: "abc123".to_owned(),
            domain: Domain::parse(domain).unwrap(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], site.port))],
            master: Master { pid_file: site.pid(), conf: site.conf() },
            dir: dir.clone(),
            secure: None,
            trusted: Vec::new(),
            external: None,
            bounds: bounds(),
        };
        change(&mut place);
        let speaks = |of: &SecurePlace| Secure { certificates: of.shown.clone(), port: of.listen[0].port() };
        let answers = Arc::<Answers>::default();
        let inner = EdgeConfig {
            answers: answers.clone(),
            proxy: Some(files::listen(&dir, own, None).unwrap()),
            proxy_speaks: place.secure.as_ref().map(speaks),
            visits: Some(told.clone()),
            threads: 1,
            ..EdgeConfig::new([])
        };
        let inner = Embedded::open(inner).unwrap();
        let log = files::hear(&dir, own, None).unwrap();
        let snippets = site.path("apps");
        std::fs::create_dir(&snippets).unwrap();
        let (quiet_agents, routes) = (Vec::new(), Vec::new());
        let leftover = place.secure.is_none().then(|| site.path("flyloft-tls"));
        let config = NginxConfig { place, workers: own, log, quiet_agents, snippets, leftover, routes, visits: told };
        Self { edge: Nginx::open(inner, config).unwrap(), site, visits, answers }
    }

    async fn route(&self, host: &str, to: &App) {
        self.edge.set(host, route(Target::Upstream(to.address))).await.unwrap();
    }

    /// Waits until nginx goes straight to an app that tells of the head that it has got.
    async fn straight(&self, host: &str) -> String {
        let begun = Instant::now();
        loop {
            let answer = self.ask(&get(host)).await;
            // flyloft writes the names of headers in lower case.
            if answer.contains("\nX-Forwarded-For: ") {
                return answer;
            }
            assert!(begun.elapsed() < DEADLINE, "nginx does not go straight: {answer}\n{}", self.site.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connect(&self) -> Peer {
        Peer::connect(SocketAddr::from(([127, 0, 0, 1], self.site.port))).await
    }

    /// The whole answer to one request over a connection of its own. `\n` in the request stands for CRLF.
    async fn ask(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.say(&request.replace('\n', "\r\n")).await;
        client.read_answer().await
    }

    async fn trouble(&self) -> Option<Trouble> {
        self.edge.troubles().borrow().clone()
    }
}

/// More than any test takes.
fn bounds() -> Bounds {
    Bounds { requests: 1000, head: DEADLINE, send: DEADLINE, take: DEADLINE, body: None }
}

fn route(target: Target) -> Route {
    Route::public(EnvRef::parse("shop/main").unwrap(), target)
}

fn held() -> Route {
    route(Target::Held { failure: None })
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\nHost: {host}\nConnection: close\n\n")
}

/// An app that says who it is.
async fn named(name: &'static str) -> App {
    App::start(move |mut peer: Peer| async move {
        while !peer.read_head().await.is_empty() {
            peer.reply(name).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_checks_that_a_name_is_ours_is_answered_by_way_of_nginx_and_wakes_nobody() {
    let (mut stage, app) = (Stage::new().await, App::start(echo_head).await);
    stage.route("shop-main.test", &app).await;
    stage.edge.set("shop-asleep.test", held()).await.unwrap();
    stage.straight("shop-main.test").await;
    let check = |host: &str| get(host).replace("GET /", "GET /.well-known/acme-challenge/a-token");
    for host in ["shop-main.test", "shop-asleep.test"] {
        stage.answers.set(host, "a-token", "a-token.and-a-key");
        let answer = stage.ask(&check(host)).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\n\na-token.and-a-key"), "{answer}");
        stage.answers.forget(host);
    }
    assert!(stage.visits.try_recv().is_err(), "somebody was told of");
    // An app that proves its name itself is asked.
    let answer = stage.ask(&check("shop-main.test")).await;
    assert!(answer.contains("GET /.well-known/acme-challenge/a-token HTTP/1.1"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_awake_is_reached_straight_and_clients_do_not_say_who_they_are() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    stage.route("shop-main.test", &app).await;
    let first = stage.ask(&get("shop-main.test")).await;
    assert!(first.starts_with("HTTP/1.1 200 ") && first.contains("\nX-Robots-Tag: noindex\n"), "{first}");
    stage.straight("shop-main.test").await;
    let port = stage.site.port;
    let claims = "X-Forwarded-For: 6.6.6.6\nX-Forwarded-Proto: https\nX-Forwarded-Prefix: /x\nX-Real-IP: 6.6.6.6\n\
                  Forwarded: for=6.6.6.6\nProxy: evil:80\nX_Forwarded_For: 6.6.6.6\nX-Own: kept\n";
    let ask = |path: &str, host: &str| format!("GET {path} HTTP/1.1\nHost: {host}\nConnection: close\n{claims}\n");
    // Straight, and by way of flyloft, which open connections and streams of events go.
    for accept in ["", "Accept: text/event-stream\n"] {
        let seen = stage
            .ask(&ask("/a%2Fb?c=%20d", &format!("SHOP-main.test:{port}")).replace("X-Own", &format!("{accept}X-Own")))
            .await;
        let lower = seen.to_ascii_lowercase();
        let head = [
            "get /a%2fb?c=%20d http/1.1",
            &format!("host: shop-main.test:{port}"),
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
            &format!("x-forwarded-host: shop-main.test:{port}"),
            &format!("x-forwarded-port: {port}"),
            "x-own: kept",
        ];
        for line in head {
            assert!(lower.contains(&format!("\n{line}\n")), "{line}: {seen}");
        }
        for claim in ["6.6.6.6", "https", "evil", "/x\n"] {
            assert!(!lower.contains(claim), "{claim}: {seen}");
        }
    }
    assert!(stage.ask(&get("shop-other.test")).await.contains("shop-other.test"), "flyloft says that it is unknown");
    let robots = stage.ask("GET /robots.txt HTTP/1.1\nHost: shop-main.test\nConnection: close\n\n").await;
    assert!(robots.ends_with("Disallow: /\n"), "{robots}");
    let mut other = Peer::connect(SocketAddr::from(([127, 0, 0, 1], stage.site.other))).await;
    other.say("GET / HTTP/1.1\r\nHost: shop-main.test\r\n\r\n").await;
    assert!(other.read_answer().await.ends_with(OTHER));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_visits_somebody_asleep_waits_with_its_body_and_gets_through() {
    let mut stage = Stage::new().await;
    let app = App::start(|mut peer: Peer| async move {
        let head = peer.read_head().await.to_ascii_lowercase();
        let body = match head.contains("transfer-encoding: chunked") {
            true => peer.read_until("0\r\n\r\n").await,
            false => peer.read_until("the end").await,
        };
        peer.reply(&format!("got {}", body.len())).await;
    })
    .await;
    stage.route("shop-main.test", &app).await;
    for body in ["Content-Length: 100007\n\n", "Transfer-Encoding: chunked\n\n186a7\n"] {
        stage.edge.set("shop-main.test", held()).await.unwrap();
        assert!(stage.edge.drained(app.address, DEADLINE).await);
        let mut client = stage.connect().await;
        let head = format!("POST / HTTP/1.1\nHost: shop-main.test\nConnection: close\n{body}").replace('\n', "\r\n");
        client.say(&head).await;
        let visit = tokio::time::timeout(DEADLINE, stage.visits.recv()).await.unwrap().unwrap();
        assert_eq!((visit.env.to_string().as_str(), visit.by.as_str()), ("shop/main", "POST / from 127.0.0.1"));
        client.say(&"x".repeat(100_000)).await;
        client.say("the end").await;
        if body.starts_with('T') {
            client.say("\r\n0\r\n\r\n").await;
        }
        stage.route("shop-main.test", &app).await;
        let answer = client.read_answer().await;
        let length = if body.starts_with('T') { 0 } else { 100_007 };
        let got = answer.rsplit_once("got ").map(|(_, got)| got.parse::<usize>().unwrap());
        assert!(got >= Some(length) && got > Some(100_000), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_serves_from_the_moment_on_in_which_it_is_routed() {
    let (stage, old, new) = (Stage::new().await, named("old").await, named("new").await);
    stage.route("shop-main.test", &old).await;
    eventually("nginx goes straight", || {
        stage.edge.desk.with(|plan| plan.may_reach(old.address) && plan.haste().is_none())
    })
    .await;
    stage.route("shop-main.test", &new).await;
    for _ in 0..50 {
        assert!(stage.ask(&get("shop-main.test")).await.ends_with("new"));
    }
    assert!(stage.edge.drained(old.address, DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_expected_takes_no_time_when_it_comes() {
    let (stage, old, new) = (Stage::new().await, App::start(echo_head).await, named("new").await);
    let name = HostName::parse("shop-main.test").unwrap();
    let is_straight = || stage.edge.desk.with(|plan| plan.may_go_straight(&name));
    stage.route("shop-main.test", &old).await;
    stage.straight("shop-main.test").await;
    stage.edge.expect("shop-main.test", true);
    eventually("it goes by way of flyloft", || !is_straight()).await;
    assert!(stage.ask(&get("shop-main.test")).await.contains("\nx-forwarded-for: "), "the old one still serves");
    stage.edge.expect("shop-main.test", false);
    stage.straight("shop-main.test").await;
    stage.edge.expect("shop-main.test", true);
    eventually("it goes by way of flyloft", || !is_straight()).await;
    let reloads = stage.site.reloads();
    stage.route("shop-main.test", &new).await;
    assert!(stage.ask(&get("shop-main.test")).await.ends_with("new"));
    assert_eq!(stage.site.reloads(), reloads);
    stage.edge.expect("shop-main.test", false);
    eventually("it goes straight", is_straight).await;
    assert!(stage.ask(&get("shop-main.test")).await.ends_with("new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_goes_straight_is_waited_for() {
    let stage = Stage::new().await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let app = App::start(move |mut peer: Peer| {
        let arrived = arrived.clone();
        async move {
            let head = peer.read_head().await;
            if head.contains(" /slow ") {
                let (go, may_go) = tokio::sync::oneshot::channel::<()>();
                arrived.send(go).unwrap();
                may_go.await.unwrap();
            }
            peer.reply(&head).await;
        }
    })
    .await;
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
    let mut client = stage.connect().await;
    client.say("GET /slow HTTP/1.1\r\nHost: shop-main.test\r\nConnection: close\r\n\r\n").await;
    let go = tokio::time::timeout(DEADLINE, arrivals.recv()).await.unwrap().unwrap();
    stage.edge.set("shop-main.test", held()).await.unwrap();
    assert!(!stage.edge.drained(app.address, Duration::from_secs(2)).await, "a request is under way");
    go.send(()).unwrap();
    assert!(client.read_answer().await.contains("X-Forwarded-For"), "it did not go straight");
    assert!(stage.edge.drained(app.address, DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_from_before_that_reaches_somebody_asleep_wakes_it_unless_a_gate_was_shut() {
    for guard in [None, Guard::new(Gate::Link, Key::new(&[7; 32], 1, "shop-main.test", 0), None).map(Arc::new)] {
        from_before(guard).await;
    }
}

async fn from_before(guard: Option<Arc<Guard>>) {
    let mut stage = Stage::new().await;
    let app = App::start(|mut peer: Peer| async move {
        let head = peer.read_head().await;
        if head.contains(" /late ") {
            // As somebody who is frozen does.
            std::future::pending::<()>().await;
        }
        peer.reply(&head).await;
    })
    .await;
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
    // A worker lets it in that will know only of what was so before, as soon as the machine lets it.
    let mut early = stage.connect().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let has_gate = guard.is_some();
    stage.edge.guard("shop-main.test", guard.clone()).await.unwrap();
    stage.edge.set("shop-main.test", Route { guard, ..held() }).await.unwrap();
    assert!(stage.edge.drained(app.address, DEADLINE).await);
    early.say("GET /late HTTP/1.1\r\nHost: shop-main.test\r\n\r\n").await;
    if has_gate {
        eventually("it has come there", || sockets::open().contains(&app.address)).await;
        tokio::time::sleep(4 * WATCH).await;
        assert!(stage.visits.try_recv().is_err(), "somebody wakes it who may not look");
        return;
    }
    let visit = tokio::time::timeout(DEADLINE, stage.visits.recv()).await.unwrap().unwrap();
    assert_eq!(visit.by, "a connection that nginx had open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_somebody_last_used_what_is_straight_is_known() {
    let (stage, app) = (Stage::new().await, App::start(echo_head).await);
    stage.route("shop-main.test", &app).await;
    assert_eq!(stage.edge.unused_for("shop-main.test"), None);
    let quiet = "GET / HTTP/1.1\nHost: shop-main.test\nUser-Agent: Googlebot/2.1\nConnection: close\n\n";
    eventually_straight(&stage, quiet).await;
    let crawled = stage.edge.uses.of("shop-main.test");
    assert!(crawled.asked.is_some() && crawled.visited.is_none(), "{crawled:?}");
    let before = stage.edge.answers("shop-main.test")[1];
    stage.ask(&get("shop-main.test")).await;
    eventually("the log has told", || stage.edge.uses.of("shop-main.test").visited.is_some()).await;
    assert_eq!(stage.edge.answers("shop-main.test")[1], before + 1);
    assert!(stage.edge.unused_for("shop-main.test") < Some(Duration::from_secs(10)));
}

/// Asks until nginx has told of one that went straight.
async fn eventually_straight(stage: &Stage, request: &str) {
    let begun = Instant::now();
    while stage.edge.uses.of("shop-main.test").asked.is_none() {
        assert!(begun.elapsed() < DEADLINE, "nothing goes straight:\n{}", stage.site.log());
        stage.ask(request).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_for_longer_than_nginx_keeps_idle_connections_is_in_use() {
    let stage = Stage::new().await;
    let app = App::start(|mut peer: Peer| async move {
        let head = peer.read_head().await;
        if head.contains(" /slow ") {
            std::future::pending::<()>().await;
        }
        peer.reply(&head).await;
    })
    .await;
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
    let mut client = stage.connect().await;
    client.say("GET /slow HTTP/1.1\r\nHost: shop-main.test\r\n\r\n").await;
    let in_use = || stage.edge.unused_for("shop-main.test") == Some(Duration::ZERO);
    eventually("it is in use", in_use).await;
    drop(client);
    eventually("it is not", || !in_use()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_may_come_and_go() {
    let mut stage = Stage::without_nginx().await;
    let (old, new) = (App::start(echo_head).await, App::start(echo_head).await);
    stage.route("shop-main.test", &old).await;
    let not_running = Some(Trouble::NotRunning(stage.site.pid()));
    assert_eq!(stage.trouble().await, not_running);
    stage.start().await;
    stage.straight("shop-main.test").await;
    eventually("nothing is wrong", || stage.edge.troubles().borrow().is_none()).await;
    stage.site.kill();
    eventually("it is missed", || *stage.edge.troubles().borrow() == not_running).await;
    // Nobody is sent anywhere by it.
    stage.route("shop-main.test", &new).await;
    assert!(stage.edge.drained(old.address, DEADLINE).await);
    drop(old);
    stage.start().await;
    stage.straight("shop-main.test").await;
    eventually("nothing is wrong", || stage.edge.troubles().borrow().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_others_have_broken_is_told_and_everything_stays_reachable() {
    let (stage, old, new) = (Stage::new().await, App::start(echo_head).await, named("new").await);
    stage.route("shop-main.test", &old).await;
    stage.straight("shop-main.test").await;
    stage.site.configure("lisen 80;");
    let refused = stage.edge.set("shop-main.test", route(Target::Upstream(new.address))).await.unwrap_err();
    assert!(refused.to_string().contains("unknown directive \"lisen\""), "{refused}");
    assert!(!stage.edge.drained(old.address, Duration::from_millis(100)).await, "nginx still goes there");
    assert!(stage.ask(&get("shop-main.test")).await.contains("X-Forwarded-For"), "the old one is there");
    drop(old);
    // Where nobody listens any more, flyloft knows where to go. What goes on for the old one takes a moment to end.
    let begun = Instant::now();
    loop {
        let answer = stage.ask(&get("shop-main.test")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && begun.elapsed() < DEADLINE, "{answer}");
        if answer.ends_with("new") {
            break;
        }
    }
    let dir = stage.site.path("flyloft");
    stage.site.configure(&format!("include {}/flyloft.conf;", dir.display()));
    eventually("nothing is wrong", || stage.edge.troubles().borrow().is_none()).await;
    stage.edge.set("shop-main.test", route(Target::Upstream(new.address))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_does_not_include_us_is_told_until_it_does() {
    let mut stage = Stage::without_nginx().await;
    stage.site.configure("");
    stage.site.start();
    let file = stage.site.path("flyloft/flyloft.conf");
    let not_included = Some(Trouble::NotIncluded(file.clone()));
    eventually("it is told", || *stage.edge.troubles().borrow() == not_included).await;
    stage.site.configure(&format!("include {};", file.display()));
    eventually("nothing is wrong", || stage.edge.troubles().borrow().is_none()).await;
    stage.told().await;
    let app = App::start(echo_head).await;
    stage.route("shop-main.test", &app).await;
    stage.straight("shop-main.test").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_are_routed_at_once_are_told_together_and_requests_meanwhile_do_not_fail() {
    let stage = Arc::new(Stage::new().await);
    let apps = [named("one").await, named("two").await];
    let name = |number: usize| format!("shop-b{number}.test");
    for number in 0..50 {
        stage.route(&name(number), &apps[0]).await;
    }
    eventually("nginx goes straight", || stage.edge.desk.with(|plan| plan.haste().is_none())).await;
    let before = stage.site.reloads();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let visitor = {
        let (stage, done) = (stage.clone(), done.clone());
        tokio::spawn(async move {
            let mut asked = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let answer = stage.ask(&get(&format!("shop-b{}.test", asked % 50))).await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                asked += 1;
            }
            asked
        })
    };
    let routed = (0..50).map(|number| {
        let (stage, to) = (stage.clone(), apps[1].address);
        tokio::spawn(async move {
            stage.edge.set(&format!("shop-b{number}.test"), route(Target::Upstream(to))).await.unwrap();
            assert!(stage.ask(&get(&format!("shop-b{number}.test"))).await.ends_with("two"));
        })
    });
    for routed in futures_util::future::join_all(routed).await {
        routed.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(visitor.await.unwrap() > 0);
    let reloads = stage.site.reloads() - before;
    assert!((1..=5).contains(&reloads), "{reloads}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_has_switched_protocols_outlives_changes_of_routes() {
    let (stage, app, other) = (Stage::new().await, App::start(talks).await, named("other").await);
    stage.route("shop-main.test", &app).await;
    let mut client = stage.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: shop-main.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n").await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 101 "));
    for number in 0..3 {
        let host = format!("shop-b{number}.test");
        stage.route(&host, &other).await;
        stage.edge.desk.with(|plan| plan.hurry(Haste::Now));
        let name = HostName::parse(&host).unwrap();
        eventually("it is told", || stage.edge.desk.with(|plan| plan.may_go_straight(&name) && plan.haste().is_none()))
            .await;
        client.say("hello\n").await;
        assert_eq!(client.read_until("\n").await, "hello\n");
    }
    stage.edge.set("shop-main.test", held()).await.unwrap();
    assert!(stage.edge.drained(app.address, DEADLINE).await, "nobody waits for its end");
}

/// An app that repeats what it is told, in another protocol.
async fn talks(mut peer: Peer) {
    peer.read_head().await;
    peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n").await;
    loop {
        let line = peer.read_until("\n").await;
        if line.is_empty() {
            return;
        }
        peer.say(&line).await;
    }
}
