//! A certificate for all environments that the daemon asks for itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::acme_lab::{Knot, Pebble};
use crate::harness::{Flyloft, wait_for};
use crate::nginx_site::NginxSite;
use crate::own_server::free_port;
use crate::push::{app, borrowed};
use crate::tls::{DOMAIN, HOST, curl, curl_at};

/// A program of an administrator's, which publishes with knot's own tool. As long as there is a file `slow` beside it, it
/// does not come to an end.
fn hook(dir: &Path, knot: &Knot) -> PathBuf {
    let (hook, control) = (dir.join("hook"), knot.control());
    let (dir, control) = (dir.display(), control.display());
    let text = format!(
        "#!/bin/sh\nset -e\necho \"$FLYLOFT_ACTION $FLYLOFT_RECORD\" >> {dir}/said\n\
         if [ -e {dir}/slow ]; then\n    while [ -e {dir}/slow ]; do sleep 0.1; done\n    exit 0\nfi\n\
         case $FLYLOFT_ACTION in publish) change='zone-set' ttl=60 ;; withdraw) change='zone-unset' ttl= ;; esac\n\
         knotc -s {control} zone-begin {DOMAIN}\n\
         knotc -s {control} $change {DOMAIN} \"$FLYLOFT_RECORD.\" $ttl TXT \"\\\"$FLYLOFT_VALUE\\\"\"\n\
         knotc -s {control} zone-commit {DOMAIN}\n"
    );
    fs::write(&hook, text).unwrap();
    fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
    hook
}

/// A daemon that is to speak TLS, and does not run yet.
fn stopped() -> Flyloft {
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    // Any number of tests may ask in a week.
    let store = rusqlite::Connection::open(flyloft.state.join("store.db")).unwrap();
    store.execute_batch("DELETE FROM acme_ordered; DELETE FROM acme_orders").unwrap();
    flyloft.domain = DOMAIN;
    flyloft.config = format!("domain = {DOMAIN:?}\n[https]\nlisten = [\"[::]:0\"]\n");
    flyloft
}

/// What the configuration says of certificates that are asked for there.
fn asking(pebble: &Pebble, how: &str) -> String {
    format!("[acme]\n{how}directory = {:?}\nroots = {:?}\n", pebble.directory(), pebble.roots())
}

#[test]
fn a_certificate_is_asked_for_and_shown_and_a_daemon_that_is_killed_in_the_middle_costs_no_other_order() {
    let dir = tempfile::tempdir().unwrap();
    let knot = Knot::start(DOMAIN, "");
    let pebble = Pebble::start(knot.address(), free_port());
    let (hook, slow, said) = (hook(dir.path(), &knot), dir.path().join("slow"), dir.path().join("said"));
    fs::write(&slow, "").unwrap();
    let mut flyloft = stopped();
    let resolvers = format!("resolvers = [\"{}\"]\n", knot.address());
    flyloft.config += &(asking(&pebble, &format!("proof = \"hook\"\nhook = [{hook:?}]\n")) + &resolvers);
    flyloft.serve();
    wait_for("the hook to be called", || said.exists().then_some(()));
    assert!(flyloft.doctor().contains("see why none was obtained: flyloft tls check"), "{}", flyloft.doctor());
    flyloft.kill();
    fs::remove_file(&slow).unwrap();
    flyloft.serve();
    let listed = wait_for("a certificate", || {
        let listed = flyloft.ok(&["tls", "ls"]);
        listed.contains("*.staging.localhost").then_some(listed)
    });
    assert!(listed.contains("RENEWAL") && listed.contains("89 d"), "{listed}");
    assert_eq!(pebble.orders(), 1, "{}", pebble.log());
    assert!(flyloft.ok(&["tls", "check"]).contains("acme.pem"));
    let said = fs::read_to_string(&said).unwrap();
    let record = format!("_acme-challenge.{DOMAIN}");
    assert_eq!(said, format!("publish {record}\npublish {record}\nwithdraw {record}\n"));

    flyloft.repository("it-tls", &borrowed(&app("hello"))).pushed(&["main"]);
    let ca = dir.path().join("issuer.pem");
    fs::write(&ca, pebble.issuer()).unwrap();
    assert!(curl(&flyloft, &ca, &["--http2"]).ends_with("hello"));
    flyloft.ok(&["upgrade"]);
    assert!(curl(&flyloft, &ca, &["--http2"]).ends_with("hello"));
    assert_eq!(pebble.orders(), 1, "the next daemon has asked for another one");
    flyloft.ok(&["destroy", "it-tls", "--yes"]);
    flyloft.stop();
    fs::remove_dir_all(flyloft.state.join("tls")).unwrap();
}

