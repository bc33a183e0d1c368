//! An environment over TLS, by the certificate that its server was given.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::harness::{Flyloft, run, text, wait_for};
use crate::push::{app, borrowed};

/// No client takes a `*` right below a top-level domain.
pub const DOMAIN: &str = "staging.localhost";
pub const HOST: &str = "it-tls-main.staging.localhost";

/// A certificate for every environment, which is its own issuer, and its key.
pub fn certificate(dir: &Path) -> String {
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "30"])
        .args(["-subj", "/CN=flyloft", "-addext", &format!("subjectAltName=DNS:*.{DOMAIN}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key));
    format!("[tls]\ncertificates = [{{ certificate = {certificate:?}, key = {key:?} }}]\n")
}

/// Where the daemon that runs speaks TLS.
pub fn port(flyloft: &Flyloft) -> u16 {
    let log = flyloft.log();
    let ready = log.lines().rfind(|line| line.contains(": ready ")).expect("it is ready");
    let (_, rest) = ready.split_once("https=\"[::]:").expect("it speaks TLS");
    rest.split_once('"').unwrap().0.parse().unwrap()
}

/// What curl prints for the environment, and whether it believes the certificate.
pub fn curl(flyloft: &Flyloft, ca: &Path, args: &[&str]) -> String {
    curl_at(HOST, port(flyloft), ca, args)
}

/// Whether somebody answers there over TLS.
pub fn speaks(host: &str, port: u16) -> bool {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--max-time", "30", "--resolve", &format!("{host}:{port}:127.0.0.1")]);
    curl.arg(format!("https://{host}:{port}/")).output().unwrap().status.success()
}

pub fn curl_at(host: &str, port: u16, ca: &Path, args: &[&str]) -> String {
    let mut curl = Command::new("curl");
    let ip = if args.contains(&"--ipv6") { "[::1]" } else { "127.0.0.1" };
    curl.args(["--silent", "--show-error", "--include", "--max-time", "30", "--cacert"]).arg(ca).args(args);
    run(curl.args(["--resolve", &format!("{host}:{port}:{ip}")]).arg(format!("https://{host}:{port}/")))
}

#[test]
fn an_environment_is_reached_over_tls_and_plain_http_leads_there_without_waking_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    flyloft.domain = DOMAIN;
    flyloft.config = format!("domain = {DOMAIN:?}\n[https]\nlisten = [\"[::]:0\"]\n{}", certificate(dir.path()));
    flyloft.serve();
    let (https, ca) = (port(&flyloft), dir.path().join("cert.pem"));
    let output = flyloft.repository("it-tls", &borrowed(&app("hello"))).pushed(&["main"]);
    assert!(output.contains(&format!("remote: https://{HOST}:{https}")), "{output}");
    assert!(flyloft.ok(&["ls"]).contains(&format!("https://{HOST}:{https}")));
    for (args, status) in [(["--http2", "--ipv4"], "HTTP/2 200 "), (["--http1.1", "--ipv6"], "HTTP/1.1 200 ")] {
        let answer = curl(&flyloft, &ca, &args);
        assert!(answer.starts_with(status) && answer.ends_with("hello"), "{answer}");
    }

    let state = || {
        let shown: serde_json::Value = serde_json::from_str(&flyloft.ok(&["show", "it-tls/main", "--json"])).unwrap();
        shown["state"].as_str().unwrap_or_default().to_owned()
    };
    flyloft.ok(&["sleep", "it-tls/main"]);
    wait_for("it to sleep", || (state() == "asleep").then_some(()));
    let led = flyloft.get_at((Ipv4Addr::LOCALHOST, flyloft.http).into(), HOST, "/a?b");
    assert_eq!(led.status, 308, "{}", led.head);
    assert!(led.head.contains(&format!("location: https://{HOST}:{https}/a?b")), "{}", led.head);
    assert_eq!(state(), "asleep");
    assert!(curl(&flyloft, &ca, &["--http2"]).ends_with("hello"));
    let woken = flyloft.why("it-tls/main");
    assert!(woken["woken"]["by"].as_str().is_some_and(|by| by.starts_with("GET / from ")), "{woken}");

    // A key that is none changes nothing for clients.
    let key = dir.path().join("key.pem");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "nothing").unwrap();
    let (checked, why) = (flyloft.cli(&["tls", "check"]), format!("there is no private key in `{}`", key.display()));
    assert!(!checked.status.success() && text(&checked).contains(&why), "{}", text(&checked));
    let told = || flyloft.told("it-tls", "certificate-failed").iter().any(|text| text.contains(&why));
    wait_for("people to be told", || told().then_some(()));
    assert!(curl(&flyloft, &ca, &["--http2"]).ends_with("hello"));
    std::fs::write(&key, good).unwrap();

    flyloft.ok(&["upgrade"]);
    assert_eq!(port(&flyloft), https, "another port after an upgrade");
    assert!(curl(&flyloft, &ca, &["--http2"]).ends_with("hello"));
    let said = flyloft.doctor();
    assert!(said.contains("for *.staging.localhost was issued by nobody whom this machine trusts"), "{said}");
    flyloft.ok(&["destroy", "it-tls", "--yes"]);
}

#[test]
fn the_server_s_own_authority_is_believed_by_who_trusts_it() {
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    flyloft.domain = DOMAIN;
    flyloft.config = format!("domain = {DOMAIN:?}\n[https]\nlisten = [\"[::]:0\"]\n");
    flyloft.serve();
    flyloft.repository("it-tls", &borrowed(&app("hello"))).pushed(&["main"]);
    assert!(flyloft.doctor().contains("no certificate that can be used is for `*.staging.localhost`"));
    // As long as there is none, plain HTTP is all that there is.
    let plain = |path| flyloft.get_at((Ipv4Addr::LOCALHOST, flyloft.http).into(), HOST, path).status;
    assert_eq!(plain("/"), 200);
    let said = flyloft.ok(&["tls", "local-ca"]);
    let ca = flyloft.state.join("tls/local-ca.pem");
    assert!(said.contains(ca.to_str().unwrap()) && !said.contains("HTTPS is off"), "{said}");
    assert_eq!(plain("/"), 308);
    for (http, status) in [("--http1.1", "HTTP/1.1 200 "), ("--http2", "HTTP/2 200 ")] {
        for tls in ["1.2", "1.3"] {
            flyloft.ok(&["sleep", "it-tls/main"]);
            let answer = curl(&flyloft, &ca, &[http, &format!("--tlsv{tls}"), "--tls-max", tls]);
            assert!(answer.starts_with(status) && answer.ends_with("hello"), "{http} {tls}: {answer}");
        }
    }
    let port = port(&flyloft);
    let mut stranger = Command::new("curl");
    stranger.args(["--silent", "--show-error", "--insecure", "--max-time", "30", "--resolve"]);
    stranger.arg(format!("example.org:{port}:127.0.0.1")).arg(format!("https://example.org:{port}/"));
    let refused = stranger.output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(35) && why.contains("unrecognized name"), "{why}");

    assert!(flyloft.ok(&["tls", "check"]).contains("*.staging.localhost, staging.localhost"));
    flyloft.ok(&["destroy", "it-tls", "--yes"]);
    std::fs::remove_dir_all(flyloft.state.join("tls")).unwrap();
}
