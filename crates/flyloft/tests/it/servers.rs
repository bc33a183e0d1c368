//! Servers that the daemon is told of.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::harness::{Flyloft, text};
pub use crate::own_server::host_address;

/// What a test that failed has left leads to servers that are gone.
pub fn forget_servers(flyloft: &mut Flyloft) {
    flyloft.stop();
    let store = rusqlite::Connection::open(flyloft.state.join("store.db")).unwrap();
    store
        .execute_batch("DELETE FROM services; DELETE FROM templates; DELETE FROM managed; DELETE FROM servers")
        .unwrap();
    drop(store);
    flyloft.serve();
}

/// Tells of one by standard input, with these words more.
pub fn tell(flyloft: &Flyloft, name: &str, kind: &str, url: &str, more: &[&str]) -> Output {
    let words = ["services", "add", name, "--kind", kind, "--url", "-"];
    let mut add = flyloft.command(&[&words[..], more].concat());
    let mut add = add.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    add.stdin.take().unwrap().write_all(url.as_bytes()).unwrap();
    add.wait_with_output().unwrap()
}

/// The same of one that is well.
#[track_caller]
pub fn add(flyloft: &Flyloft, name: &str, kind: &str, url: &str) {
    let added = tell(flyloft, name, kind, url, &[]);
    assert!(added.status.success(), "{}", text(&added));
}
