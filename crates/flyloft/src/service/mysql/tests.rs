//! With a real server, which is MariaDB.

use std::collections::BTreeSet;

use flyloft_core::service::{Isolation, Kind};

use super::*;
use crate::error;
use crate::exec::Cmd;
use crate::service::Secret;
use crate::service::mariadb_bench::{Mariadb, PASSWORD};
use crate::service::own_server::certificate;

fn server(url: &str) -> Server {
    let (url, password) = ServerUrl::parse(Kind::Mysql, url).unwrap();
    Server { name: "maria".to_owned(), url, password: Secret(password), ca: None, beside: None }
}

fn at(port: u16, who: &str, rest: &str) -> Server {
    server(&format!("mysql://{who}@127.0.0.1:{port}/{rest}"))
}

fn label(name: &str) -> Label {
    Label { name: format!("flyloft_{name}"), text: format!("flyloft 1f3a9c flyloft_{name}"), number: None }
}

fn wanted(name: &str) -> Wanted {
    let (password, isolation) = (Secret("0123456789abcdef".to_owned()), Isolation::Usual);
    Wanted { label: label(name), password, connections: 3, isolation, taken: BTreeSet::new(), seed: None }
}

/// What the app that was given this gets.
fn ask(mariadb: &Mariadb, name: &str, sql: &str) -> Result<String, String> {
    let name = format!("flyloft_{name}");
    mariadb.sql_as(&name, "0123456789abcdef", &name, sql)
}

/// The server as the app sees it that was given this.
fn app(mariadb: &Mariadb, name: &str) -> Server {
    at(mariadb.port, &format!("flyloft_{name}:0123456789abcdef"), &format!("flyloft_{name}"))
}

/// What people read.
async fn refusal(server: &Server) -> String {
    let error = Mysql.check(server).await.unwrap_err();
    let port = server.url.port.to_string();
    error::Error::from(error).text().replace(&port, "PORT")
}

/// Users and databases of ours that the server has.
fn left(mariadb: &Mariadb) -> String {
    let users = mariadb.sql("SELECT User FROM mysql.user WHERE User LIKE 'flyloft%' ORDER BY User");
    let databases = mariadb.sql("SHOW DATABASES LIKE 'flyloft%'");
    [users, databases].join("; ").replace('\n', " ")
}

