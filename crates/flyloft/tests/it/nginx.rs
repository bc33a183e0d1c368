//! nginx as the edge: everything that the embedded one does, by way of a real nginx.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant};

use crate::harness::{Flyloft, text, wait_for};
use crate::inside::{self, Doors};
use crate::nginx_site::{NginxSite, OTHER};
use crate::own_server::free_port;
use crate::push::borrowed;
use crate::tls;

/// An app that answers with its version, and a `POST` with how much came.
const SERVER: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    def do_GET(self):
        if self.path == "/way":
            return self.answer(" ".join(self.headers.keys()))
        self.answer(VERSION + " " + self.headers.get("X-Forwarded-For", ""))
    def do_POST(self):
        got = 0
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                got += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            got = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(f"{VERSION} got {got}")
    def log_message(self, *args):
        pass

ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn app(version: &str) -> Vec<(&'static str, String)> {
    vec![
        ("Procfile", "web: python3 server.py\n".to_owned()),
        ("requirements.txt", String::new()),
        ("server.py", format!("VERSION = {version:?}\n{SERVER}")),
    ]
}

/// A daemon with an nginx as its edge.
struct Behind {
    flyloft: Flyloft,
    site: NginxSite,
}

impl Behind {
    fn start() -> Self {
        let mut flyloft = Flyloft::start();
        flyloft.stop();
        let site = NginxSite::new("www-data");
        flyloft.listen = format!("[::]:{}", site.port);
        std::fs::create_dir(site.path("apps")).unwrap();
        flyloft.config = site.edge() + &format!("snippets = {:?}\n", site.path("apps"));
        flyloft.serve();
        let mut behind = Self { flyloft, site };
        behind.site.configure(&format!("include {};", behind.file()));
        behind.site.start();
        behind
    }

    /// What the site includes.
    fn file(&self) -> String {
        self.flyloft.state.join("nginx/flyloft.conf").display().to_string()
    }

    /// Waits until nginx has been told that this goes straight, or that it does not.
    fn straight(&self, env: &str, wanted: bool) {
        let line = format!("    {}.localhost ", env.replace('/', "-"));
        let is_straight = || std::fs::read_to_string(self.file()).unwrap().contains(&line);
        wait_for("nginx to be told", || (is_straight() == wanted).then_some(()));
    }

    fn state(&self, env: &str) -> String {
        let shown: serde_json::Value = serde_json::from_str(&self.flyloft.ok(&["show", env, "--json"])).unwrap();
        shown["state"].as_str().unwrap_or_default().to_owned()
    }

    fn down(&self, how: &str, env: &str) {
        self.flyloft.ok(&[how, env]);
        wait_for("it to go down", || (self.state(env) != "awake").then_some(()));
    }

    fn post(&self, env: &str, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.site.port)).unwrap();
        let host = format!("{}.localhost", env.replace('/', "-"));
        write!(stream, "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn an_environment_behind_nginx_is_deployed_sleeps_wakes_and_goes() {
    let behind = Behind::start();
    let flyloft = &behind.flyloft;
    let (one, env) = (flyloft.repository("it-nginx", &borrowed(&app("one"))), "it-nginx/main");
    let output = one.pushed(&["main"]);
    assert!(output.contains(&format!("remote: http://it-nginx-main.localhost:{}", behind.site.port)), "{output}");
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        assert_eq!(flyloft.get_from(SocketAddr::new(ip, behind.site.port), env, "/").body, format!("one {ip}"));
    }
    behind.straight(env, true);
    for version in ["two", "three"] {
        one.commit(&borrowed(&app(version)));
        one.pushed(&["main"]);
        assert_eq!(flyloft.get(env, "/").body, format!("{version} 127.0.0.1"));
        behind.straight(env, true);
    }
    for how in ["sleep", "off"] {
        behind.down(how, env);
        behind.straight(env, false);
        let got = behind.post(env, "Content-Length: 5", "hello");
        assert!(got.ends_with("three got 5"), "{how}: {got}");
        let woken =
            wait_for("a record", || Some(flyloft.why(env)["woken"].take()).filter(|woken| woken["failure"].is_null()));
        assert!(woken["by"].as_str().unwrap().starts_with("POST / from 127.0.0.1"), "{woken}");
        behind.straight(env, true);
    }
    behind.down("sleep", env);
    let got = behind.post(env, "Transfer-Encoding: chunked", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    assert!(got.ends_with("three got 11"), "{got}");
    let doctor = flyloft.doctor();
    assert!(doctor.contains("ok       nginx: it runs, and reads `"), "{doctor}");

    // Lines of an administrator's for the app, of which nginx does not know the first.
    let (snippet, unknown) = (behind.site.path("apps/it-nginx.conf"), format!("it_{}", std::process::id()));
    std::fs::write(&snippet, format!("{unknown} on;\n")).unwrap();
    let refused = || flyloft.told("it-nginx", "snippet-refused").into_iter().find(|text| text.contains(&unknown));
    let refused = wait_for("people to be told", refused);
    assert!(refused.starts_with("nginx does not follow the snippet of `it-nginx`: unknown directive "), "{refused}");
    assert_eq!(flyloft.get(env, "/").body, "three 127.0.0.1");
    std::fs::write(&snippet, "add_header X-Snippet yes;\n").unwrap();
    wait_for("nginx to follow it", || flyloft.get(env, "/").head.contains("X-Snippet: yes").then_some(()));

    flyloft.ok(&["destroy", "it-nginx", "--yes"]);
    behind.straight(env, false);
    assert_eq!(flyloft.get(env, "/").status, 404);
}

