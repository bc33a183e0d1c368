//! A database that an environment runs in its own container.

use super::moved;
use crate::harness::Flyloft;
use crate::push::{app, borrowed};

/// Keeps notes in a database that it never closes, and counts in memory those that it has taken.
const SERVER: &str = r#"
import hashlib, http.server, os, sqlite3, threading
STEPS = {
    "/add": ["INSERT INTO notes VALUES ('a note')"],
    "/draft": ["BEGIN IMMEDIATE", "INSERT INTO notes VALUES ('a draft')"],
    "/commit": ["COMMIT"],
}
lock, taken = threading.Lock(), 0
heap = bytes(range(256)) * 32768
digest = hashlib.sha256(heap).digest()
notes = sqlite3.connect("notes.db", isolation_level=None, check_same_thread=False)
mode = notes.execute("PRAGMA journal_mode = WAL").fetchone()[0]
notes.execute("CREATE TABLE IF NOT EXISTS notes (text)")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        global taken
        with lock:
            for step in STEPS.get(self.path, []):
                notes.execute(step)
                taken += step.startswith("INSERT")
            rows = notes.execute("SELECT count(*) FROM notes").fetchone()[0]
            check = notes.execute("PRAGMA integrity_check").fetchone()[0]
            memory = "whole" if hashlib.sha256(heap).digest() == digest else "torn"
            body = f"{rows} notes, {taken} of them since the start; {mode}, {check}, {memory}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn said(notes: usize, taken: usize) -> String {
    format!("{notes} notes, {taken} of them since the start; wal, ok, whole")
}

#[test]
fn a_database_that_is_open_goes_on_after_sleep_and_has_after_off_what_was_committed() {
    const ENV: &str = "it-notes/main";
    let flyloft = Flyloft::start();
    let mut files = app("hello");
    files[2].1 = SERVER.to_owned();
    flyloft.repository("it-notes", &borrowed(&files)).pushed(&["main"]);
    let ask = |path| flyloft.get(ENV, path).body;
    for count in 1..=3 {
        assert_eq!(ask("/add"), said(count, count));
    }
    assert_eq!(ask("/draft"), said(4, 4));
    // In the middle of a transaction.
    for command in [&["sleep"][..], &["sleep", "--deep"]] {
        flyloft.ok(&[command, &[ENV][..]].concat());
        let moved = moved(&flyloft, ENV);
        assert!(moved > 8 << 20, "{command:?}: {moved} bytes are moved");
        assert_eq!(ask("/"), said(4, 4), "{command:?}");
    }
    assert_eq!(ask("/commit"), said(4, 4));
    assert_eq!(ask("/draft"), said(5, 5));
    flyloft.ok(&["off", ENV]);
    assert_eq!(ask("/"), said(4, 0), "the draft was never committed");
    assert_eq!(ask("/add"), said(5, 1));
    flyloft.ok(&["destroy", "it-notes", "--yes"]);
}
