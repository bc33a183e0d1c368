//! TLS at an nginx: what it shows to whom, and where it leads plain HTTP.

use std::os::unix::fs::PermissionsExt;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use flyloft_core::certificate::Names;

use super::certificates::Offer;
use super::*;
use crate::config::CertificateFiles;
use crate::exec::Cmd;
use crate::own_server::free_port;
use crate::tls::trial::{Authority, Issued};
use crate::tls::{Certificates, Shown, Texts, pair};

const DOMAIN: &str = "staging.test";
pub(super) const HOST: &str = "shop-main.staging.test";
const OTHER_HOST: &str = "shop-other.staging.test";

/// An nginx that speaks TLS for flyloft.
pub(super) struct Lock {
    pub(super) stage: Stage,
    pub(super) certificates: Arc<Certificates>,
    /// What flyloft takes nginx to show.
    taken: Arc<Certificates>,
    pub(super) authority: Authority,
    pub(super) port: u16,
    /// What comes before TLS.
    pub(super) introduction: String,
}

impl Lock {
    pub(super) async fn new() -> Self {
        Self::beside("").await
    }

    /// Its site has these lines, too, where `PORT` stands for that of TLS.
    pub(super) async fn beside(lines: &str) -> Self {
        let (site, port, certificates) = (NginxSite::new("root"), free_port(), Certificates::new().unwrap());
        let secure = secure(&site, port, &certificates);
        let taken = secure.shown.clone();
        let lines = lines.replace("PORT", &port.to_string());
        let mut stage = Stage::at(site, DOMAIN, &lines, |place| place.secure = Some(secure));
        stage.start().await;
        Self { stage, certificates, taken, authority: Authority::root("Root"), port, introduction: String::new() }
    }

    /// Has it show one for these names, and waits until it does.
    pub(super) async fn show(&self, names: &[&str]) -> Issued {
        let issued = self.authority.issue(names);
        self.certificates.set([&issued.pair()]);
        self.shows(&issued).await;
        issued
    }

    /// Waits until nginx shows this, and goes by nothing else.
    pub(super) async fn shows(&self, issued: &Issued) {
        let (begun, wanted) = (Instant::now(), issued.pair().certified.cert.clone());
        while self.shown().await.as_ref() != Some(&wanted) {
            assert!(begun.elapsed() < DEADLINE, "it is not shown:\n{}", self.stage.site.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let is_taken = |shown: &Arc<Shown>| shown.texts.parts().0 == issued.chain.as_bytes();
        eventually("nginx is told", || self.taken.all().iter().any(is_taken)).await;
    }

    /// What nginx shows for the host.
    async fn shown(&self) -> Option<Vec<CertificateDer<'static>>> {
        let stream = self.connect(HOST).await.ok()?;
        Some(stream.get_ref().1.peer_certificates()?.to_vec())
    }

    pub(super) async fn connect(&self, name: &'static str) -> std::io::Result<TlsStream<TcpStream>> {
        self.offer(name, &["http/1.1"]).await
    }

    /// Nothing of what nginx was told is old-fashioned to it, or odd.
    fn has_no_warning(&self) {
        let log = self.stage.site.log();
        assert!(!log.contains("[warn]"), "{log}");
    }

    /// Connects with these protocols on offer.
    pub(super) async fn offer(&self, name: &'static str, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(pair::provider()).with_safe_default_protocol_versions();
        let mut client = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(self.introduction.as_bytes()).await?;
        TlsConnector::from(Arc::new(client)).connect(ServerName::try_from(name).unwrap(), stream).await
    }

    /// Waits until nginx goes straight to an app that tells of the head that it has got.
    pub(super) async fn straight(&self) {
        let begun = Instant::now();
        // nginx writes the names of headers as it has them, and flyloft in lower case.
        while !self.curl("/", &[]).await.contains("\nX-Forwarded-For: ") {
            assert!(begun.elapsed() < DEADLINE, "nginx does not go straight:\n{}", self.stage.site.log());
        }
    }

    /// What curl prints for a path of the host.
    pub(super) async fn curl(&self, path: &str, args: &[&str]) -> String {
        self.curl_with(path, args, Vec::new()).await
    }

    /// The same of a curl that reads this.
    pub(super) async fn curl_with(&self, path: &str, args: &[&str], input: Vec<u8>) -> String {
        std::fs::write(self.stage.site.path("ca.pem"), &self.authority.root_pem).unwrap();
        let output = Cmd::new("curl")
            .args(["--silent", "--show-error", "--include", "--max-time", "20", "--cacert"])
            .arg(self.stage.site.path("ca.pem"))
            .args(["--resolve", &format!("{HOST}:{}:127.0.0.1", self.port)])
            .args(args)
            .arg(format!("https://{HOST}:{}{path}", self.port))
            .stdin(input)
            .run()
            .await
            .unwrap();
        String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n")
    }

    async fn refuses(&self, name: &'static str) {
        let error = self.connect(name).await.expect_err("it was let in");
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()).cloned();
        assert_eq!(tls, Some(rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)), "{name}: {error}");
    }

    /// Whether plain HTTP leads to TLS for a path of this host.
    async fn leads(&self, host: &str, path: &str) -> bool {
        let claim = "X-Forwarded-Proto: https\n";
        let answer = self.stage.ask(&format!("GET {path} HTTP/1.1\nHost: {host}\nConnection: close\n{claim}\n")).await;
        let led = answer.starts_with("HTTP/1.1 308 ");
        let at = format!("\nlocation: https://{host}:{}{path}\n", self.port);
        assert_eq!(led, answer.to_ascii_lowercase().contains(&at), "{answer}");
        led
    }
}