#[test]
fn what_is_awake_behind_nginx_is_reached_while_no_daemon_runs() {
    let mut behind = Behind::start();
    let env = "it-nginx-alone/main";
    behind.flyloft.repository("it-nginx-alone", &borrowed(&app("one"))).pushed(&["main"]);
    behind.straight(env, true);
    assert_eq!(behind.flyloft.get(env, "/").body, "one 127.0.0.1");
    // It is written before nginx has read it. flyloft writes the names of headers in lower case.
    let goes_straight = || behind.flyloft.get(env, "/way").body.contains("X-Forwarded-For");
    wait_for("nginx to go straight", || goes_straight().then_some(()));
    behind.flyloft.kill();
    assert_eq!(behind.flyloft.get(env, "/").body, "one 127.0.0.1");
    behind.flyloft.serve();
    assert_eq!(behind.flyloft.get(env, "/").body, "one 127.0.0.1");
    behind.down("sleep", env);
    assert_eq!(behind.flyloft.get(env, "/").body, "one 127.0.0.1");

    // nginx may be killed as well, and somebody starts it again.
    behind.site.kill();
    wait_for("people to be told", || (!behind.flyloft.told("it-nginx-alone", "edge-failed").is_empty()).then_some(()));
    assert!(behind.flyloft.doctor().contains("problem  nginx: it does not run"));
    behind.site.start();
    wait_for("people to be told", || (!behind.flyloft.told("it-nginx-alone", "edge-works").is_empty()).then_some(()));
    assert_eq!(behind.flyloft.get(env, "/").body, "one 127.0.0.1");
    behind.flyloft.ok(&["destroy", "it-nginx-alone", "--yes"]);
}

/// How long it takes at most, on a slow machine as well, until an edge answers that takes the other one's place.
const GAP: Duration = Duration::from_secs(10);

