//! Databases on servers of others, with a real PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Flyloft, run, text, wait_for};
use crate::postgres::{ESCAPED, PASSWORD, Postgres};
use crate::servers::{add, forget_servers, host_address, tell};

/// Uses what it is given when it is asked to, and says what went wrong.
pub const NOTES: &str = r#"
import http.server, os, socket, psycopg

def answer(words):
    match words:
        case ["reach", host, port]:
            socket.create_connection((host, int(port)), 5)
            return "open"
        case ["at", database]:
            with psycopg.connect(os.environ["DATABASE_URL"], dbname=database, connect_timeout=5):
                return "open"
    with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=5) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (text text)")
        if words[0] == "add":
            connection.execute("INSERT INTO notes VALUES (%s)", [words[1]])
        return " ".join(row[0] for row in connection.execute("SELECT text FROM notes"))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            body = answer(self.path.strip("/").split("/"))
        except Exception as error:
            body = f"{type(error).__name__}: {error}"
        body = body.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|piece| piece == needle.as_bytes())
}

/// The files below a directory that have this in them. Of some there is much, and nothing in it that a daemon writes.
fn files_with(dir: &Path, needle: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let is_large = ["ballast", "layers", "apt", "caches", "merged"].iter().any(|name| path.ends_with(name));
        if kind.is_dir() && !is_large {
            files_with(&path, needle, found);
        } else if kind.is_file() && !is_large && contains(&fs::read(&path).unwrap_or_default(), needle) {
            found.push(path);
        }
    }
}

/// The arguments of every process of this machine.
fn arguments() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
    processes.filter_map(|path| Some(String::from_utf8_lossy(&fs::read(path).ok()?).replace('\0', " "))).collect()
}

