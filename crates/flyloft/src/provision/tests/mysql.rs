//! The same with a real MariaDB.

use flyloft_core::name::ReleaseNumber;
use flyloft_core::service::Kind;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};

use super::redis::{add, deploy};
use super::*;
use crate::service::mariadb_bench::Mariadb;
use crate::service::{Client, Dumps};

fn users(mariadb: &Mariadb) -> String {
    mariadb.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'flyloft%'")
}

#[tokio::test]
async fn of_two_databases_the_first_that_is_asked_for_is_the_one_that_apps_look_for() {
    let bench = Bench::new().await;
    let mariadb = Mariadb::start();
    add(&bench, "maria", Kind::Mysql, &mariadb.url()).await;
    for (services, scheme) in [("postgres,mysql", "postgres://"), ("mysql,postgres", "mysql://"), ("mysql", "mysql://")]
    {
        deploy(&bench, "main", services).await.unwrap();
        let variables = bench.variables("main").await;
        assert!(variables["DATABASE_URL"].starts_with(scheme), "{services}: {variables:?}");
        assert!(variables["JAWSDB_MARIA_URL"].starts_with("mysql://") && variables["MYSQL_USER"].len() <= 32);
    }
    let variables = bench.variables("main").await;
    let told = mariadb.sql_as(
        &variables["MYSQL_USER"],
        &variables["MYSQL_PASSWORD"],
        &variables["MYSQL_DATABASE"],
        "SELECT 1",
    );
    assert_eq!(told.unwrap(), "1");
    bench.destroy("main").await;
    bench.stage.wait_until("nothing is left", async || bench.strays().await == 0).await;
    assert_eq!(users(&mariadb), "0");
}

#[tokio::test]
async fn what_a_mariadb_that_was_down_still_has_goes_when_it_is_up_again() {
    let bench = Bench::new().await;
    let mut mariadb = Mariadb::start();
    add(&bench, "maria", Kind::Mysql, &mariadb.url()).await;
    deploy(&bench, "main", "mysql").await.unwrap();
    mariadb.stop();
    let error = deploy(&bench, "other", "mysql").await.unwrap_err().text();
    assert!(error.contains("server `maria` at 127.0.0.1:") && error.contains("cannot be reached"), "{error}");
    bench.destroy("main").await;
    sweep(bench.parts()).await;
    assert_eq!(bench.strays().await, 1);
    mariadb.run();
    assert_eq!(users(&mariadb), "1");
    sweep(bench.parts()).await;
    assert_eq!((bench.strays().await, users(&mariadb).as_str()), (0, "0"));
}

#[tokio::test]
async fn a_mariadb_without_a_connection_left_is_asked_again_and_told_of_when_that_is_in_vain() {
    let bench = Bench::new().await;
    let mariadb = Mariadb::start_with(&["--max-connections=10"]);
    mariadb.sql("CREATE USER apt IDENTIFIED BY 'x'; GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO apt");
    mariadb.sql("GRANT SELECT ON mysql.user TO apt; GRANT ALL ON `flyloft\\_%`.* TO apt WITH GRANT OPTION");
    let url = format!("mysql://apt:x@127.0.0.1:{}/", mariadb.port);
    add(&bench, "maria", Kind::Mysql, &url).await;
    let (url, mut held) = (format!("{url}?prefer_socket=false"), Vec::new());
    while let Ok(conn) = Conn::new(Opts::from_url(&url).unwrap()).await {
        held.push(conn);
    }
    assert!(held.len() >= 10, "{}", held.len());
    let told = deploy(&bench, "main", "mysql").await.unwrap_err().text();
    insta::assert_snapshot!(told.replace(&mariadb.port.to_string(), "PORT"), @r"
    error: server `maria` at 127.0.0.1:PORT has no connection left
      because: Too many connections
      hint: raise its `max_connections`, or end what holds them; then: flyloft services check maria
    ");
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(held);
    };
    let (deployed, ()) = tokio::join!(deploy(&bench, "main", "mysql"), release);
    deployed.unwrap();
    assert_eq!(users(&mariadb), "1");
}

