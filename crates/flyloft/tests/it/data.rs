//! Data that databases begin with, and people who work with them, on a real PostgreSQL and real LXC.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::harness::{Flyloft, text, wait_for};
use crate::postgres::{PASSWORD, Postgres};
use crate::servers::{add, forget_servers, host_address};
use crate::services::NOTES;
use crate::terminal::Seat;

/// A command with this at its standard input.
pub fn with_input(flyloft: &Flyloft, words: &[&str], input: &str) -> Output {
    let mut command = flyloft.command(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that refuses may not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn databases_begin_with_a_template_or_a_copy_and_people_dump_restore_reset_and_look_into_them() {
    let mut flyloft = Flyloft::start();
    let postgres = Postgres::start();
    forget_servers(&mut flyloft);
    add(&flyloft, "it-pg", "postgres", &postgres.url().replace("127.0.0.1", &host_address()));
    let repository = flyloft.repository(
        "it-data",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "psycopg[binary]==3.2.13\n"),
            ("app.json", r#"{"addons": ["postgres"]}"#),
            ("server.py", NOTES),
        ],
    );
    repository.pushed(&["main"]);
    assert_eq!(flyloft.get("it-data/main", "/add/hello").body, "hello");

    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("main.dump");
    let file = file.to_str().unwrap();
    // It sleeps on: its database does not.
    flyloft.ok(&["sleep", "it-data/main"]);
    let wrote = flyloft.ok(&["services", "dump", "it-data/main", file]);
    assert!(wrote.starts_with(&format!("wrote `{file}`: ")), "{wrote}");
    assert!(std::fs::read(file).unwrap().starts_with(b"PGDMP"));
    assert!(flyloft.ok(&["ls"]).contains("asleep v1"), "{}", flyloft.ok(&["ls"]));

    flyloft.ok(&["services", "template", "it-pg", "it_seed", "--from-dump", file]);
    assert!(flyloft.ok(&["services", "ls"]).contains("\nit_seed "), "{}", flyloft.ok(&["services", "ls"]));
    flyloft.ok(&["apps", "set", "it-data", "services=postgres@it_seed"]);
    repository.pushed(&["main:seeded"]);
    assert_eq!(flyloft.get("it-data/seeded", "/add/more").body, "hello more");
    let reset = flyloft.ok(&["services", "reset", "it-data/seeded", "--yes"]);
    assert!(reset.contains("has fresh data") && reset.contains("=====> Deployed"), "{reset}");
    assert_eq!(flyloft.get("it-data/seeded", "/").body, "hello");

    assert_eq!(flyloft.get("it-data/main", "/add/own").body, "hello own");
    flyloft.ok(&["apps", "set", "it-data", "services=postgres@it-data/main"]);
    repository.pushed(&["main:copied"]);
    assert_eq!(flyloft.get("it-data/copied", "/").body, "hello own");

    // Of a newer version, as SQL, in which a shell's words mean nothing to the host.
    let dump = "SET transaction_timeout = 0;\nCREATE TABLE notes (text text);\n\\! touch /tmp/it-data-was-here\n\
                COPY notes (text) FROM stdin;\nrestored\n\\.\n";
    let restored = with_input(&flyloft, &["services", "restore", "it-data/copied", "-", "--yes"], dump);
    assert!(restored.status.success(), "{}", text(&restored));
    assert_eq!(flyloft.get("it-data/copied", "/").body, "restored");
    assert!(!std::path::Path::new("/tmp/it-data-was-here").exists());
    let broken = with_input(&flyloft, &["services", "restore", "it-data/copied", "-", "--yes"], "SELEC 1;\n");
    assert!(!broken.status.success() && text(&broken).contains("syntax error at or near"), "{}", text(&broken));
    assert!(text(&broken).contains("what was there is there still"), "{}", text(&broken));
    // Of all databases of a server, or with what makes its own.
    let database = postgres.sql("SELECT datname FROM pg_database WHERE datname LIKE 'flyloft%copied%'");
    let elsewhere = format!("CREATE TABLE other (text text);\n\\connect {database}\nDELETE FROM notes;\n");
    let refused = with_input(&flyloft, &["services", "restore", "it-data/copied", "-", "--yes"], &elsewhere);
    let told = text(&refused);
    assert!(!refused.status.success() && told.contains("connects to a database of its own"), "{told}");
    assert!(told.contains("what was there is there still"), "{told}");
    assert_eq!(flyloft.get("it-data/copied", "/").body, "restored");

    let looked = with_input(
        &flyloft,
        &["services", "psql", "it-data/copied"],
        "SELECT text FROM notes;\n\\! id -un\n\\! cat /etc/hostname\n",
    );
    let told = text(&looked);
    assert!(told.contains("restored") && told.contains("app\nclient-"), "{told}");
    assert!(!flyloft.log().contains(PASSWORD), "{}", flyloft.log());

    let mut seat = Seat::take(flyloft.ssh_with(&["-t"], "services psql it-data/copied"), 90, 30);
    seat.types("SELECT 6 * 7 AS answer;\n");
    seat.sees("    42");
    seat.types("\\q\n");
    let status = wait_for("psql to end", || seat.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));

    // A daemon that dies in the middle leaves the old data or the new ones, and what is aside goes with the next attempt.
    for (place, has) in [("service.aside", "restored"), ("service.swapped", "hello own")] {
        flyloft.kill();
        flyloft.fault(place);
        flyloft.serve();
        assert!(!flyloft.cli(&["services", "reset", "it-data/copied", "--yes"]).status.success());
        flyloft.died();
        flyloft.serve();
        assert_eq!(flyloft.get("it-data/copied", "/").body, has);
    }
    flyloft.ok(&["services", "reset", "it-data/copied", "--yes"]);
    assert_eq!(flyloft.get("it-data/copied", "/").body, "hello own");
    let leftover =
        || postgres.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'flynew%' OR datname LIKE 'flyold%'");
    assert_eq!(leftover(), "0");
    flyloft.ok(&["destroy", "it-data", "--yes"]);
    flyloft.ok(&["services", "template", "it-pg", "it_seed", "--rm"]);
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-pg"]).status.success().then_some(()));
    assert_eq!(postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'fly%'"), "0");
}

#[test]
fn a_dump_for_which_there_is_no_room_changes_nothing() {
    let mut flyloft = Flyloft::start();
    let postgres = Postgres::start_on_disk_of(96);
    forget_servers(&mut flyloft);
    add(&flyloft, "it-pg", "postgres", &postgres.url().replace("127.0.0.1", &host_address()));
    let files = [
        ("Procfile", "web: python3 server.py\n"),
        ("requirements.txt", "psycopg[binary]==3.2.13\n"),
        ("app.json", r#"{"addons": ["postgres"]}"#),
        ("server.py", NOTES),
    ];
    flyloft.repository("it-full", &files).pushed(&["main"]);
    assert_eq!(flyloft.get("it-full/main", "/add/hello").body, "hello");
    let large = "CREATE TABLE large AS SELECT repeat(md5(n::text), 30) AS text FROM generate_series(1, 90000) n;\n";
    let full = with_input(&flyloft, &["services", "restore", "it-full/main", "-", "--yes"], large);
    let told = text(&full);
    assert!(!full.status.success() && told.contains("could not extend file"), "{told}");
    assert!(told.contains("failed to restore the dump on server `it-pg`"), "{told}");
    assert!(told.contains("what was there is there still"), "{told}");
    let full = with_input(&flyloft, &["services", "template", "it-pg", "it_full", "--from-dump", "-"], large);
    assert!(!full.status.success() && text(&full).contains("could not extend file"), "{}", text(&full));
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'flynew%' OR datname LIKE 'flyloft_template%'";
    wait_for("what did not fit to go", || (postgres.sql(left) == "0").then_some(()));
    assert_eq!(flyloft.get("it-full/main", "/add/again").body, "hello again");
    flyloft.ok(&["destroy", "it-full", "--yes"]);
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-pg"]).status.success().then_some(()));
}