#[tokio::test]
async fn a_server_that_is_well_says_what_it_is_whatever_the_password_has_in_it() {
    let mariadb = Mariadb::start_with(&["--max-connections=50"]);
    let server = server(&mariadb.url());
    assert_eq!(server.password.0, PASSWORD);
    let health = Mysql.check(&server).await.unwrap();
    assert!(health.version.ends_with("-MariaDB") && mariadb.sql("SELECT VERSION()").starts_with(&health.version));
    assert_eq!(health.max_connections, Some(50));
    assert!((1..5).contains(&health.connections), "{health:?}");
    assert_eq!(left(&mariadb), "; ", "who only looks leaves nothing");
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_told_with_what_to_do() {
    let mut mariadb = Mariadb::start_with(&["--max-connections=10"]);
    let port = mariadb.port;
    let grants = [
        "apt CREATE USER, PROCESS, CONNECTION ADMIN",
        "nouser PROCESS, CONNECTION ADMIN",
        "noprocess CREATE USER, CONNECTION ADMIN",
        "nokill CREATE USER, PROCESS",
        "nogrant CREATE USER, PROCESS, CONNECTION ADMIN",
    ];
    for (name, rights) in grants.iter().filter_map(|line| line.split_once(' ')) {
        mariadb.sql(&format!("CREATE USER {name} IDENTIFIED BY 'x'; GRANT {rights} ON *.* TO {name}"));
        mariadb.sql(&format!("GRANT SELECT ON mysql.user TO {name}"));
        let option = if name == "nogrant" { "" } else { "WITH GRANT OPTION" };
        mariadb.sql(&format!("GRANT ALL ON `flyloft\\_%`.* TO {name} {option}"));
    }
    mariadb.sql("CREATE USER nolook IDENTIFIED BY 'x'; GRANT CREATE USER, PROCESS ON *.* TO nolook");
    mariadb.sql("CREATE USER elsewhere@'203.0.113.1' IDENTIFIED BY 'x'");
    assert!(Mysql.check(&at(port, "apt:x", "")).await.is_ok());
    let mut told = String::new();
    for (who, rest) in [
        ("admin:wrong", ""),
        ("nobody:x", ""),
        ("admin", ""),
        ("nouser:x", ""),
        ("noprocess:x", ""),
        ("nokill:x", ""),
        ("nogrant:x", ""),
        ("nolook:x", ""),
        ("apt:x", "nowhere"),
        ("apt:x", "?sslmode=require"),
    ] {
        told += &refusal(&at(port, who, rest)).await;
    }
    let holder = at(port, "apt:x", "");
    let mut held = Vec::new();
    while let Ok(session) = Session::open(&holder).await {
        held.push(session);
    }
    told += &refusal(&holder).await;
    drop(held);
    mariadb.stop();
    told += &refusal(&holder).await.replace("Connection refused (os error 111)", "REFUSED");
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn an_administrator_with_no_more_than_is_needed_makes_and_removes() {
    let mariadb = Mariadb::start();
    mariadb.sql("CREATE USER apt IDENTIFIED BY 'x'; GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO apt");
    mariadb.sql("GRANT SELECT ON mysql.user TO apt; GRANT ALL ON `flyloft\\_%`.* TO apt WITH GRANT OPTION");
    let server = at(mariadb.port, "apt:x", "");
    Mysql.provide(&server, &wanted("one")).await.unwrap();
    ask(&mariadb, "one", "CREATE TABLE notes (text VARCHAR(9)); INSERT INTO notes VALUES ('hello')").unwrap();
    Mysql.provide(&server, &wanted("one")).await.unwrap();
    assert_eq!(ask(&mariadb, "one", "SELECT text FROM notes").unwrap(), "hello");
    assert_eq!(ask(&mariadb, "one", "SELECT @@character_set_database").unwrap(), "utf8mb4");
    Mysql.remove(&server, &label("one")).await.unwrap();
    assert_eq!(left(&mariadb), "; flyloft_labels");
    assert_eq!(mariadb.sql("SELECT COUNT(*) FROM flyloft_labels.labels"), "0");
}

#[tokio::test]
async fn an_encrypted_server_is_believed_if_who_signed_its_certificate_was_named() {
    let [right, elsewhere] = [("right", "IP:127.0.0.1"), ("elsewhere", "DNS:db.example.org")];
    let [right, elsewhere] = [right, elsewhere].map(|(name, host)| certificate(name, host));
    let mut told = String::new();
    for [key, certificate] in [&right, &elsewhere] {
        let mut mariadb = Mariadb::prepared(&[
            "--ssl-cert=DIR/server.crt",
            "--ssl-key=DIR/server.key",
            "--require-secure-transport=ON",
        ]);
        mariadb.write("server.crt", certificate);
        mariadb.write("server.key", key);
        mariadb.run();
        let open = server(&mariadb.url());
        let plain = server(&format!("{}?sslmode=require", mariadb.url()));
        let named = |ca: &str| Server { ca: Some(ca.to_owned()), ..plain.clone() };
        if certificate == &right[1] {
            Mysql.check(&named(&right[1])).await.unwrap();
            told += &refusal(&plain).await;
            told += &refusal(&open).await;
        }
        told += &refusal(&named(&elsewhere[1])).await;
    }
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn nobody_gets_at_the_database_of_another_and_a_password_is_in_no_log() {
    let mariadb = Mariadb::start_with(&["--general-log=ON", "--general-log-file=DIR/general"]);
    let server = server(&mariadb.url());
    // A pattern that stands for any character would give the second to the first.
    for name in ["a_b", "axb"] {
        Mysql.provide(&server, &wanted(name)).await.unwrap();
    }
    ask(&mariadb, "axb", "CREATE TABLE notes (text VARCHAR(9)); INSERT INTO notes VALUES ('secret')").unwrap();
    for forbidden in [
        "SELECT * FROM flyloft_axb.notes",
        "USE flyloft_axb",
        "DROP DATABASE flyloft_axb",
        "CREATE DATABASE flyloft_more",
        "SELECT * FROM flyloft_labels.labels",
        "SELECT * FROM mysql.user",
        "CREATE USER another",
        "GRANT ALL ON flyloft_a_b.* TO flyloft_axb",
    ] {
        let refused = ask(&mariadb, "a_b", forbidden).expect_err(forbidden);
        assert!(refused.contains("denied"), "{forbidden}: {refused}");
    }
    let seen = ask(&mariadb, "a_b", "SHOW DATABASES").unwrap();
    assert_eq!(seen.lines().collect::<Vec<_>>(), ["flyloft_a_b", "information_schema"]);
    let general = mariadb.read("general");
    assert!(general.contains("CREATE USER") && !general.contains("0123456789abcdef"), "the server's log has it");
    let limit = "SELECT max_user_connections FROM mysql.user WHERE User = 'flyloft_a_b'";
    assert_eq!(mariadb.sql(limit), "3");
}

#[tokio::test]
async fn what_is_removed_cuts_who_is_connected_and_an_app_that_made_its_database_anew_has_not_hidden_it() {
    let mariadb = Mariadb::start();
    let server = server(&mariadb.url());
    for name in ["one", "other"] {
        Mysql.provide(&server, &wanted(name)).await.unwrap();
    }
    ask(&mariadb, "one", "DROP DATABASE flyloft_one; CREATE DATABASE flyloft_one").unwrap();
    let app = app(&mariadb, "one");
    let mut held = Session::open(&app).await.unwrap();
    for statement in ["CREATE TABLE open (a INT)", "BEGIN", "INSERT INTO open VALUES (1)"] {
        held.run("ask", statement).await.unwrap();
    }
    Mysql.remove(&server, &label("one")).await.unwrap();
    assert!(held.run("ask", "SELECT 1").await.is_err());
    assert_eq!(left(&mariadb), "flyloft_other; flyloft_labels flyloft_other");
    let names = ["one", "other"].map(|name| label(name).name);
    assert_eq!(Mysql.lost(&server, &names).await.unwrap(), ["flyloft_one"]);
    Mysql.remove(&server, &label("one")).await.unwrap();
}

#[tokio::test]
async fn connections_of_those_who_sleep_are_ended_but_not_one_on_which_something_has_just_happened() {
    let mariadb = Mariadb::start();
    let server = server(&mariadb.url());
    assert!(
        Mysql.hang_up(&server, &[label("one")], Duration::ZERO).await.unwrap().is_empty(),
        "there is nothing of ours"
    );
    for name in ["one", "other"] {
        Mysql.provide(&server, &wanted(name)).await.unwrap();
    }
    let apps = [app(&mariadb, "one"), app(&mariadb, "other")];
    let [mut one, mut other] = [Session::open(&apps[0]).await.unwrap(), Session::open(&apps[1]).await.unwrap()];
    let hang_up = async |label: &Label, quiet| {
        let ended = Mysql.hang_up(&server, std::slice::from_ref(label), quiet).await;
        ended.unwrap()
    };
    assert_eq!(hang_up(&label("one"), Duration::from_secs(60)).await, ["flyloft_one"]);
    one.run("ask", "SELECT 1").await.unwrap();
    let stranger = Label { text: "payroll".to_owned(), ..label("one") };
    assert!(hang_up(&stranger, Duration::ZERO).await.is_empty());
    one.run("ask", "SELECT 1").await.unwrap();
    assert!(hang_up(&label("one"), Duration::ZERO).await.is_empty());
    assert_eq!(one.run("ask", "SELECT 1").await.unwrap_err().fault, Fault::Down);

    // Nor one on which a statement runs.
    let mut holder = Session::open(&server).await.unwrap();
    holder.run("hold", "SELECT GET_LOCK('turn', 0)").await.unwrap();
    let runs =
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'flyloft_other' AND COMMAND <> 'Sleep'";
    let hanging_up = async {
        while mariadb.sql(runs) != "1" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(hang_up(&label("other"), Duration::ZERO).await, ["flyloft_other"]);
        holder.run("hold", "SELECT RELEASE_LOCK('turn')").await.unwrap();
    };
    let (ran, ()) = tokio::join!(other.run("ask", "SELECT GET_LOCK('turn', 60)"), hanging_up);
    ran.unwrap();
}

#[tokio::test]
async fn what_is_not_ours_is_neither_used_nor_dropped() {
    let mariadb = Mariadb::start();
    let server = server(&mariadb.url());
    let mut told = String::new();
    let names = ["user", "database", "label"];
    mariadb.sql("CREATE USER flyloft_user; CREATE DATABASE flyloft_database");
    Mysql.provide(&server, &wanted("label")).await.unwrap();
    mariadb.sql("UPDATE flyloft_labels.labels SET label = 'flyloft another flyloft_label'");
    let before = left(&mariadb);
    for name in names {
        let refused = Mysql.provide(&server, &wanted(name)).await.unwrap_err();
        assert!(matches!(refused.fault, Fault::Taken { .. }), "{refused}");
        let refused = Mysql.remove(&server, &label(name)).await.unwrap_err();
        told += &error::Error::from(refused).text().replace(&mariadb.port.to_string(), "PORT");
    }
    assert_eq!(left(&mariadb), before);
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn what_was_cut_off_in_the_middle_is_brought_to_its_end_and_two_at_once_make_it_once() {
    let mariadb = Mariadb::start();
    let server = server(&mariadb.url());
    Mysql.provide(&server, &wanted("first")).await.unwrap();
    mariadb.sql("INSERT INTO flyloft_labels.labels VALUES ('flyloft_one', 'flyloft 1f3a9c flyloft_one')");
    mariadb.sql("CREATE DATABASE flyloft_one");
    let wanted = wanted("one");
    let all = (0..4).map(|_| Mysql.provide(&server, &wanted));
    for made in futures_util::future::join_all(all).await {
        made.unwrap();
    }
    assert_eq!(ask(&mariadb, "one", "SELECT 1").unwrap(), "1");
    mariadb.sql("DROP USER flyloft_one");
    Mysql.remove(&server, &label("one")).await.unwrap();
    assert_eq!(left(&mariadb), "flyloft_first; flyloft_first flyloft_labels");
}

#[tokio::test]
async fn what_is_filled_aside_is_no_business_of_the_apps_and_what_is_not_ours_there_is_left_alone() {
    let mariadb = Mariadb::start();
    mariadb.sql("CREATE USER apt IDENTIFIED BY 'x'; GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO apt");
    mariadb.sql("GRANT SELECT ON mysql.user TO apt; GRANT ALL ON `flyloft\\_%`.* TO apt WITH GRANT OPTION");
    let server = at(mariadb.port, "apt:x", "");
    Mysql.provide(&server, &wanted("one")).await.unwrap();
    ask(&mariadb, "one", "CREATE TABLE notes (text VARCHAR(9)); INSERT INTO notes VALUES ('old')").unwrap();
    mariadb.sql("CREATE DATABASE flyloft_one_new");
    let refused = Mysql.open_aside(&server, &wanted("one")).await.unwrap_err();
    assert_eq!(refused.fault, Fault::Taken { what: "database", name: "flyloft_one_new".to_owned() });
    Mysql.remove(&server, &label("other")).await.unwrap();
    mariadb.sql("DROP DATABASE flyloft_one_new");
    for _ in 0..2 {
        let programs = Mysql.open_aside(&server, &wanted("one")).await.unwrap();
        assert!(programs.shell.ends_with(&["flyloft_one_new".to_owned()]), "{:?}", programs.shell);
        assert!(!format!("{:?}{:?}", programs.shell, programs.dumps).contains("0123456789abcdef"));
        let aside = "CREATE TABLE flyloft_one_new.notes (text VARCHAR(9))";
        assert!(ask(&mariadb, "one", aside).unwrap_err().contains("denied"));
        mariadb.sql(aside);
    }
    Mysql.drop_aside(&server, &label("one")).await.unwrap();
    assert_eq!(left(&mariadb), "flyloft_one; flyloft_labels flyloft_one");
    let refused = ask(&mariadb, "one", "CREATE DATABASE flyloft_one_new").unwrap_err();
    assert!(refused.contains("denied"), "an app could be in its own way: {refused}");
    Mysql.open_aside(&server, &wanted("one")).await.unwrap();
    assert_eq!(ask(&mariadb, "one", "SELECT text FROM notes").unwrap(), "old");
    let app = app(&mariadb, "one");
    let mut held = Session::open(&app).await.unwrap();
    Mysql.empty(&server, &label("one")).await.unwrap();
    assert!(held.run("ask", "SELECT 1").await.is_err());
    assert_eq!(ask(&mariadb, "one", "SHOW TABLES").unwrap(), "");
    Mysql.remove(&server, &label("one")).await.unwrap();
    assert_eq!(left(&mariadb), "; flyloft_labels");
}

/// What one of its programs prints that is given this.
async fn run(programs: &Programs, argv: &[String], input: &str) -> Result<String, String> {
    let program = Cmd::new(&argv[0]).args(&argv[1..]).stdin(input);
    let program = programs.env.iter().fold(program, |program, (name, value)| program.env(name, value));
    match program.run().await {
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn a_dump_that_names_a_database_is_not_read_and_nothing_in_one_reaches_what_is_in_place() {
    let mariadb = Mariadb::start();
    let server = server(&mariadb.url());
    let wanted = wanted("one");
    Mysql.provide(&server, &wanted).await.unwrap();
    ask(&mariadb, "one", "CREATE TABLE notes (text VARCHAR(99)); INSERT INTO notes VALUES ('a\nUSE `b`;\nc')").unwrap();
    let programs = Mysql.client(&server, &wanted).unwrap();
    let dump = &programs.dumps.as_ref().unwrap().dump;
    let dumped = async |option: &str| {
        let (database, words) = dump.split_last().unwrap();
        run(&programs, &[words, &[option.to_owned(), database.clone()]].concat(), "").await.unwrap()
    };
    let (named, dropped) = (dumped("--databases").await, dumped("--add-drop-database").await);
    assert!(named.contains("\nUSE `flyloft_one`;"), "{named}");
    let dropped = format!("/*!40000 DROP DATABASE IF EXISTS `flyloft_one`*/;\n{dropped}");
    let names = "the dump names a database of its own: take it without `--databases`";
    for (text, said) in [
        (named.as_str(), names),
        (&dropped, names),
        ("USE `flyloft_one`;\nDROP TABLE notes;\n", names),
        ("use flyloft_one;\nDROP TABLE notes;\n", "Access denied"),
        ("DROP TABLE flyloft_one.notes;\n", "command denied"),
    ] {
        let aside = Mysql.open_aside(&server, &wanted).await.unwrap();
        let refused = run(&aside, &aside.dumps.as_ref().unwrap().restore, text).await.expect_err(text);
        assert!(refused.contains(said), "{text}: {refused}");
        assert_eq!(ask(&mariadb, "one", "SELECT COUNT(*) FROM notes").unwrap(), "1");
    }
    let aside = Mysql.open_aside(&server, &wanted).await.unwrap();
    run(&aside, &aside.dumps.as_ref().unwrap().restore, &dumped("--comments").await).await.unwrap();
    let whole = "SELECT COUNT(*) FROM flyloft_one.notes JOIN flyloft_one_new.notes USING (text)";
    assert_eq!(mariadb.sql(whole), "1", "what looks like it in data is data");
}
