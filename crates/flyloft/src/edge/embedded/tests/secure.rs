//! TLS, as curl and rustls speak it: who is shown which certificate, and where plain HTTP is led.

use std::io::ErrorKind;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::edge::embedded::SecureConfig;
use crate::exec::Cmd;
use crate::tls::trial::{self, Authority};
use crate::tls::{Certificates, Pair, pair, trust};

/// An edge with TLS, and who has issued what it shows.
pub(super) struct Lock {
    pub(super) stage: Stage,
    certificates: Arc<Certificates>,
    authority: Authority,
    pub(super) client: Arc<ClientConfig>,
}

impl Lock {
    fn new(names: &[&str]) -> Self {
        Self::with(names, |_| {})
    }

    pub(super) fn with(names: &[&str], change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let authority = Authority::root("Root");
        let certificates = Certificates::new().unwrap();
        certificates.set([&authority.issue(names).pair()]);
        let stage = Stage::with(|config| {
            config.secure = Some(secure(&certificates));
            change(config);
        });
        let client = Arc::new(client(&authority));
        Self { stage, certificates, authority, client }
    }

    pub(super) async fn app<F>(mut self, serve: impl Fn(Peer) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.stage = self.stage.app(serve).await;
        self
    }

    pub(super) fn port(&self) -> u16 {
        self.stage.edge.secure_addresses()[0].port()
    }

    async fn connect(&self, name: &'static str) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.port(), name, &self.client).await
    }

    /// What curl prints for this path of `shop.test`.
    pub(super) async fn curl(&self, path: &str, args: &[&str]) -> String {
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&ca, &self.authority.root_pem).unwrap();
        let output = Cmd::new("curl")
            .args(["--silent", "--show-error", "--include", "--max-time", "20", "--cacert"])
            .arg(ca.path())
            .args(["--resolve", &format!("shop.test:{}:127.0.0.1", self.port())])
            .args(args)
            .arg(format!("https://shop.test:{}{path}", self.port()))
            .run()
            .await
            .unwrap();
        text(output.stdout).replace("\r\n", "\n")
    }
}

fn secure(certificates: &Arc<Certificates>) -> SecureConfig {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    SecureConfig { listen, inherited: Vec::new(), certificates: certificates.clone() }
}

fn client(authority: &Authority) -> ClientConfig {
    trust::client(authority.roots())
}

pub(super) async fn connect(
    port: u16,
    name: &'static str,
    client: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    in_time(TlsConnector::from(client.clone()).connect(ServerName::try_from(name).unwrap(), stream)).await
}

/// The answer to one request, which is the last one of its connection.
async fn asked(mut stream: TlsStream<TcpStream>, host: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    in_time(stream.read_to_end(&mut answer)).await.unwrap();
    text(answer).replace("\r\n", "\n")
}

#[tokio::test]
async fn a_request_over_tls_reaches_the_app_by_each_version_of_tls_and_http() {
    let lock = Lock::new(&["shop.test"]).app(echo_head).await;
    for (http, spoken) in [("--http1.1", "HTTP/1.1 200 OK\n"), ("--http2", "HTTP/2 200 \n")] {
        for tls in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
            let args = [&[http, "--user-agent", "x"][..], &tls].concat();
            let answer = lock.curl("/a?b", &args).await;
            assert!(answer.starts_with(spoken), "{args:?}: {answer}");
            let seen = answer.split_once("\n\n").unwrap().1.replace(&lock.port().to_string(), "PORT");
            assert_eq!(
                seen,
                "GET /a?b HTTP/1.1\nhost: shop.test:PORT\nuser-agent: x\naccept: */*\nx-forwarded-port: PORT\n\
                 x-forwarded-for: 127.0.0.1\nx-forwarded-proto: https\nx-forwarded-host: shop.test:PORT\n\n"
            );
        }
    }
    let answer = asked(lock.connect("shop.test").await.unwrap(), "shop.test").await;
    assert!(answer.contains("\nx-forwarded-port: 443\n"), "{answer}");
}

#[tokio::test]
async fn no_weak_cipher_is_spoken() {
    let lock = Lock::new(&["shop.test"]);
    trial::must_speak_well(lock.port(), "shop.test", trial::CIPHERS[0]).await;
    lock.certificates.set([&lock.authority.issue_rsa(&["shop.test"]).await.pair()]);
    trial::must_speak_well(lock.port(), "shop.test", trial::CIPHERS[1]).await;
}

#[tokio::test]
async fn who_asks_for_no_name_or_for_that_of_nobody_is_refused_and_shown_no_certificate() {
    let lock = Lock::new(&["shop.test", "*.shop.test"]).app(echo_head).await;
    let refused = async |name: &'static str, client: ClientConfig| {
        let error = connect(lock.port(), name, &Arc::new(client)).await.expect_err("it was let in");
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()).cloned();
        assert_eq!(tls, Some(rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)), "{name}: {error}");
    };
    refused("shop.example", client(&lock.authority)).await;
    refused("a.b.shop.test", client(&lock.authority)).await;
    let mut nameless = client(&lock.authority);
    nameless.enable_sni = false;
    refused("shop.test", nameless).await;
    lock.certificates.set([]);
    refused("shop.test", client(&lock.authority)).await;
}