#[test]
fn a_host_name_is_proven_while_its_environment_sleeps_and_its_certificate_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (knot, http) = (Knot::start(DOMAIN, ""), free_port());
    let pebble = Pebble::start(knot.address(), http);
    let mut flyloft = stopped();
    flyloft.listen = format!("[::]:{http}");
    flyloft.serve();
    flyloft.repository("it-tls", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.ok(&["sleep", "it-tls/main"]);
    let state = || {
        let shown: serde_json::Value = serde_json::from_str(&flyloft.ok(&["show", "it-tls/main", "--json"])).unwrap();
        shown["state"].as_str().unwrap_or_default().to_owned()
    };
    wait_for("it to sleep", || (state() == "asleep").then_some(()));
    flyloft.configure(&(flyloft.config.clone() + &asking(&pebble, "proof = \"http\"\n")));
    flyloft.ok(&["upgrade"]);
    wait_for("a certificate", || flyloft.ok(&["tls", "ls"]).contains(HOST).then_some(()));
    assert_eq!((state().as_str(), pebble.orders()), ("asleep", 1), "{}", pebble.log());
    assert!(!flyloft.doctor().contains("no certificate that can be used"), "{}", flyloft.doctor());

    let ca = dir.path().join("issuer.pem");
    fs::write(&ca, pebble.issuer()).unwrap();
    assert!(curl(&flyloft, &ca, &["--http2"]).ends_with("hello"));
    let key = flyloft.state.join(format!("tls/hosts/{HOST}.key"));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    flyloft.ok(&["destroy", "it-tls", "--yes"]);
    wait_for("its certificate to go", || (!key.exists()).then_some(()));
    assert!(flyloft.ok(&["tls", "ls"]).starts_with("there are no certificates"));
}

/// The certificate of the host that is shown at this port, in PEM.
fn shown(port: u16) -> Option<String> {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", HOST]).stdin(Stdio::null());
    let said = String::from_utf8_lossy(&client.output().unwrap().stdout).into_owned();
    let (_, rest) = said.split_once("-----BEGIN CERTIFICATE-----\n")?;
    Some(rest.split_once("\n-----END")?.0.to_owned())
}

#[test]
fn a_host_name_is_proven_by_way_of_nginx_which_shows_its_certificate_and_the_one_after_that() {
    let dir = tempfile::tempdir().unwrap();
    let (mut flyloft, mut site, https) = (stopped(), NginxSite::new("www-data"), free_port());
    let knot = Knot::start(DOMAIN, "");
    // Seconds stand for days.
    let pebble = Pebble::start_issuing(knot.address(), site.port, 40);
    flyloft.listen = format!("[::]:{}", site.port);
    flyloft.config = format!("domain = {DOMAIN:?}\n[https]\nlisten = [\"[::]:{https}\"]\n");
    flyloft.config += &(asking(&pebble, "proof = \"http\"\n") + &site.edge());
    flyloft.serve();
    site.configure(&format!("include {}/nginx/flyloft.conf;", flyloft.state.display()));
    site.start();
    flyloft.repository("it-tls", &borrowed(&app("hello"))).pushed(&["main"]);
    let certificate = flyloft.state.join(format!("tls/hosts/{HOST}.pem"));
    let kept = |shown: &str| fs::read_to_string(&certificate).is_ok_and(|kept| kept.contains(shown));
    let first = wait_for("nginx to show it", || shown(https).filter(|shown| kept(shown)));
    let ca = dir.path().join("issuer.pem");
    fs::write(&ca, pebble.issuer()).unwrap();
    for http in ["--http1.1", "--http2"] {
        let answer = curl_at(HOST, https, &ca, &[http]);
        assert!(answer.to_ascii_lowercase().contains("\nserver: nginx") && answer.ends_with("hello"), "{answer}");
    }
    let told = || flyloft.ok(&["tls", "ls"]).contains("nginx does not show");
    wait_for("flyloft to know what nginx shows", || (!told()).then_some(()));

    let next = wait_for("the next one", || shown(https).filter(|shown| *shown != first && kept(shown)));
    assert_ne!(next, first);
    assert!(curl_at(HOST, https, &ca, &["--http2"]).ends_with("hello"));
    assert!((2..=4).contains(&pebble.orders()), "{}", pebble.log());
    flyloft.ok(&["destroy", "it-tls", "--yes"]);
    wait_for("its certificate to go", || (!certificate.exists() && shown(https).is_none()).then_some(()));
}
