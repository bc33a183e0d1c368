//! Apps that keep connections to a database open, and wake after the server has ended them.

use std::collections::BTreeSet;

use crate::harness::{Flyloft, wait_for};
use crate::postgres::Postgres;
use crate::servers::{add, forget_servers, host_address};

/// Two pools as their documentation has them where connections may have been closed: each tries one before it hands it
/// out. Answers which connections of the server it has used.
const PYTHON: &str = r#"
import http.server, os, psycopg_pool, sqlalchemy

url = os.environ["DATABASE_URL"]
check = psycopg_pool.ConnectionPool.check_connection
plain = psycopg_pool.ConnectionPool(url, min_size=3, max_size=3, check=check, open=True)
engine = sqlalchemy.create_engine(url.replace("postgres:", "postgresql+psycopg:"), pool_pre_ping=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with plain.connection() as one, engine.connect() as other:
            pids = [one.info.backend_pid, other.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar()]
        body = " ".join(str(pid) for pid in pids).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass

plain.wait()
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A pool that is told of connections that have ended, and keeps three. Without who listens for that the process ends.
const NODE: &str = r#"
const http = require("node:http");
const { Pool } = require("pg");

const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 3, idleTimeoutMillis: 0 });
pool.on("error", () => {});
const pid = async () => (await pool.query("SELECT pg_backend_pid() AS pid, pg_sleep(0.1)")).rows[0].pid;

http.createServer(async (request, response) => {
  try {
    response.end((await Promise.all([pid(), pid(), pid()])).join(" "));
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error));
  }
}).listen(process.env.PORT);
"#;

/// How often each sleeps and wakes.
const ROUNDS: usize = 3;

/// Whoever visits it first after its connections were ended is answered, with others than before.
fn check(app: &str, files: &[(&str, &str)], connections: &str) {
    let mut flyloft = Flyloft::start();
    let postgres = Postgres::start();
    flyloft.config = "[services]\ngrace = \"2s\"\n".to_owned();
    forget_servers(&mut flyloft);
    add(&flyloft, "it-pg", "postgres", &postgres.url().replace("127.0.0.1", &host_address()));
    let app_json = ("app.json", r#"{"addons": ["postgres"]}"#);
    flyloft.repository(app, &[files, &[app_json]].concat()).pushed(&["main"]);
    let main = format!("{app}/main");
    let held = || postgres.sql("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'flyloft%'");
    let used = |body: &str| body.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    let mut before = flyloft.get(&main, "/");
    assert_eq!((before.status, held().as_str()), (200, connections), "{}", before.body);
    for round in 0..ROUNDS {
        flyloft.ok(&["sleep", &main]);
        wait_for("connections to be ended", || (held() == "0").then_some(()));
        let after = flyloft.get(&main, "/");
        assert_eq!(after.status, 200, "in round {round}: {}", after.body);
        assert!(used(&before.body).is_disjoint(&used(&after.body)), "{} and {}", before.body, after.body);
        assert_ne!(held(), "0");
        before = after;
    }
    flyloft.ok(&["destroy", app, "--yes"]);
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-pg"]).status.success().then_some(()));
}

#[test]
fn what_sleeps_holds_no_connections_and_finds_working_pools_when_it_wakes() {
    let files = [
        ("Procfile", "web: python3 server.py\n"),
        ("requirements.txt", "psycopg[binary,pool]==3.2.13\nsqlalchemy==2.0.44\n"),
        ("server.py", PYTHON),
    ];
    check("it-pools", &files, "4");
}

#[test]
fn so_does_an_app_of_node() {
    let package = r#"{"name": "it-node-pool", "private": true, "scripts": {"start": "node server.js"},
        "dependencies": {"pg": "8.16.3"}}"#;
    check("it-node-pool", &[("package.json", package), ("server.js", NODE)], "3");
}