#[tokio::test]
async fn on_the_full_disk_of_a_mariadb_nothing_is_left_of_what_did_not_fit() {
    let bench = Bench::new().await;
    let mut mariadb = Mariadb::start_on_disk_of(192);
    add(&bench, "maria", Kind::Mysql, &mariadb.url()).await;
    deploy(&bench, "main", "mysql").await.unwrap();
    mariadb.leave_of_disk(Some(0));
    let told = deploy(&bench, "other", "mysql").await.unwrap_err().text();
    let told = told.replace(&mariadb.port.to_string(), "PORT");
    let (what, rest) = told.split_once("  because: ").unwrap();
    assert_eq!(what, "error: server `maria` at 127.0.0.1:PORT has no room left on its disk\n");
    assert!(rest.contains("No space left on device"), "{told}");
    assert!(rest.ends_with("  hint: make room there; then: flyloft services check maria\n"), "{told}");
    let made = || {
        let databases = mariadb.sql("SHOW DATABASES LIKE 'flyloft\\_shop%'").lines().count();
        (users(&mariadb), databases, mariadb.sql("SELECT COUNT(*) FROM flyloft_labels.labels"))
    };
    assert_eq!(made(), ("1".to_owned(), 1, "1".to_owned()));
    mariadb.leave_of_disk(None);
    deploy(&bench, "other", "mysql").await.unwrap();
    assert_eq!(made(), ("2".to_owned(), 2, "2".to_owned()));
    // One that was made on a full disk would be of the server's own character set from now on.
    mariadb.stop();
    mariadb.run();
    let sets = "SELECT DISTINCT DEFAULT_CHARACTER_SET_NAME FROM information_schema.SCHEMATA
        WHERE SCHEMA_NAME LIKE 'flyloft\\_shop%'";
    assert_eq!(mariadb.sql(sets), "utf8mb4");
}

#[tokio::test]
async fn a_copy_that_does_not_come_to_its_end_leaves_nothing_behind() {
    let bench = Bench::new().await;
    let mariadb = Mariadb::start();
    add(&bench, "maria", Kind::Mysql, &mariadb.url()).await;
    deploy(&bench, "main", "mysql").await.unwrap();
    let app = bench.env("main").await.0.name.app;
    bench.stage.store().set_app_settings(&app, &asking("mysql@shop/main").settings).await.unwrap();
    bench.stage.loft.reload(&app, None).await.unwrap();
    // Once beside the build, and once after it. The engine in memory copies nothing otherwise, and says that it went well.
    bench.stage.engine.fail("exec", 2);
    let error = deploy(&bench, "other", "none").await.unwrap_err().text();
    assert!(error.contains("failed to start `mariadb-dump`"), "{error}");
    assert_eq!(users(&mariadb), "1");
    deploy(&bench, "other", "none").await.unwrap();
    assert_eq!(users(&mariadb), "2");
    let (env, _) = bench.env("other").await;
    let told = [1, 2].map(|release| {
        let transcript = bench.parts().settings.transcript(env.id, ReleaseNumber(release));
        std::fs::read_to_string(transcript).unwrap().contains("-----> Preparing mariadb-client (once)")
    });
    assert_eq!(told, [true, false], "whoever deploys first is told what that waits for");
    let owned = data::owned(bench.parts(), &env, Among::Kind(Kind::Mysql), None).await.unwrap();
    let variables = bench.variables("other").await;
    let ask = |sql: &str| {
        mariadb.sql_as(&variables["MYSQL_USER"], &variables["MYSQL_PASSWORD"], &variables["MYSQL_DATABASE"], sql)
    };
    ask("CREATE TABLE notes (text VARCHAR(9))").unwrap();
    bench.stage.engine.fail("exec", 1);
    let error = data::renew(bench.parts(), &env, &owned, &env.asked).await.unwrap_err().text();
    assert!(error.contains("hint: what was there is there still"), "{error}");
    assert_eq!(ask("SHOW TABLES").unwrap(), "notes");
    data::renew(bench.parts(), &env, &owned, &env.asked).await.unwrap();
    assert_eq!(ask("SHOW TABLES").unwrap(), "");
    assert_eq!(mariadb.sql("SHOW DATABASES LIKE 'flyloft%\\_new'"), "");
    for branch in ["main", "other"] {
        bench.destroy(branch).await;
    }
    bench.stage.wait_until("nothing is left", async || bench.strays().await == 0).await;
    assert_eq!(mariadb.sql("SELECT COUNT(*) FROM flyloft_labels.labels"), "0");
}

