//! A certificate for all environments that the daemon asks for itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::acme_lab::{Knot, Pebble};
use crate::harness::{Flyloft, wait_for};
use crate::own_server::free_port;
use crate::push::{app, borrowed};
use crate::tls::{DOMAIN, curl};

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

#[test]
fn a_certificate_is_asked_for_and_shown_and_a_daemon_that_is_killed_in_the_middle_costs_no_other_order() {
    let dir = tempfile::tempdir().unwrap();
    let knot = Knot::start(DOMAIN, "");
    let pebble = Pebble::start(knot.address(), free_port());
    let (hook, slow, said) = (hook(dir.path(), &knot), dir.path().join("slow"), dir.path().join("said"));
    fs::write(&slow, "").unwrap();
    let mut flyloft = Flyloft::start();
    flyloft.stop();
    // As many tests as there are may ask in a week.
    let store = rusqlite::Connection::open(flyloft.state.join("store.db")).unwrap();
    store.execute_batch("DELETE FROM acme_ordered; DELETE FROM acme_orders").unwrap();
    drop(store);
    flyloft.domain = DOMAIN;
    flyloft.config = format!(
        "domain = {DOMAIN:?}\n[https]\nlisten = [\"[::]:0\"]\n\
         [acme]\nproof = \"hook\"\nhook = [{hook:?}]\ndirectory = {:?}\nroots = {:?}\nresolvers = [\"{}\"]\n",
        pebble.directory(),
        pebble.roots(),
        knot.address()
    );
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