/// As the next daemon would have it.
fn place(lock: &Lock, wanted: &Arc<Certificates>) -> Place {
    Place {
        dir: lock.stage.site.path("flyloft"),
        instance: "abc123".to_owned(),
        domain: Domain::parse(DOMAIN).unwrap(),
        listen: Vec::new(),
        master: Master { pid_file: lock.stage.site.pid(), conf: lock.stage.site.conf() },
        secure: Some(secure(&lock.stage.site, lock.port, wanted)),
        trusted: Vec::new(),
        external: None,
        bounds: bounds(),
    }
}

fn secure(site: &NginxSite, port: u16, wanted: &Arc<Certificates>) -> SecurePlace {
    SecurePlace {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], port))],
        dir: site.path("flyloft-tls"),
        wanted: wanted.clone(),
        shown: Certificates::new().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_speaks_tls_for_all_environments_and_tells_apps_of_it() {
    let (lock, app) = (Lock::new().await, App::start(echo_head).await);
    lock.stage.route(HOST, &app).await;
    lock.show(&["*.staging.test"]).await;
    lock.straight().await;
    for (http, tls, spoken) in [("--http1.1", "1.2", "HTTP/1.1 200 "), ("--http2", "1.3", "HTTP/2 200 ")] {
        let args = [http, &format!("--tlsv{tls}"), "--tls-max", tls];
        for (accept, name) in [("*/*", "X-Forwarded-For"), ("text/event-stream", "x-forwarded-for")] {
            let claim = "X-Forwarded-Proto: http";
            let accept = format!("Accept: {accept}");
            let answer = lock.curl("/a?b", &[&args[..], &["--header", &accept, "--header", claim]].concat()).await;
            assert!(answer.starts_with(spoken) && answer.contains(&format!("\n{name}: 127.0.0.1\n")), "{answer}");
            let seen = answer.to_ascii_lowercase();
            assert!(seen.contains("\n\nget /a?b http/1.1\n"), "{answer}");
            let (port, host) = (lock.port.to_string(), format!("{HOST}:{}", lock.port));
            for (name, value) in [("proto", "https"), ("port", port.as_str()), ("host", host.as_str())] {
                let lines = seen.matches(&format!("\nx-forwarded-{name}: ")).count();
                assert!(lines == 1 && seen.contains(&format!("-{name}: {value}\n")), "{name}: {answer}");
            }
        }
    }
    lock.has_no_warning();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_a_name_of_nobody_is_refused_and_shown_no_certificate() {
    let (lock, app) = (Lock::new().await, App::start(echo_head).await);
    lock.stage.route(HOST, &app).await;
    eventually("nginx is told", || lock.stage.edge.desk.with(|plan| plan.is_so())).await;
    lock.refuses(HOST).await;
    lock.show(&["*.staging.test", "staging.test"]).await;
    // No name is asked for with an address.
    for name in ["example.org", "staging.test", "a.b.staging.test", "flyloft.invalid", "127.0.0.1"] {
        lock.refuses(name).await;
    }
    for http in ["--http1.1", "--http2"] {
        let answer = lock.curl("/", &[http, "--header", "Host: example.org"]).await;
        assert!(answer.contains(" 421 ") && !answer.contains("X-Forwarded"), "{answer}");
    }
    let old = ["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", "--verbose"];
    let address = format!("https://{HOST}:{}/", lock.port);
    let resolve = format!("{HOST}:{}:127.0.0.1", lock.port);
    let refused = Cmd::new("curl").args(["--silent", "--resolve", &resolve]).args(old).arg(address).run().await;
    let said = refused.map(drop).expect_err("it speaks TLS 1.1").tail().to_ascii_lowercase();
    assert!(said.contains("alert protocol version"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_shown_and_nobody_else_reads_their_keys() {
    let (lock, app) = (Lock::new().await, App::start(echo_head).await);
    lock.stage.route(HOST, &app).await;
    lock.show(&["*.staging.test"]).await;
    lock.show(&["*.staging.test"]).await;
    let dir = lock.stage.site.path("flyloft-tls");
    let files = || std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()).collect::<Vec<_>>();
    // And the list of them.
    eventually("the one before goes", || files().len() == 3).await;
    for file in files() {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    // A daemon that starts anew goes on with what nginx shows, also where that is not what is wanted any more.
    for wanted in [lock.certificates.clone(), Certificates::new().unwrap()] {
        let place = place(&lock, &wanted);
        assert_eq!(Offer::new(&place).tls(&place).shown.len(), 1);
        assert!(place.secure.unwrap().shown.cover(HOST));
    }
    lock.certificates.set([]);
    let begun = Instant::now();
    while lock.connect(HOST).await.is_ok() {
        assert!(begun.elapsed() < DEADLINE, "it is shown without end");
    }
    // Two of nginx's generations answer for a moment.
    eventually("nginx is told", || lock.stage.edge.desk.with(|plan| plan.is_so())).await;
    assert!(!lock.leads(HOST, "/").await);
    lock.refuses(HOST).await;
    assert!(lock.stage.ask(&get(HOST)).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_nginx_had_go_once_it_is_to_speak_tls_no_more() {
    let site = NginxSite::new("root");
    let keys = site.path("flyloft-tls");
    std::fs::create_dir(&keys).unwrap();
    std::fs::write(keys.join("star.pem.key"), "-----BEGIN PRIVATE KEY-----").unwrap();
    let mut stage = Stage::at(site, DOMAIN, "", |_| {});
    eventually("nginx is missed", || stage.edge.troubles().borrow().is_some()).await;
    assert!(keys.exists(), "an nginx that is started may go by what was there before");
    stage.start().await;
    eventually("they go", || !keys.exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_leads_plain_http_to_tls_and_wakes_nothing() {
    let mut lock = Lock::new().await;
    lock.stage.edge.set(HOST, held()).await.unwrap();
    lock.show(&["*.staging.test"]).await;
    for path in ["/a?b", "/robots.txt", "/.well-known/acme-challenge/../../secret"] {
        assert!(lock.leads(HOST, path).await, "{path}");
    }
    assert!(lock.stage.ask(&get("nobody.staging.test")).await.starts_with("HTTP/1.1 404 "));
    assert!(lock.stage.visits.try_recv().is_err(), "somebody was told of");
    // Whoever checks that a name is ours does so over plain HTTP.
    let mut client = lock.stage.connect().await;
    client.say(&format!("GET /.well-known/acme-challenge/a-token HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    tokio::time::timeout(DEADLINE, lock.stage.visits.recv()).await.unwrap().expect("it waits for the app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_tls_wakes_and_a_websocket_stays_open() {
    let mut lock = Lock::new().await;
    lock.stage.edge.set(HOST, held()).await.unwrap();
    lock.show(&["*.staging.test"]).await;
    let app = App::start(async |mut peer: Peer| {
        let head = peer.read_head().await.to_ascii_lowercase();
        let (protocol, proto) = ("\r\nupgrade: websocket\r\n", "\r\nx-forwarded-proto: https\r\n");
        assert!(head.contains(protocol) && head.contains(proto), "{head}");
        peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        // The first part of a text.
        while peer.read_until("hello").await.ends_with("hello") {
            peer.say("\x01\x05hello").await;
        }
    })
    .await;
    let mut client = lock.connect(HOST).await.unwrap();
    let asks = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    client.write_all(asks.as_bytes()).await.unwrap();
    let visit = tokio::time::timeout(DEADLINE, lock.stage.visits.recv()).await.unwrap().unwrap();
    assert_eq!(visit.by, "GET / from 127.0.0.1");
    lock.stage.route(HOST, &app).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(DEADLINE, client.read_u8()).await.unwrap().unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    for round in 0..2 {
        // A masked text.
        client.write_all(b"\x81\x85\0\0\0\0hello").await.unwrap();
        let mut frame = [0; 7];
        tokio::time::timeout(DEADLINE, client.read_exact(&mut frame)).await.unwrap().unwrap();
        assert_eq!(&frame, b"\x01\x05hello");
        if round == 0 {
            lock.stage.edge.desk.with(|plan| plan.lost());
            eventually("nginx is told anew", || lock.stage.edge.desk.with(|plan| plan.is_so())).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_one_host_name_leaves_the_others_as_they_are() {
    let (lock, app) = (Lock::new().await, App::start(echo_head).await);
    lock.stage.route(HOST, &app).await;
    lock.stage.route(OTHER_HOST, &app).await;
    let check = async |token: &str| {
        let get = get(OTHER_HOST).replace(" / ", &format!(" /.well-known/acme-challenge/{token} "));
        lock.stage.ask(&get).await
    };
    lock.stage.straight(OTHER_HOST).await;
    // Whoever checks that a name is ours is answered by flyloft, which writes the names of headers in lower case.
    assert!(check("a-token").await.contains("\nx-forwarded-for: "));
    lock.show(&[HOST]).await;
    lock.refuses(OTHER_HOST).await;
    assert!(lock.leads(HOST, "/").await && !lock.leads(OTHER_HOST, "/").await);
    // A snippet holds over TLS, where there is some, and over plain HTTP elsewhere.
    let mark = "add_header X-Shop yes always;\n";
    lock.stage.snippet("shop", mark);
    lock.stage.until_told(OTHER_HOST, "X-Shop: yes").await;
    assert!(lock.curl("/", &["--http2"]).await.contains("\nx-shop: yes\n"));
    assert!(check("a-token").await.contains("\nx-forwarded-for: "));
    for other in ["", "a/b", "a/../../../b"] {
        let answer = check(other).await;
        assert!(answer.contains("HTTP/1.1 404 ") || answer.contains("\nX-Shop: yes\n"), "{other}: {answer}");
    }
    assert!(lock.leads(HOST, "/").await && !lock.leads(OTHER_HOST, "/").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nginx_does_not_take_keeps_it_from_nothing() {
    let (lock, old, new) = (Lock::new().await, App::start(echo_head).await, named("new").await);
    lock.stage.route(HOST, &old).await;
    let first = lock.show(&["*.staging.test"]).await;
    let good = lock.certificates.all()[0].clone();
    let files =
        |name: &str| CertificateFiles { certificate: lock.stage.site.path(name), key: lock.stage.site.path(name) };
    std::fs::write(lock.stage.site.path("bad"), "-----BEGIN NOTHING-----").unwrap();
    std::fs::set_permissions(lock.stage.site.path("bad"), PermissionsExt::from_mode(0o600)).unwrap();
    let texts = Arc::new(Texts::read(&files("bad")).unwrap());
    let bad =
        Arc::new(Shown { names: good.names.clone(), validity: good.validity, config: good.config.clone(), texts });
    // With one name more than the one that nginx shows.
    let names = Names::new(["*.staging.test", "staging.test"].map(str::to_owned));
    let bad = Arc::new(Shown { names, ..Arc::into_inner(bad).unwrap() });
    lock.certificates.put(vec![bad.clone()]);
    // nginx judges it before it is told.
    lock.stage.route(HOST, &new).await;
    assert_eq!(lock.shown().await, Some(first.pair().certified.cert.clone()));
    assert!(lock.curl("/", &["--http2"]).await.ends_with("\n\nnew"));
    let said = || matches!(&*lock.stage.edge.troubles().borrow(), Some(Trouble::Certificate(..)));
    eventually("it is told of", said).await;
    let noted = || std::fs::read_to_string(lock.stage.site.path("flyloft").join(files::REFUSED_TLS));
    assert!(noted().unwrap().starts_with("nginx does not take the certificate for "));
    // Nothing of it is left that the next daemon would take for what nginx shows.
    let place = place(&lock, &lock.certificates);
    let all: Vec<_> = Offer::new(&place).tls(&place).shown.iter().map(|shown| shown.file.clone()).collect();
    assert_eq!(all, [format!("{}.pem", first.pair().texts.mark())]);
    assert!(!place.secure.as_ref().unwrap().dir.join(format!("{}.pem", bad.texts.mark())).exists());
    // Others keep nginx from its configuration meanwhile.
    let second = lock.authority.issue(&["*.staging.test"]);
    let dir = lock.stage.site.path("flyloft");
    lock.stage.site.configure("lisen 80;");
    lock.certificates.set([&second.pair()]);
    assert!(lock.stage.edge.set(HOST, route(Target::Upstream(old.address))).await.is_err());
    assert_eq!(lock.shown().await, Some(first.pair().certified.cert.clone()));
    lock.stage.site.configure(&format!("include {}/flyloft.conf;", dir.display()));
    lock.shows(&second).await;
    assert!(noted().is_err(), "nothing is refused any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_copied_is_told_of_and_shown_as_soon_as_it_can() {
    let (lock, app) = (Lock::new().await, App::start(echo_head).await);
    lock.stage.route(HOST, &app).await;
    let first = lock.show(&["*.staging.test"]).await;
    let (dir, aside) = (lock.stage.site.path("flyloft-tls"), lock.stage.site.path("aside"));
    // Root may write to whatever is a directory.
    std::fs::rename(&dir, &aside).unwrap();
    std::fs::write(&dir, "in the way").unwrap();
    let second = lock.authority.issue(&["*.staging.test"]);
    lock.certificates.set([&second.pair()]);
    let trouble = || lock.stage.edge.troubles().borrow().clone();
    eventually("it is told of", || matches!(trouble(), Some(Trouble::Uncopied(..)))).await;
    let said = trouble().unwrap().to_string();
    assert!(
        said.ends_with(&format!("failed to write its copy in `{}`: File exists (os error 17)", dir.display())),
        "{said}"
    );
    let noted = std::fs::read_to_string(lock.stage.site.path("flyloft").join(files::REFUSED_TLS)).unwrap();
    assert_eq!(noted, said);
    assert_eq!(lock.shown().await, Some(first.pair().certified.cert.clone()), "the one before is shown on");
    std::fs::remove_file(&dir).unwrap();
    std::fs::rename(&aside, &dir).unwrap();
    lock.shows(&second).await;
    eventually("nothing is wrong any more", || trouble().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_was_refused_and_is_wanted_no_more_is_told_of_no_more() {
    let (lock, app) = (Lock::new().await, App::start(echo_head).await);
    lock.stage.route(HOST, &app).await;
    lock.show(&["*.staging.test"]).await;
    let good = lock.certificates.all().to_vec();
    let texts = Arc::new(Texts::new("-----BEGIN NOTHING-----", "-----BEGIN NOTHING-----"));
    let Shown { names, validity, config, .. } = &*good[0];
    let bad = Shown { names: names.clone(), validity: *validity, config: config.clone(), texts };
    lock.certificates.put(vec![Arc::new(bad)]);
    let trouble = || lock.stage.edge.troubles().borrow().clone();
    eventually("it is told of", || matches!(trouble(), Some(Trouble::Certificate(..)))).await;
    // nginx goes by what is wanted now already, and is told nothing.
    lock.certificates.put(good);
    eventually("nothing is wrong any more", || trouble().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_removed_or_nginx_does_not_take_any_more_keeps_it_from_nothing_for_long() {
    let (lock, old, new) = (Lock::new().await, App::start(echo_head).await, named("new").await);
    lock.stage.route(HOST, &old).await;
    let first = lock.show(&["*.staging.test"]).await;
    let file = lock.stage.site.path("flyloft-tls").join(format!("{}.pem", first.pair().texts.mark()));
    std::fs::remove_file(&file).unwrap();
    lock.stage.route(HOST, &new).await;
    assert!(file.exists() && lock.curl("/", &["--http2"]).await.ends_with("\n\nnew"));
    std::fs::write(&file, "-----BEGIN NOTHING-----").unwrap();
    lock.stage.route(HOST, &old).await;
    assert!(lock.stage.ask(&get(HOST)).await.starts_with("HTTP/1.1 200 "), "it goes on without");
    let second = lock.authority.issue(&["*.staging.test"]);
    lock.certificates.set([&second.pair()]);
    lock.shows(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_site_leaves_no_room_for_tls_there_is_none_and_nothing_else_is_missing() {
    // A port where the site speaks plain HTTP.
    let lock =
        Lock::beside(&format!("server {{ listen 127.0.0.1:PORT; location / {{ return 200 \"{OTHER}\"; }} }}")).await;
    let app = App::start(echo_head).await;
    let issued = lock.authority.issue(&["*.staging.test"]);
    lock.certificates.set([&issued.pair()]);
    lock.stage.route(HOST, &app).await;
    assert!(lock.stage.ask(&get(HOST)).await.starts_with("HTTP/1.1 200 "));
    let said = || matches!(&*lock.stage.edge.troubles().borrow(), Some(Trouble::NoTls(_)));
    eventually("it is told of", said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_speaks_tls_at_the_same_port_keeps_its_names_and_its_default() {
    let stranger = Authority::root("Stranger").issue(&["other.test"]);
    let dir = tempfile::tempdir().unwrap();
    let files = stranger.files(dir.path(), "other");
    let (certificate, key) = (files.certificate.display(), files.key.display());
    for default in ["", "default_server"] {
        let lock = Lock::beside(&format!(
            "server {{ listen 127.0.0.1:PORT ssl {default}; server_name other.test; ssl_certificate {certificate}; \
             ssl_certificate_key {key}; location / {{ return 200 \"{OTHER}\"; }} }}"
        ))
        .await;
        lock.show(&["*.staging.test"]).await;
        let is_stranger = async |name: &'static str| {
            let error = lock.connect(name).await.expect_err("its issuer is a stranger");
            assert!(error.to_string().contains("UnknownIssuer"), "{error}");
        };
        is_stranger("other.test").await;
        match default {
            "" => lock.refuses("nobody.test").await,
            _ => is_stranger("nobody.test").await,
        }
        // Where HTTP/2 is the address's it is up to the site, and where it is a server's, nothing of the site's has it from us.
        let spoken =
            lock.offer(HOST, &["h2", "http/1.1"]).await.unwrap().get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let wanted = if has_http2_of_servers().await { "h2" } else { "http/1.1" };
        assert_eq!(spoken.as_deref(), Some(wanted.as_bytes()));
        let theirs = Cmd::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--insecure",
                "--http2",
                "--max-time",
                "20",
                "--write-out",
                " %{http_version}",
            ])
            .args(["--resolve", &format!("other.test:{}:127.0.0.1", lock.port)])
            .arg(format!("https://other.test:{}/", lock.port));
        let theirs = theirs.run().await.unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&theirs), format!("{OTHER} 1.1"));
        lock.has_no_warning();
    }
}

/// Whether the nginx here is of a version that has HTTP/2 as something of each server's.
async fn has_http2_of_servers() -> bool {
    let said = Cmd::new("nginx").arg("-v").run().await.unwrap().stderr;
    !String::from_utf8_lossy(&said).contains("nginx/1.22.")
}