#[tokio::test]
async fn a_dump_that_is_read_by_nobody_to_its_end_gives_its_turn_back() {
    let bench = Bench::new().await;
    let row = bench.parts().store.server("pg").await.unwrap().unwrap();
    let server = opened(bench.parts(), row).await.unwrap();
    let dumps = Dumps { dump: vec!["yes".to_owned()], restore: vec!["true".to_owned()] };
    let programs = Client {
        packages: &["coreutils"],
        user: String::new(),
        env: Vec::new(),
        shell: Vec::new(),
        dumps: Some(dumps),
    };
    let poured = in_time("it ends", dumped::pour(bench.parts(), &server, &programs, &programs)).await;
    let error = poured.unwrap_err().text();
    assert!(error.contains("failed to copy data on server `pg`\n  because: it ended with status 141"), "{error}");
}

#[tokio::test]
async fn what_takes_the_place_of_other_data_comes_to_its_end_whoever_goes_and_is_kept_aside_until_it_is_whole_there() {
    let bench = Bench::new().await;
    let mariadb = Mariadb::start();
    add(&bench, "maria", Kind::Mysql, &mariadb.url()).await;
    deploy(&bench, "main", "mysql").await.unwrap();
    let (env, _) = bench.env("main").await;
    let owned = data::owned(bench.parts(), &env, Among::Kind(Kind::Mysql), None).await.unwrap();
    let variables = bench.variables("main").await;
    let name = &variables["MYSQL_DATABASE"];
    let ask = |sql: &str| mariadb.sql_as(name, &variables["MYSQL_PASSWORD"], name, sql);
    let aside = || mariadb.sql("SHOW DATABASES LIKE 'flyloft%\\_new'");
    ask("CREATE TABLE notes (text VARCHAR(9))").unwrap();

    // It begins with nothing, so that what is started at first is what reads it in where it belongs.
    bench.stage.engine.fail("exec", 1);
    let error = data::renew(bench.parts(), &env, &owned, &env.asked).await.unwrap_err().text();
    let kept = format!("until then a whole copy of them is what `{}` has on server `maria`", aside());
    assert!(error.contains("run the same command again") && error.contains(&kept), "{error}");
    assert!(!aside().is_empty());
    ask("CREATE TABLE notes (text VARCHAR(9))").unwrap();

    // A server that waits for somebody is slow to drop a database.
    let mut holder = Conn::new(Opts::from_url(&mariadb.url()).unwrap()).await.unwrap();
    holder.query_drop("BEGIN").await.unwrap();
    holder.query_drop(format!("SELECT * FROM {name}.notes")).await.unwrap();
    let waiting = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for%metadata lock'";
    tokio::select! {
        ended = data::renew(bench.parts(), &env, &owned, &env.asked) => panic!("it does not wait: {ended:?}"),
        () = bench.stage.wait_until("it waits", async || mariadb.sql(waiting) == "1") => {}
    }
    let again = data::renew(bench.parts(), &env, &owned, &env.asked).await.unwrap_err();
    assert_eq!(again.what, "its data are being replaced already");
    holder.disconnect().await.unwrap();
    bench.stage.wait_until("it has come to its end", async || aside().is_empty()).await;
    assert_eq!(ask("SHOW TABLES").unwrap(), "");
}