#[tokio::test]
async fn the_name_that_is_asked_for_chooses_the_certificate() {
    let lock = Lock::new(&["shop.test"]);
    let (wild, whole) = (lock.authority.issue(&["*.shop.test"]).pair(), lock.authority.issue(&["a.shop.test"]).pair());
    lock.certificates.set([&wild, &whole]);
    let is_shown = async |name: &'static str, pair: &Pair| {
        let stream = lock.connect(name).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates(), Some(&pair.certified.cert[..]), "{name}");
    };
    is_shown("a.shop.test", &whole).await;
    is_shown("b.shop.test", &wild).await;
    is_shown("A.Shop.test", &whole).await;
}

#[tokio::test]
async fn a_request_for_another_name_than_the_certificate_s_is_misdirected() {
    let lock = Lock::new(&["shop.test", "more.test"]).app(echo_head).await;
    let ask = async |host: &str| asked(lock.connect("shop.test").await.unwrap(), host).await;
    assert!(ask("Shop.test").await.starts_with("HTTP/1.1 200 "));
    assert!(ask("more.test").await.starts_with("HTTP/1.1 404 "), "it is for nobody, and it is ours");
    let answer = ask("other.test").await;
    assert!(answer.starts_with("HTTP/1.1 421 Misdirected Request\n"), "{answer}");
    assert!(lock.curl("/", &["--http2", "--header", "Host: other.test"]).await.starts_with("HTTP/2 421 \n"));
}