/// The longest time in which nobody answered for this host, while something went on.
fn gap<T>(port: u16, host: &str, goes_on: impl FnOnce() -> T) -> (T, Duration) {
    let answers = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(GAP)).ok()?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200 ").then_some(())
    };
    std::thread::scope(|scope| {
        let (going_on, goes) = mpsc::channel::<()>();
        let asks = scope.spawn(move || {
            let (mut answered, mut longest) = (Instant::now(), Duration::ZERO);
            // Until it has been answered once more after the end.
            loop {
                let is_over = goes.try_recv() == Err(TryRecvError::Disconnected);
                let is_answered = answers().is_some();
                longest = longest.max(answered.elapsed());
                if is_answered {
                    answered = Instant::now();
                }
                if is_over && (is_answered || longest > 2 * GAP) {
                    return longest;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let result = goes_on();
        drop(going_on);
        (result, asks.join().unwrap())
    })
}

#[test]
fn an_edge_takes_the_other_s_place_and_every_environment_stays_reachable() {
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    let mut site = NginxSite::new("www-data");
    flyloft.listen = format!("[::]:{}", site.port);
    flyloft.serve();
    let (env, other) = ("it-nginx-switch/main", "it-nginx-switch/other");
    flyloft.repository("it-nginx-switch", &borrowed(&app("one"))).pushed(&["main", "main:other"]);
    let hosts = [env, other].map(|env| format!("{}.localhost", env.replace('/', "-")));
    let dir = flyloft.state.join("nginx");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("flyloft.conf"), "").unwrap();
    site.configure(&format!("include {}/flyloft.conf;", dir.display()));
    site.start();
    let embedded = site.edge().replace("kind = \"nginx\"", "kind = \"embedded\"");
    for (config, is_nginx) in [(site.edge(), true), (embedded, false), (site.edge(), true)] {
        flyloft.configure(&config);
        flyloft.ok(&["sleep", other]);
        let (answer, gap) = gap(site.port, &hosts[0], || {
            let upgraded = flyloft.cli(&["upgrade"]);
            assert!(upgraded.status.success(), "{}\n{}", text(&upgraded), flyloft.log());
            wait_for("an answer", || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).ok()?;
                Some(flyloft.get(env, "/"))
            })
        });
        eprintln!("nobody answered for {gap:?}; nginx is the edge: {is_nginx}");
        assert!(gap < GAP, "nobody answered for {gap:?}\n{}", flyloft.log());
        assert_eq!(answer.body, "one 127.0.0.1");
        assert_eq!(answer.head.contains("Server: nginx"), is_nginx, "{}", answer.head);
        assert_eq!(flyloft.get(other, "/").body, "one 127.0.0.1", "it slept meanwhile");
        flyloft.ok(&["sleep", env]);
        assert_eq!(flyloft.get(env, "/").body, "one 127.0.0.1");
        flyloft.ok(&["sleep", other]);
        let doors = Doors { plain: site.port, secure: None };
        inside::must_reach(&flyloft, env, &[&hosts[0], &hosts[1]], &doors, "one ");
    }
    let mut other = TcpStream::connect((Ipv4Addr::LOCALHOST, site.other)).unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(OTHER), "{answer}");
    flyloft.ok(&["destroy", "it-nginx-switch", "--yes"]);
}

#[test]
fn an_nginx_that_would_bring_nobody_here_does_not_take_the_place_of_an_edge_that_serves() {
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    let (mut site, elsewhere) = (NginxSite::new("www-data"), free_port());
    flyloft.listen = format!("[::]:{}", site.port);
    flyloft.serve();
    let line = format!("include {}/nginx/flyloft.conf;", flyloft.state.display());
    let within = format!("server {{ listen 127.0.0.1:{elsewhere}; {line} }}");
    site.configure(&line);
    flyloft.configure(&site.edge());
    let refused = |why: &str| {
        let upgraded = flyloft.cli(&["upgrade"]);
        let said = text(&upgraded);
        let is_told = said.contains("nginx cannot take the place of the edge that serves now: ") && said.contains(why);
        assert!(!upgraded.status.success() && is_told, "{why}: {said}");
        let still = flyloft.get("it-nginx-nobody/main", "/");
        assert!(still.status == 404 && !still.head.contains("Server: nginx"), "{why}: {}", still.head);
    };
    refused("it does not run: there is no process of it in ");
    site.start();
    for (lines, why) in [
        ("lisen 80;", "unknown directive \"lisen\""),
        ("", "its configuration does not include "),
        // What says nothing so far is right anywhere.
        (within.as_str(), "\"upstream\" directive is not allowed here"),
    ] {
        site.configure(lines);
        refused(why);
    }
    site.configure(&line);
    flyloft.configure(&site.edge().replace("user = \"www-data\"", "user = \"nobody\""));
    refused("its workers run as `www-data`, who may not connect to flyloft");
    flyloft.configure(&site.edge());
    let upgraded = flyloft.cli(&["upgrade"]);
    assert!(upgraded.status.success(), "{}\n{}", text(&upgraded), flyloft.log());
    wait_for("nginx to serve", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).ok()?;
        flyloft.get("it-nginx-nobody/main", "/").head.contains("Server: nginx").then_some(())
    });
    // Where it is the edge already, what has become of it keeps nobody from a newer version.
    site.configure("lisen 80;");
    let upgraded = flyloft.cli(&["upgrade"]);
    assert!(upgraded.status.success(), "{}\n{}", text(&upgraded), flyloft.log());
}

