//! Commands of a repository's own around its deploys, with a real PostgreSQL and real LXC.

use crate::githost::GitHost;
use crate::harness::{Flyloft, wait_for};
use crate::postgres::Postgres;
use crate::servers::{add, forget_servers, host_address};
use crate::services::NOTES;

const HOOKS: &str = r#"
import os, sys, psycopg
statement = {
    "migrate": "CREATE TABLE notes (text text)",
    "seed": "INSERT INTO notes VALUES ('seeded')",
    "farewell": "SELECT 'farewell'",
}[sys.argv[1]]
with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=5) as connection:
    if sys.argv[1] != "migrate" or not connection.execute("SELECT to_regclass('notes')").fetchone()[0]:
        connection.execute(statement)
print(sys.argv[1], "is done")
"#;

#[test]
fn release_and_postdeploy_find_the_database_and_so_does_the_last_script_of_a_pull_request() {
    let mut flyloft = Flyloft::start();
    let (postgres, host) = (Postgres::start(), GitHost::start());
    forget_servers(&mut flyloft);
    add(&flyloft, "it-pg", "postgres", &postgres.url().replace("127.0.0.1", &host_address()));
    let scripts = r#"{"postdeploy": "python3 hooks.py seed", "pr-predestroy": "python3 hooks.py farewell"}"#;
    let repository = flyloft.repository(
        "it-hooks",
        &[
            ("Procfile", "release: python3 hooks.py migrate\nweb: python3 server.py\n"),
            ("requirements.txt", "psycopg[binary]==3.2.13\n"),
            ("app.json", &format!(r#"{{"addons": ["postgres"], "scripts": {scripts}}}"#)),
            ("hooks.py", HOOKS),
            ("server.py", NOTES),
        ],
    );
    host.publish("hooks", &repository.dir, "refs/pull/42/head");
    flyloft.ok(&["apps", "create", "it-hooks", "--git", &host.url("hooks")]);
    let first = flyloft.ok(&["up", "it-hooks", "--pr", "42"]);
    assert!(first.contains("migrate is done") && first.contains("seed is done"), "{first}");
    assert_eq!(flyloft.get("it-hooks/pr-42", "/").body, "seeded");
    repository.commit(&[("later.txt", "")]);
    host.publish("hooks", &repository.dir, "refs/pull/42/head");
    let second = flyloft.ok(&["up", "it-hooks", "--pr", "42"]);
    assert!(second.contains("migrate is done") && !second.contains("seed is done"), "{second}");
    assert_eq!(flyloft.get("it-hooks/pr-42", "/").body, "seeded");

    // With nothing in it the release command makes its table, and the script its row.
    let reset = flyloft.ok(&["services", "reset", "it-hooks/pr-42", "--yes"]);
    assert!(reset.contains("migrate is done") && reset.contains("seed is done"), "{reset}");
    assert_eq!(flyloft.get("it-hooks/pr-42", "/").body, "seeded");

    flyloft.ok(&["sleep", "it-hooks/pr-42"]);
    flyloft.ok(&["destroy", "it-hooks/pr-42", "--yes"]);
    let farewells = || postgres.log().matches("SELECT 'farewell'").count();
    assert_eq!(farewells(), 1, "{}", flyloft.ok(&["events", "it-hooks"]));
    flyloft.ok(&["up", "it-hooks", "--pr", "42"]);
    flyloft.ok(&["off", "it-hooks/pr-42"]);
    flyloft.ok(&["destroy", "it-hooks/pr-42", "--yes"]);
    assert_eq!(farewells(), 2, "{}", flyloft.ok(&["events", "it-hooks"]));
    flyloft.ok(&["destroy", "it-hooks", "--yes"]);
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-pg"]).status.success().then_some(()));
}
