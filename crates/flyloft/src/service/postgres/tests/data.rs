//! Templates, copies, and data that take the place of others.

use std::cell::Cell;
use std::collections::BTreeSet;

use flyloft_core::service::Isolation;
use futures_util::future::join_all;
use tokio_postgres::SimpleQueryMessage;

use super::*;
use crate::service::{Label, Wanted};

/// A server, and an administrator who may do no more than is needed.
fn bench() -> (bench::Postgres, Server) {
    let postgres = bench::Postgres::start();
    postgres.sql("CREATE ROLE apt LOGIN CREATEROLE CREATEDB PASSWORD 'x'");
    let server = at(postgres.port, "apt:x", "");
    (postgres, server)
}

fn wanted(name: &str, seed: Option<&Wanted>) -> Wanted {
    let label = Label { name: name.to_owned(), text: format!("flyloft 1f3a9c {name}"), number: None };
    let seed = seed.map(|seed| seed.label.clone());
    let (password, isolation, taken) = (Secret("5ecret".to_owned()), Isolation::Usual, BTreeSet::new());
    Wanted { label, password, connections: 20, isolation, taken, seed }
}

async fn provided(server: &Server, name: &str, seed: Option<&Wanted>) -> Wanted {
    let wanted = wanted(name, seed);
    Postgres.provide(server, &wanted).await.unwrap();
    wanted
}

async fn connect(server: &Server, wanted: &Wanted) -> Result<tokio_postgres::Client, String> {
    let variables = Postgres.variables(server, wanted, None);
    let url = &variables.iter().find(|(name, _)| name == "DATABASE_URL").unwrap().1;
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(told)?;
    tokio::spawn(connection);
    Ok(client)
}

/// What a statement does for an app.
async fn sql(server: &Server, wanted: &Wanted, statement: &str) -> Result<String, String> {
    let messages = connect(server, wanted).await?.simple_query(statement).await.map_err(told)?;
    let cell = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(messages.iter().filter_map(cell).collect::<Vec<_>>().join(" "))
}