/// A directory with all programs of this machine in it but for one.
fn all_but(program: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // Not all of them run as root.
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    for from in ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
            let link = dir.path().join(entry.file_name());
            if entry.file_name() != program && link.symlink_metadata().is_err() {
                symlink(entry.path(), link).unwrap();
            }
        }
    }
    dir
}

#[test]
fn a_daemon_whose_nginx_is_not_installed_takes_pushes_and_has_it_serve_when_it_is_there() {
    let mut flyloft = Flyloft::start();
    let (app_name, env) = ("it-nginx-missing", "it-nginx-missing/main");
    flyloft.ok(&["apps", "create", app_name]);
    flyloft.stop();
    let (mut site, programs) = (NginxSite::new("www-data"), all_but("nginx"));
    flyloft.listen = format!("[::]:{}", site.port);
    flyloft.config = site.edge();
    flyloft.serve_with(|command| {
        command.env("PATH", programs.path());
    });
    flyloft.repository(app_name, &borrowed(&app("one"))).pushed(&["main"]);
    let told = wait_for("people to be told", || flyloft.told(app_name, "edge-failed").pop());
    assert_eq!(told, "nginx does not run: it is not installed; `flyloft doctor` says what to do");
    let upgraded = flyloft.cli(&["upgrade"]);
    assert!(!upgraded.status.success() && text(&upgraded).contains("`nginx` is not installed"), "{}", text(&upgraded));

    symlink("/usr/sbin/nginx", programs.path().join("nginx")).unwrap();
    site.configure(&format!("include {}/nginx/flyloft.conf;", flyloft.state.display()));
    site.start();
    wait_for("people to be told", || flyloft.told(app_name, "edge-works").pop());
    let answer = flyloft.get(env, "/");
    assert!(answer.body == "one 127.0.0.1" && answer.head.contains("Server: nginx"), "{}", answer.head);
    flyloft.ok(&["destroy", app_name, "--yes"]);
}

#[test]
fn an_environment_is_reached_over_tls_whichever_edge_speaks_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    let (mut site, https, host) = (NginxSite::new("www-data"), free_port(), "it-nginx-tls-main.staging.localhost");
    flyloft.domain = tls::DOMAIN;
    flyloft.listen = format!("[::]:{}", site.port);
    let secure = format!("[https]\nlisten = [\"[::]:{https}\"]\n{}", tls::certificate(dir.path()));
    let nginx = format!("domain = {:?}\n{secure}{}", tls::DOMAIN, site.edge());
    flyloft.config = nginx.clone();
    flyloft.serve();
    site.configure(&format!("include {}/nginx/flyloft.conf;", flyloft.state.display()));
    site.start();
    let output = flyloft.repository("it-nginx-tls", &borrowed(&app("one"))).pushed(&["main", "main:other"]);
    assert!(output.contains(&format!("remote: https://{host}:{https}")), "{output}");
    let (ca, keys) = (dir.path().join("cert.pem"), flyloft.state.join("nginx-tls"));
    let embedded = nginx.replace("kind = \"nginx\"", "kind = \"embedded\"");
    for (config, is_nginx) in [(&nginx, true), (&embedded, false), (&nginx, true)] {
        flyloft.configure(config);
        let upgraded = flyloft.cli(&["upgrade"]);
        assert!(upgraded.status.success(), "{}\n{}", text(&upgraded), flyloft.log());
        wait_for("somebody to speak TLS", || tls::speaks(host, https).then_some(()));
        for (args, status) in [(["--http2", "--ipv4"], "HTTP/2 200 "), (["--http1.1", "--ipv6"], "HTTP/1.1 200 ")] {
            let answer = tls::curl_at(host, https, &ca, &args);
            assert!(answer.starts_with(status) && answer.contains("one "), "{answer}");
            assert_eq!(answer.to_ascii_lowercase().contains("\nserver: nginx"), is_nginx, "{answer}");
        }
        flyloft.ok(&["sleep", "it-nginx-tls/main"]);
        let led = flyloft.get_at((Ipv4Addr::LOCALHOST, site.port).into(), host, "/a?b");
        assert_eq!(led.status, 308, "{}", led.head);
        let at = format!("location: https://{host}:{https}/a?b");
        assert!(led.head.to_ascii_lowercase().contains(&at), "{}", led.head);
        assert!(flyloft.ok(&["ls"]).contains("asleep"), "it was woken");
        assert!(tls::curl_at(host, https, &ca, &["--http2"]).contains("one "));
        assert_eq!(keys.exists(), is_nginx, "what nginx had of keys goes with it");
        flyloft.ok(&["sleep", "it-nginx-tls/other"]);
        let hosts = [host, "it-nginx-tls-other.staging.localhost"];
        let doors = Doors { plain: site.port, secure: Some((https, &ca)) };
        inside::must_reach(&flyloft, "it-nginx-tls/main", &hosts, &doors, "one ");
    }
    flyloft.ok(&["destroy", "it-nginx-tls", "--yes"]);
}