#[tokio::test]
async fn plain_http_leads_to_tls_and_wakes_nothing() {
    let (visits, mut visitors) = mpsc::unbounded_channel();
    let lock = Lock::with(&["shop.test", "nobody.test"], |config| config.visits = Some(visits));
    let (stage, port) = (&lock.stage, lock.port());
    stage.hold("shop.test", None).await;
    stage.hold("shop.example", None).await;
    for (request, at) in [
        ("GET /a/b?c=d&e HTTP/1.1\nHost: Shop.test:80\n\n", "/a/b?c=d&e"),
        ("POST / HTTP/1.1\nHost: shop.test\nContent-Length: 5\n\nhello", "/"),
        ("GET http://shop.test?c HTTP/1.1\nHost: shop.test\n\n", "/?c"),
        ("OPTIONS * HTTP/1.1\nHost: shop.test\n\n", "/"),
        ("GET //evil.example/ HTTP/1.1\nHost: shop.test\n\n", "//evil.example/"),
        ("GET /robots.txt HTTP/1.1\nHost: shop.test\n\n", "/robots.txt"),
        (
            "GET /.well-known/acme-challenge/../../a HTTP/1.1\nHost: shop.test\n\n",
            "/.well-known/acme-challenge/../../a",
        ),
    ] {
        let answer = stage.ask(request).await;
        assert!(answer.starts_with("HTTP/1.1 308 Permanent Redirect\n"), "{request}: {answer}");
        assert!(answer.contains(&format!("\nlocation: https://shop.test:{port}{at}\n")), "{request}: {answer}");
        assert!(!answer.contains("strict-transport-security"), "{answer}");
    }
    assert!(stage.ask("GET / HTTP/1.1\nHost: nobody.test\n\n").await.starts_with("HTTP/1.1 404 "));
    assert!(visitors.try_recv().is_err(), "somebody was told of");
    // Whoever checks that a name is ours does so over plain HTTP, and where there is no certificate there is no TLS.
    for (target, host) in [("/.well-known/acme-challenge/token", "shop.test"), ("/", "shop.example")] {
        let mut client = stage.connect().await;
        client.say(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        in_time(visitors.recv()).await.expect("it waits for the app");
    }
}

#[tokio::test]
async fn whoever_checks_that_a_name_is_ours_is_answered_and_wakes_nobody() {
    let (visits, mut visitors) = mpsc::unbounded_channel();
    let answers = Arc::<crate::tls::Answers>::default();
    let told = answers.clone();
    let lock = Lock::with(&["shop.test"], move |config| (config.visits, config.answers) = (Some(visits), told));
    let stage = &lock.stage;
    stage.hold("shop.test", None).await;
    answers.set("shop.test", "a-token", "a-token.and-a-key");
    let get = |host: &str, token: &str| {
        format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\nHost: {host}\nAccept: text/html\n\n")
    };
    let answer = stage.ask(&get("Shop.test", "a-token")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\n\na-token.and-a-key"), "{answer}");
    assert!(stage.ask(&get("other.test", "a-token")).await.starts_with("HTTP/1.1 404 "));
    assert!(visitors.try_recv().is_err(), "somebody was told of");
    answers.forget("shop.test");
    let mut client = stage.connect().await;
    client.say(&get("shop.test", "a-token").replace('\n', "\r\n")).await;
    in_time(visitors.recv()).await.expect("it waits for the app");
}

#[tokio::test]
async fn a_client_comes_back_without_a_whole_handshake_though_certificates_have_changed() {
    let lock = Lock::new(&["shop.test"]).app(echo_head).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut roots = RootCertStore::empty();
        roots.add(lock.authority.root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(pair::provider()).with_protocol_versions(&[version]).unwrap();
        let mut client = builder.with_root_certificates(roots).with_no_client_auth();
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        let come = async || {
            let mut stream = connect(lock.port(), "shop.test", &client).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").await.unwrap();
            in_time(stream.read_to_end(&mut Vec::new())).await.unwrap();
            stream.get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(come().await, HandshakeKind::Full);
        lock.certificates.set([&lock.authority.issue(&["shop.test"]).pair()]);
        assert_eq!(come().await, HandshakeKind::Resumed, "{version:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let lock = Lock::with(&["shop.test"], |config| config.limits.handshake = Duration::from_millis(100));
    // The beginning of a record, and none at all; and somebody who does not speak TLS.
    for said in [&[22, 3, 1, 1][..], &[], b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"] {
        let mut stream = TcpStream::connect(("127.0.0.1", lock.port())).await.unwrap();
        stream.write_all(said).await.unwrap();
        match in_time(stream.read_to_end(&mut Vec::new())).await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    // Whoever says a little now and then is given no more time: this hello would go on for 16 KiB.
    let mut stream = TcpStream::connect(("127.0.0.1", lock.port())).await.unwrap();
    stream.write_all(&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc]).await.unwrap();
    let mut said = 0;
    while tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0])).await.is_err() {
        assert!(said < 2_000, "it may take its time");
        said += stream.write(&[0]).await.unwrap_or(0);
    }
}

#[tokio::test]
async fn bodies_pass_over_tls_in_both_directions() {
    const SIZE: usize = 16 << 20;
    let lock = Lock::new(&["shop.test"])
        .app(async |mut peer: Peer| {
            let head = peer.read_head().await;
            assert!(head.contains(&format!("\r\ncontent-length: {SIZE}\r\n")), "{head}");
            let body = peer.read_exact(SIZE).await;
            peer.reply(&body).await;
        })
        .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, vec![b'x'; SIZE]).unwrap();
    for http in ["--http1.1", "--http2"] {
        let data = format!("@{}", file.path().display());
        let answer = lock.curl("/", &[http, "--header", "Expect:", "--data-binary", &data]).await;
        let (_, body) = answer.split_once("\n\n").unwrap();
        assert!(body.len() == SIZE && body.bytes().all(|byte| byte == b'x'), "{http}: {} bytes", body.len());
    }
}

#[tokio::test]
async fn a_connection_over_tls_switches_protocols() {
    let lock = Lock::new(&["shop.test"])
        .app(async |mut peer: Peer| {
            peer.read_head().await;
            peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nwelcome\n").await;
            let line = peer.read_until("\n").await;
            peer.say(&line).await;
        })
        .await;
    let mut stream = lock.connect("shop.test").await.unwrap();
    let ask = b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    stream.write_all(b"hello\n").await.unwrap();
    let mut said = Vec::new();
    in_time(stream.read_to_end(&mut said)).await.unwrap();
    let said = text(said);
    assert!(said.starts_with("HTTP/1.1 101 ") && said.ends_with("\r\n\r\nwelcome\nhello\n"), "{said}");
}

#[tokio::test]
async fn an_answer_over_tls_that_nobody_takes_ends_at_the_app() {
    let (ended, mut end) = mpsc::unbounded_channel();
    let lock = Lock::with(&["shop.test"], |config| config.limits.take = Duration::from_millis(100))
        .app(move |mut peer: Peer| {
            let ended = ended.clone();
            async move {
                peer.read_head().await;
                peer.say("HTTP/1.1 200 OK\r\n\r\n").await;
                while peer.stream.write_all(&[b'x'; 1 << 14]).await.is_ok() {}
                ended.send(()).unwrap();
            }
        })
        .await;
    let mut stream = lock.connect("shop.test").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await.unwrap();
    in_time(end.recv()).await.unwrap();
}

#[tokio::test]
async fn a_successor_takes_the_sockets_of_tls_over() {
    let old = Lock::new(&["shop.test"]).app(echo_head).await;
    let (plain, encrypted) = (old.stage.address(), old.stage.edge.secure_addresses().to_vec());
    let new = Stage::with(|config| {
        config.listen = vec![plain];
        config.inherited = old.stage.edge.listeners().unwrap();
        config.secure = Some(SecureConfig {
            listen: encrypted.clone(),
            inherited: old.stage.edge.secure_listeners().unwrap(),
            certificates: old.certificates.clone(),
        });
    });
    let new = new.app(echo_head).await;
    assert_eq!(new.edge.secure_addresses(), encrypted);
    old.stage.edge.shutdown(Duration::ZERO).await;
    for _ in 0..20 {
        let answer = asked(old.connect("shop.test").await.unwrap(), "shop.test").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