#[test]
fn a_server_is_told_of_from_standard_input_and_its_password_is_nowhere_to_be_read() {
    let mut flyloft = Flyloft::start_in("services-state");
    forget_servers(&mut flyloft);
    let mut postgres = Postgres::start();
    let (key, certificate) = (postgres.path("data/server.key"), postgres.path("data/server.crt"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=db"]);
    openssl
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(&certificate);
    run(openssl.stderr(Stdio::null()));
    postgres.own("data/server.key");
    postgres.own("data/server.crt");
    postgres.write("data/postgresql.auto.conf", "ssl = on\n");
    postgres.admit("hostssl all all all scram-sha-256\n");
    postgres.stop();
    postgres.run();

    let trusted = ["--ca", certificate.to_str().unwrap()];
    let added = tell(&flyloft, "it-pg", "postgres", &postgres.url(), &trusted);
    assert!(added.status.success(), "{}", text(&added));
    assert!(text(&added).starts_with("server `it-pg` is added: postgres "), "{}", text(&added));
    assert!(text(&flyloft.ssh("services check it-pg")).contains("it-pg"), "over SSH as well");

    // The next daemon opens it, and no file of this one has it as it is.
    flyloft.stop();
    let log = flyloft.log();
    for secret in [PASSWORD, ESCAPED] {
        let mut found = Vec::new();
        files_with(&flyloft.state, secret, &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
    assert!(!log.contains(PASSWORD) && !log.contains(ESCAPED), "{log}");
    flyloft.serve();
    flyloft.ok(&["services", "check", "it-pg"]);
    assert!(flyloft.ok(&["services", "ls", "--reveal"]).contains(ESCAPED));

    // Where a backup is restored the key is, too.
    let work = tempfile::tempdir().unwrap();
    let (file, target) = (work.path().join("flyloft.backup"), work.path().join("state"));
    flyloft.ok(&["backup", file.to_str().unwrap()]);
    let (config, target) = (work.path().join("flyloft.toml"), target.to_str().unwrap());
    flyloft.ok(&["restore", file.to_str().unwrap(), "--state-dir", target, "--config", config.to_str().unwrap()]);
    let key = |state: &str| fs::read_to_string(format!("{state}/secrets.key")).unwrap();
    assert_eq!(key(target), key(flyloft.state.to_str().unwrap()));
    flyloft.ok(&["services", "rm", "it-pg"]);
}

#[test]
fn an_app_reads_and_writes_a_database_that_nobody_else_gets_at_and_that_goes_with_its_environment() {
    let mut flyloft = Flyloft::start();
    let mut postgres = Postgres::start();
    forget_servers(&mut flyloft);
    add(&flyloft, "it-pg", "postgres", &postgres.url().replace("127.0.0.1", &host_address()));
    let repository = flyloft.repository(
        "it-notes",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "psycopg[binary]==3.2.13\n"),
            ("app.json", r#"{"addons": ["heroku-postgresql:mini"], "env": {"DATABASE_URL": {"required": true}}}"#),
            ("server.py", NOTES),
        ],
    );
    let pushed = repository.pushed(&["main"]);
    assert!(pushed.contains("-----> Database on server it-pg"), "{pushed}");
    assert_eq!(flyloft.get("it-notes/main", "/add/hello").body, "hello");
    repository.commit(&[("later.txt", "")]);
    repository.pushed(&["main", "main:other"]);
    assert_eq!(flyloft.get("it-notes/main", "/").body, "hello", "kept across deploys");
    flyloft.ok(&["off", "it-notes/main"]);
    flyloft.ok(&["wake", "it-notes/main"]);
    assert_eq!(flyloft.get("it-notes/main", "/").body, "hello", "kept while it is off");

    // Its password is in what its container is made from, and nowhere else.
    let password = flyloft.ok(&["run", "it-notes/main", "--", "printenv", "PGPASSWORD"]);
    let password = password.trim();
    assert!(password.len() > 20, "{password}");
    let mut found = Vec::new();
    files_with(&flyloft.state, password, &mut found);
    assert!(!found.is_empty() && found.iter().all(|path| path.ends_with("spec.json")), "{found:?}");
    let told =
        [&["events", "it-notes", "--json"][..], &["show", "it-notes/main", "--json"], &["services", "ls", "--json"]];
    let told = told.map(|args| flyloft.ok(args)).concat() + &flyloft.log();
    assert!(!told.contains(password), "{told}");
    let mut psql = flyloft.command(&["services", "psql", "it-notes/main"]);
    let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let is_client = |arguments: &String| arguments.split(' ').next().is_some_and(|program| program.ends_with("psql"));
    let all = wait_for("a client that runs", || Some(arguments()).filter(|all| all.iter().any(is_client)));
    assert!(all.iter().all(|arguments| !arguments.contains(password)), "{all:?}");
    drop(psql.stdin.take());
    assert!(psql.wait().unwrap().success());

    assert_eq!(flyloft.get("it-notes/other", "/").body, "");
    let name = flyloft.ok(&["run", "it-notes/main", "--", "printenv", "PGDATABASE"]);
    let refused = flyloft.get("it-notes/other", &format!("/at/{}", name.trim())).body;
    assert!(refused.contains("permission denied for database"), "{refused}");
    let reach = format!("/reach/{}/{}", host_address(), postgres.port);
    assert_eq!(flyloft.get("it-notes/other", &reach).body, "open");
    flyloft.ok(&["set", "it-notes/other", "services=none"]);
    flyloft.ok(&["config", "set", "it-notes/other", "DATABASE_URL=postgres://nowhere.invalid"]);
    let closed = flyloft.get("it-notes/other", &reach).body;
    assert!(closed.contains("Error"), "the way is closed: {closed}");

    postgres.stop();
    flyloft.ok(&["destroy", "it-notes", "--yes"]);
    assert!(text(&flyloft.cli(&["services", "rm", "it-pg"])).contains("there is something on server `it-pg`"));
    postgres.run();
    let left = || postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'flyloft%'");
    assert_eq!(left(), "2");
    flyloft.stop();
    flyloft.serve();
    wait_for("the databases to go", || (left() == "0").then_some(()));
    assert_eq!(postgres.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'flyloft%'"), "0");
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-pg"]).status.success().then_some(()));
}