/// The HTTP that is spoken over TLS for a host of an environment, if any.
fn spoken(host: &str, port: u16) -> Option<String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--http2", "--max-time", "30", "--write-out", "%{http_version}"]);
    curl.args(["--output", "/dev/null", "--resolve", &format!("{host}:{port}:127.0.0.1")]);
    let output = curl.arg(format!("https://{host}:{port}/")).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_nginx_that_is_replaced_by_another_version_is_told_in_words_that_it_knows() {
    let newer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/nginx-13/bin/nginx");
    assert!(newer.exists(), "script/setup --test fetches Debian 13's nginx");
    let (dir, programs, own) = (tempfile::tempdir().unwrap(), all_but("nginx"), Path::new("/usr/sbin/nginx"));
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    let (mut site, https, host) = (NginxSite::new("www-data"), free_port(), "nobody-main.staging.localhost");
    flyloft.domain = tls::DOMAIN;
    flyloft.listen = format!("[::]:{}", site.port);
    let secure = format!("[https]\nlisten = [\"127.0.0.1:{https}\"]\n{}", tls::certificate(dir.path()));
    flyloft.config = format!("domain = {:?}\n{secure}{}", tls::DOMAIN, site.edge());
    let install = |nginx: &Path| {
        symlink(nginx, programs.path().join("new")).unwrap();
        std::fs::rename(programs.path().join("new"), programs.path().join("nginx")).unwrap();
    };
    let [certificate, key] = ["cert.pem", "key.pem"].map(|file| dir.path().join(file).display().to_string());
    // Where the site speaks TLS as well, HTTP/2 is for the site alone to say, until nginx has it as something of a server's.
    let includes = format!("include {}/nginx/flyloft.conf;", flyloft.state.display());
    site.configure(&format!(
        "{includes} server {{ listen 127.0.0.1:{https} ssl; server_name other.test; ssl_certificate {certificate}; \
         ssl_certificate_key {key}; }}"
    ));
    install(own);
    flyloft.serve_with(|command| {
        command.env("PATH", programs.path());
    });
    let said = || std::fs::read_to_string(flyloft.state.join("nginx/flyloft.conf")).unwrap();
    for (nginx, is_newer) in [(own, false), (newer.as_path(), true), (own, false)] {
        site.kill();
        install(nginx);
        // One that would not know what stands there could not be started.
        wait_for("flyloft to see it", || (is_newer || !said().contains("http2 on;")).then_some(()));
        site.start_as(nginx);
        let wanted = if is_newer { "2" } else { "1.1" };
        wait_for("it to be told", || (spoken(host, https)? == wanted).then_some(()));
        assert_eq!(spoken("other.test", https).as_deref(), Some("1.1"));
        assert!(!site.log().contains("[warn]"), "{}", site.log());
    }
}

#[test]
fn a_daemon_says_what_keeps_nginx_from_being_its_edge() {
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    let site = NginxSite::new("www-data");
    flyloft.config = site.edge();
    let (status, said) = flyloft.fails_to_serve();
    assert!(!status.success() && said.contains("nginx cannot listen on `[::]:0`: it needs a port"), "{said}");
    flyloft.listen = format!("[::]:{}", free_port());
    flyloft.config = site.edge().replace("www-data", "nobody-at-all");
    let (status, said) = flyloft.fails_to_serve();
    assert!(!status.success() && said.contains("there is no user `nobody-at-all`"), "{said}");
    flyloft.config = site.edge();
    site.configure("");
    flyloft.serve();
    let doctor = flyloft.doctor();
    assert!(doctor.contains("problem  nginx: its configuration does not include `"), "{doctor}");
    let line = format!("→ add `include {}/nginx/flyloft.conf;` to the `http` block", flyloft.state.display());
    assert!(doctor.contains(&line), "{doctor}");
}