fn told(error: tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Databases and roles of ours, and whatever is left of their making.
fn left(postgres: &bench::Postgres) -> String {
    postgres.sql(
        "SELECT (SELECT count(*) FROM pg_database WHERE datname LIKE 'fly%') || ' ' ||
            (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'fly%')",
    )
}

#[tokio::test]
async fn what_is_made_from_a_template_has_its_data_and_is_all_its_owners() {
    let (postgres, server) = bench();
    let seed = provided(&server, "flyloft_template_seed", None).await;
    let schema = "CREATE TABLE notes (id serial PRIMARY KEY, text text); CREATE VIEW seen AS SELECT text FROM notes;
        INSERT INTO notes (text) VALUES ('hello')";
    sql(&server, &seed, schema).await.unwrap();
    Postgres.seal(&server, &seed.label).await.unwrap();
    let refused = sql(&server, &seed, "SELECT 1").await.unwrap_err();
    assert!(refused.contains("is not permitted to log in"), "{refused}");

    let copies = ["flyloft_a", "flyloft_b", "flyloft_c"].map(|name| wanted(name, Some(&seed)));
    for made in join_all(copies.iter().map(|copy| Postgres.provide(&server, copy))).await {
        made.unwrap();
    }
    for copy in &copies {
        let change = "INSERT INTO notes (text) VALUES ('more'); DROP VIEW seen; ALTER TABLE notes ADD COLUMN at date";
        sql(&server, copy, change).await.unwrap();
        assert_eq!(sql(&server, copy, "SELECT text FROM notes ORDER BY id").await.unwrap(), "hello more");
        let opening = "ALTER DATABASE flyloft_template_seed ALLOW_CONNECTIONS true";
        assert!(sql(&server, copy, opening).await.unwrap_err().starts_with("must be owner of database"));
    }

    Postgres.remove_template(&server, &seed.label).await.unwrap();
    Postgres.remove_template(&server, &seed.label).await.unwrap();
    assert_eq!(sql(&server, &copies[0], "SELECT count(*) FROM notes").await.unwrap(), "2");
    let gone = Postgres.provide(&server, &wanted("flyloft_d", Some(&seed))).await.unwrap_err();
    assert_eq!(gone.fault, Fault::NoSeed("flyloft_template_seed".to_owned()));
    for copy in &copies {
        Postgres.remove(&server, &copy.label).await.unwrap();
    }
    Postgres.remove(&server, &wanted("flyloft_d", None).label).await.unwrap();
    assert_eq!(left(&postgres), "0 0");
}

#[tokio::test]
async fn what_is_large_is_copied_file_by_file_and_handed_over_as_well() {
    let (postgres, server) = bench();
    let main = provided(&server, "flyloft_main", None).await;
    sql(&server, &main, "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('hello')").await.unwrap();
    let small = provided(&server, "flyloft_small", Some(&main)).await;
    assert!(!postgres.log().contains("STRATEGY file_copy"));
    // Rows of a kilobyte, which are not compressed.
    let fill = "CREATE TABLE fill AS SELECT repeat('x', 1000) FROM generate_series(1, 70000)";
    sql(&server, &main, fill).await.unwrap();
    let large = provided(&server, "flyloft_large", Some(&main)).await;
    assert!(postgres.log().contains("OWNER \"flyloft_large\" ALLOW_CONNECTIONS false STRATEGY file_copy"));
    assert_eq!(sql(&server, &large, "DROP TABLE notes; SELECT count(*) FROM fill").await.unwrap(), "70000");
    for wanted in [main, small, large] {
        Postgres.remove(&server, &wanted.label).await.unwrap();
    }
    assert_eq!(left(&postgres), "0 0");
}

#[tokio::test]
async fn a_copy_of_what_is_in_use_cuts_who_is_connected_and_leaves_it_as_it_was() {
    let (postgres, server) = bench();
    let main = provided(&server, "flyloft_main", None).await;
    sql(&server, &main, "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('hello')").await.unwrap();
    let busy = connect(&server, &main).await.unwrap();
    busy.simple_query("BEGIN; INSERT INTO notes VALUES ('uncommitted')").await.unwrap();

    let copy = provided(&server, "flyloft_pr_7", Some(&main)).await;
    assert!(busy.simple_query("COMMIT").await.is_err());
    assert_eq!(sql(&server, &copy, "SELECT text FROM notes").await.unwrap(), "hello");
    sql(&server, &copy, "DROP TABLE notes; CREATE TABLE other (a int)").await.unwrap();
    sql(&server, &main, "INSERT INTO notes VALUES ('more'); CREATE TABLE later (a int)").await.unwrap();
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = ";
    assert_eq!(postgres.sql(&format!("{owner} 'flyloft_main'")), "flyloft_main");
    assert_eq!(postgres.sql(&format!("{owner} 'flyloft_pr_7'")), "flyloft_pr_7");

    // What somebody may do by default with what is made later would hold the role of the first one.
    sql(&server, &main, "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC").await.unwrap();
    let another = provided(&server, "flyloft_pr_8", Some(&main)).await;
    for wanted in [main, another, copy] {
        Postgres.remove(&server, &wanted.label).await.unwrap();
    }
    assert_eq!(left(&postgres), "0 0");
}

#[tokio::test]
async fn a_database_of_which_its_owner_says_that_it_is_a_template_is_copied_and_dropped_as_others_are() {
    let (postgres, server) = bench();
    let main = provided(&server, "flyloft_main", None).await;
    sql(&server, &main, "ALTER DATABASE flyloft_main IS_TEMPLATE true").await.unwrap();
    let copy = provided(&server, "flyloft_pr_7", Some(&main)).await;
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'flyloft_main'";
    assert_eq!(postgres.sql(owner), "flyloft_main");
    Postgres.renew(&server, &main).await.unwrap();
    sql(&server, &main, "ALTER DATABASE flyloft_main IS_TEMPLATE true").await.unwrap();
    for wanted in [copy, main] {
        Postgres.remove(&server, &wanted.label).await.unwrap();
    }
    assert_eq!(left(&postgres), "0 0");
}

#[tokio::test]
async fn a_database_is_dropped_whose_dropping_was_cut_off() {
    let (postgres, server) = bench();
    let main = provided(&server, "flyloft_main", None).await;
    postgres.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'flyloft_main'");
    let refused = connect(&server, &main).await.map(drop).unwrap_err();
    assert!(refused.contains("invalid database"), "{refused}");
    Postgres.remove(&server, &main.label).await.unwrap();
    assert_eq!(left(&postgres), "0 0");
}

#[tokio::test]
async fn what_a_role_has_made_in_databases_that_let_everybody_connect_goes_with_it() {
    let (postgres, server) = bench();
    let main = provided(&server, "flyloft_main", None).await;
    let url = format!("postgres://flyloft_main:5ecret@127.0.0.1:{}/postgres", postgres.port);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.simple_query("SELECT lo_create(0)").await.unwrap();
    client.simple_query("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC").await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    assert_eq!(postgres.sql("SELECT count(*) FROM pg_largeobject_metadata"), "1");
    Postgres.remove(&server, &main.label).await.unwrap();
    assert_eq!(
        (left(&postgres), postgres.sql("SELECT count(*) FROM pg_largeobject_metadata")),
        ("0 0".into(), "0".into())
    );
}

#[tokio::test]
async fn nobody_else_gets_into_a_database_while_it_is_made() {
    let (_postgres, server) = bench();
    provided(&server, "flyloft_stranger", None).await;
    let seed = provided(&server, "flyloft_seed", None).await;
    sql(&server, &seed, "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('hello')").await.unwrap();
    for (name, seed) in [("flyloft_a", None), ("flyloft_b", Some(&seed))] {
        let url = format!("postgres://flyloft_stranger:5ecret@127.0.0.1:{}/{name}", server.url.port);
        let peep = async {
            loop {
                let error = match tokio_postgres::connect(&url, NoTls).await {
                    Ok(_) => return,
                    Err(error) => told(error),
                };
                let refused = ["does not exist", "not currently accepting connections", "permission denied"];
                assert!(refused.iter().any(|words| error.contains(words)), "{error}");
            }
        };
        let made = wanted(name, seed);
        tokio::select! {
            () = peep => panic!("a stranger is in `{name}`"),
            done = Postgres.provide(&server, &made) => drop(done.unwrap()),
        }
        connect(&server, &made).await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_is_made_of_what_apps_connect_to_again_and_again() {
    let (postgres, server) = bench();
    let main = provided(&server, "flyloft_main", None).await;
    let notes = "CREATE TABLE notes AS SELECT repeat(md5(n::text), 30) AS text FROM generate_series(1, 20000) n";
    sql(&server, &main, notes).await.unwrap();
    let (is_over, begun) = (Cell::new(false), Cell::new(0));
    let app = async || {
        let mut cut = Vec::new();
        while !is_over.get() {
            cut.extend(sql(&server, &main, "INSERT INTO notes VALUES ('more')").await.err());
            begun.set(begun.get() + 1);
        }
        cut
    };
    let copying = async {
        while begun.get() < 8 {
            tokio::task::yield_now().await;
        }
        let copy = provided(&server, "flyloft_pr_7", Some(&main)).await;
        is_over.set(true);
        copy
    };
    let (copy, cut) = tokio::join!(copying, join_all((0..4).map(|_| app())));
    for said in cut.iter().flatten() {
        let is_cut = ["terminating connection", "connection closed", "communicating with the server"];
        assert!(is_cut.iter().any(|words| said.contains(words)), "{said}");
    }
    let count = async |of: &Wanted| sql(&server, of, "SELECT count(*) FROM notes").await.unwrap().parse::<u32>();
    assert!(count(&copy).await.unwrap() > 20000 && count(&main).await.unwrap() >= count(&copy).await.unwrap());
    for wanted in [main, copy] {
        Postgres.remove(&server, &wanted.label).await.unwrap();
    }
    assert_eq!(left(&postgres), "0 0");
}

#[tokio::test]
async fn fresh_data_take_the_place_of_others_when_they_are_whole_and_not_before() {
    let (postgres, server) = bench();
    let main = provided(&server, "flyloft_main", None).await;
    let notes = "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('old')";
    sql(&server, &main, notes).await.unwrap();
    let missing = Wanted { seed: Some(wanted("flyloft_nobody", None).label), ..main.clone() };
    let refused = Postgres.renew(&server, &missing).await.unwrap_err();
    assert_eq!(refused.fault, Fault::NoSeed("flyloft_nobody".to_owned()));
    postgres.sql("CREATE DATABASE flynew_main");
    let refused = Postgres.renew(&server, &main).await.unwrap_err();
    assert_eq!(refused.fault, Fault::Taken { what: "database", name: "flynew_main".to_owned() });
    assert_eq!(sql(&server, &main, "SELECT text FROM notes").await.unwrap(), "old");

    // As a renewal that was cut off has left it.
    postgres.sql("COMMENT ON DATABASE flynew_main IS 'flyloft 1f3a9c flyloft_main'");
    postgres.sql("GRANT flyloft_main TO admin");
    postgres.sql("ALTER DATABASE flynew_main OWNER TO flyloft_main");
    let busy = connect(&server, &main).await.unwrap();
    Postgres.renew(&server, &main).await.unwrap();
    assert!(busy.simple_query("SELECT 1").await.is_err());
    let gone = sql(&server, &main, "SELECT text FROM notes").await.unwrap_err();
    assert_eq!(gone, "relation \"notes\" does not exist");
    sql(&server, &main, notes).await.unwrap();
    assert_eq!(left(&postgres), "1 1");

    // Filled by a program, which works with the one aside under the same role.
    let programs = Postgres.open_aside(&server, &main).await.unwrap();
    let named = |name: &str| programs.env.iter().find(|(found, _)| found == name).unwrap().1.clone();
    assert_eq!((named("PGDATABASE").as_str(), named("PGUSER").as_str()), ("flynew_main", "flyloft_main"));
    assert!(!format!("{:?}{:?}", programs.shell, programs.dumps).contains("5ecret"));
    let inside = Session::open_in(&server, &named("PGDATABASE")).await.unwrap();
    inside.run("fill it", "SET ROLE flyloft_main; CREATE TABLE notes (text text)").await.unwrap();
    Postgres.put_in_place(&server, &main.label).await.unwrap();
    assert_eq!(sql(&server, &main, "SELECT count(*) FROM notes").await.unwrap(), "0");
    Postgres.open_aside(&server, &main).await.unwrap();
    Postgres.drop_aside(&server, &main.label).await.unwrap();
    let refused = Postgres.put_in_place(&server, &main.label).await.unwrap_err();
    assert_eq!(refused.fault, Fault::NoSeed("flynew_main".to_owned()));
    assert_eq!(left(&postgres), "1 1");

    Postgres.open_aside(&server, &main).await.unwrap();
    Postgres.remove(&server, &main.label).await.unwrap();
    assert_eq!(left(&postgres), "0 0");
}

#[tokio::test]
async fn a_copy_that_was_cut_off_before_it_was_handed_over_is_made_anew() {
    let (postgres, server) = bench();
    let seed = provided(&server, "flyloft_template_seed", None).await;
    sql(&server, &seed, "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('hello')").await.unwrap();
    Postgres.seal(&server, &seed.label).await.unwrap();
    let copy = wanted("flyloft_a", Some(&seed));
    postgres.sql("CREATE ROLE flyloft_a; COMMENT ON ROLE flyloft_a IS 'flyloft 1f3a9c flyloft_a'");
    postgres.sql("CREATE DATABASE flyloft_a OWNER flyloft_a");
    Postgres.provide(&server, &copy).await.unwrap();
    Postgres.provide(&server, &copy).await.unwrap();
    assert_eq!(sql(&server, &copy, "SELECT text FROM notes").await.unwrap(), "hello");
}
