//! Servers that fail in the middle of a deploy: it says which one, and what to do; nothing half-made is left where the
//! server can still be told so; and the next deploy finds all in order.

use flyloft_core::name::{BranchName, EnvRef, Origin};

use super::rabbitmq::who_is;
use super::redis::{add, deploy};
use super::*;
use crate::service::mariadb_bench::Mariadb;
use crate::service::own_server::certificate;
use crate::service::rabbitmq_bench::Rabbitmq;
use crate::service::redis_bench::Redis;

/// What people read of a deploy that fails, whatever the port.
async fn refusal(bench: &Bench, branch: &str) -> String {
    let error = bench.deploy(branch).await.unwrap_err().text();
    error.replace(&bench.postgres.port.to_string(), "PORT")
}

/// Connections of the administrator's that nobody else can have then.
async fn hold(bench: &Bench, count: usize) -> Vec<tokio_postgres::Client> {
    let mut held = Vec::new();
    for _ in 0..count {
        let url = format!("postgres://apt:x@127.0.0.1:{}/postgres", bench.postgres.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        held.push(client);
    }
    held
}

/// Has the app's environments begin with the data of `main`.
async fn begin_with_main(bench: &Bench) {
    let app = bench.env("main").await.0.name.app;
    let settings = asking("postgres@shop/main").settings;
    bench.stage.store().set_app_settings(&app, &settings).await.unwrap();
    bench.stage.loft.reload(&app, None).await.unwrap();
}

const NOTES: &str = "CREATE TABLE notes AS SELECT repeat(md5(n::text), 30) AS text FROM generate_series(1, 8000) n";

async fn notes(bench: &Bench, branch: &str) -> Result<String, String> {
    sql(&bench.variables(branch).await["DATABASE_URL"], "SELECT count(*) FROM notes").await
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_left_of_what_did_not_fit_and_what_is_there_stays() {
    let bench = Bench::on(Postgres::start_on_disk_of(96)).await;
    bench.deploy("main").await.unwrap();
    sql(&bench.variables("main").await["DATABASE_URL"], NOTES).await.unwrap();
    bench.postgres.leave_of_disk(Some(0));
    let told = refusal(&bench, "other").await;
    let (what, rest) = told.split_once("  because: ").unwrap();
    assert_eq!(what, "error: server `pg` at 127.0.0.1:PORT has no room left on its disk\n");
    assert!(rest.contains("No space left on device"), "{told}");
    assert!(rest.ends_with("  hint: make room there; then: flyloft services check pg\n"), "{told}");
    assert_eq!(bench.made(), "1 1");

    // Nor is there a copy.
    begin_with_main(&bench).await;
    bench.deploy("main").await.unwrap();
    bench.postgres.leave_of_disk(Some(0));
    let told = refusal(&bench, "other").await;
    assert!(told.contains("has no room left on its disk"), "{told}");
    assert_eq!((bench.made().as_str(), notes(&bench, "main").await.unwrap().as_str()), ("1 1", "8000"));
    bench.postgres.leave_of_disk(None);
    bench.deploy("other").await.unwrap();
    assert_eq!(notes(&bench, "other").await.unwrap(), "8000");

    // Nor fresh data, and those that are there stay.
    let other = bench.variables("other").await["DATABASE_URL"].clone();
    sql(&other, "DELETE FROM notes WHERE ctid <> '(0,1)'").await.unwrap();
    let (env, _) = bench.env("other").await;
    let owned = data::owned(bench.parts(), &env, Among::Everything, None).await.unwrap();
    bench.postgres.leave_of_disk(Some(0));
    let error = data::renew(bench.parts(), &env, &owned, &env.asked).await.unwrap_err().text();
    assert!(error.contains("has no room left on its disk"), "{error}");
    assert_eq!((bench.made().as_str(), notes(&bench, "other").await.unwrap().as_str()), ("2 2", "1"));
    let aside = bench.postgres.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'flynew%'");
    assert_eq!(aside, "0");
}

#[tokio::test]
async fn a_server_without_a_connection_left_is_asked_again_and_told_of_when_that_is_in_vain() {
    let bench = Bench::on(Postgres::start_with(&["max_connections=8", "superuser_reserved_connections=3"])).await;
    let held = hold(&bench, 5).await;
    insta::assert_snapshot!(refusal(&bench, "main").await, @r"
    error: server `pg` at 127.0.0.1:PORT has no connection left
      because: remaining connection slots are reserved for non-replication superuser connections
      hint: raise its `max_connections`, or end what holds them; then: flyloft services check pg
    ");
    assert_eq!(bench.made(), "0 0");
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(held);
    };
    let (deployed, ()) = tokio::join!(bench.deploy("main"), release);
    deployed.unwrap();

    // A copy of what may be in use takes another one.
    sql(&bench.variables("main").await["DATABASE_URL"], NOTES).await.unwrap();
    begin_with_main(&bench).await;
    bench.deploy("main").await.unwrap();
    let held = hold(&bench, 4).await;
    let told = refusal(&bench, "other").await;
    assert!(told.contains("server `pg` at 127.0.0.1:PORT has no connection left"), "{told}");
    assert_eq!(bench.made(), "1 1");
    drop(held);
    bench.deploy("other").await.unwrap();
    assert_eq!((bench.made().as_str(), notes(&bench, "other").await.unwrap().as_str()), ("2 2", "8000"));
}

/// Somebody is connected to what each new database is a copy of, so that making one takes its time.
async fn hold_up(bench: &Bench) -> tokio_postgres::Client {
    let url = format!("{}template1", bench.postgres.url().trim_end_matches("postgres"));
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_server_that_goes_down_in_the_middle_is_asked_again_when_it_is_up() {
    let mut bench = Bench::new().await;
    let _held = hold_up(&bench).await;
    let (_, conductor) = bench.env("main").await;
    let work = bench.stage.launch_in(&conductor, Again::Rollback, asking("postgres"));
    let mut work = std::pin::pin!(work);
    let is_under_way = async || bench.made() == "0 1";
    tokio::select! {
        ended = &mut work => panic!("it has ended: {ended:?}"),
        () = bench.stage.wait_until("there is a role", is_under_way) => {}
    }
    bench.postgres.stop();
    bench.postgres.run();
    work.await.unwrap();
    assert_eq!(bench.made(), "1 1");
}

#[tokio::test]
async fn what_a_server_keeps_that_goes_down_in_the_middle_is_brought_to_its_end_or_goes_with_its_environment() {
    let mut bench = Bench::new().await;
    for (branch, before) in [("main", "0 1"), ("other", "0 2")] {
        let _held = hold_up(&bench).await;
        let (_, conductor) = bench.env(branch).await;
        let mut work = std::pin::pin!(bench.stage.launch_in(&conductor, Again::Rollback, asking("postgres")));
        let is_under_way = async || bench.made() == before;
        tokio::select! {
            ended = &mut work => panic!("it has ended: {ended:?}"),
            () = bench.stage.wait_until("there is a role", is_under_way) => {}
        }
        bench.postgres.stop();
        let error = work.await.unwrap_err().text();
        assert!(error.contains("server `pg` at 127.0.0.1:") && error.contains("cannot be reached"), "{error}");
        bench.postgres.run();
        assert_eq!(bench.made(), before, "nobody could tell it to forget that");
    }
    bench.deploy("main").await.unwrap();
    sql(&bench.variables("main").await["DATABASE_URL"], "SELECT 1").await.unwrap();
    bench.destroy("other").await;
    bench.stage.wait_until("nothing is left of it", async || bench.strays().await == 0).await;
    assert_eq!(bench.made(), "1 1");
}

#[tokio::test]
async fn an_administrator_who_has_lost_a_right_or_whose_password_has_changed_leaves_nothing_half_made() {
    let bench = Bench::new().await;
    bench.postgres.sql("ALTER ROLE apt NOCREATEDB");
    insta::assert_snapshot!(refusal(&bench, "main").await, @r#"
    error: server `pg` at 127.0.0.1:PORT lacks a right: `apt` may not make a database
      because: permission denied to create database
      hint: let the server's owner run there: ALTER ROLE "apt" CREATEDB CREATEROLE
    "#);
    assert_eq!(bench.made(), "0 0");
    bench.postgres.sql("ALTER ROLE apt CREATEDB PASSWORD 'y'");
    let told = refusal(&bench, "main").await;
    assert!(told.contains("server `pg` at 127.0.0.1:PORT does not let `apt` in: the password is wrong"), "{told}");
    bench.postgres.sql("ALTER ROLE apt PASSWORD 'x'");
    bench.deploy("main").await.unwrap();
    assert_eq!(bench.made(), "1 1");
}

#[tokio::test]
async fn a_server_that_shows_another_certificate_than_it_should_is_given_nothing() {
    let mut bench = Bench::new().await;
    let [one, other] = ["one", "other"].map(|name| certificate(name, "IP:127.0.0.1"));
    bench.postgres.stop();
    bench.postgres.admit("hostssl all all all scram-sha-256\n");
    bench.postgres.write("data/postgresql.auto.conf", "ssl = on\n");
    // Whoever named it had a key in the same file.
    bench.stage.sql(&format!("UPDATE servers SET ca = '{}', url = url || '?sslmode=require'", one.concat()));
    let show = |bench: &mut Bench, [key, certificate]: &[String; 2]| {
        bench.postgres.write("data/server.key", key);
        bench.postgres.write("data/server.crt", certificate);
        bench.postgres.run();
    };
    show(&mut bench, &other);
    let told = refusal(&bench, "main").await;
    let (what, rest) = told.split_once('\n').unwrap();
    assert_eq!(what, "error: server `pg` at 127.0.0.1:PORT has a certificate that nobody vouches for");
    assert!(rest.contains("hint: name the certificate of who signed it: --ca FILE"), "{told}");
    bench.postgres.stop();
    show(&mut bench, &one);
    bench.deploy("main").await.unwrap();
    deploy(&bench, "other", "none").await.unwrap();
    let files = async |branch| bench.stage.engine.spec(&bench.env(branch).await.0.live.unwrap().container).files;
    let (variables, file) = (bench.variables("main").await, "/flyloft/ca/pg.pem");
    assert_eq!(variables["PGSSLROOTCERT"], file);
    assert!(variables["DATABASE_URL"].ends_with(&format!("&sslrootcert={file}")), "{variables:?}");
    assert_eq!(files("main").await, BTreeMap::from([(file.to_owned(), one[1].clone())]));
    assert_eq!(files("other").await, BTreeMap::new(), "it has nothing there");

    // What libpq goes by for all connections would be wrong for those to another server.
    super::redis::add(&bench, "pg2", Kind::Postgres, &(bench.postgres.url() + "?sslmode=require")).await;
    bench
        .stage
        .sql("UPDATE servers SET created_at = 0, ca = (SELECT ca FROM servers WHERE name = 'pg') WHERE name = 'pg2'");
    deploy(&bench, "main", "postgres,postgres:REPORTS").await.unwrap();
    let variables = bench.variables("main").await;
    assert!(variables["DATABASE_URL"].ends_with("sslmode=verify-full&sslrootcert=/flyloft/ca/pg.pem"), "{variables:?}");
    assert!(variables["REPORTS_URL"].ends_with("sslmode=verify-full&sslrootcert=/flyloft/ca/pg2.pem"), "{variables:?}");
    assert!(variables.keys().all(|name| !name.starts_with("PGSSL")), "{variables:?}");
    assert_eq!(files("main").await.len(), 2);
}

#[tokio::test]
async fn two_deploys_of_an_environment_race_for_one_database() {
    // Each connection takes its time, so that they meet.
    let bench = Bench::on(Postgres::start_with(&["post_auth_delay=1"])).await;
    let (first, second) = tokio::join!(bench.deploy("main"), bench.deploy("main"));
    let error = [&first, &second].into_iter().find_map(|ended| ended.as_ref().err()).expect("one gives way");
    assert!(error.what.contains("is superseded by"), "{error:?}");
    assert!(first.is_ok() || second.is_ok());
    sql(&bench.variables("main").await["DATABASE_URL"], "SELECT 1").await.unwrap();
    assert_eq!(bench.made(), "1 1");
}

#[tokio::test]
async fn the_longest_names_are_names_on_every_server() {
    let bench = Bench::new().await;
    let (mariadb, redis, rabbitmq) = (Mariadb::start(), Redis::start(), Rabbitmq::start());
    add(&bench, "maria", Kind::Mysql, &mariadb.url()).await;
    add(&bench, "cache", Kind::Redis, &redis.url()).await;
    add(&bench, "mq", Kind::Rabbitmq, &rabbitmq.url()).await;
    let name = EnvRef::parse(&format!("{}/{}", "a".repeat(30), "b".repeat(40))).unwrap();
    bench.stage.store().create_app(&name.app, None, 1).await.unwrap();
    let branch = Origin::Branch(BranchName::parse("main").unwrap());
    let (_, conductor) = bench.stage.loft.ensure(&name, &branch).await.unwrap();
    let alias = "Z".repeat(30);
    let queues = "Y".repeat(30);
    let asked = format!("postgres,postgres:{alias},mysql,redis,redis/database:JOBS,rabbitmq,rabbitmq:{queues}");
    bench.stage.launch_in(&conductor, Again::Rollback, asking(&asked)).await.unwrap();
    let (env, _) = bench.stage.loft.find(&name).await.unwrap();
    let variables = bench.stage.engine.spec(&env.live.clone().unwrap().container).env;
    sql(&variables[&format!("{alias}_URL")], "CREATE TABLE a (b int)").await.unwrap();
    let owned = data::owned(bench.parts(), &env, Among::Everything, Some(&alias)).await.unwrap();
    data::renew(bench.parts(), &env, &owned, &env.asked).await.unwrap();
    let gone = sql(&variables[&format!("{alias}_URL")], "SELECT b FROM a").await.unwrap_err();
    assert_eq!(gone, "relation \"a\" does not exist");
    let (user, database) = (&variables["MYSQL_USER"], &variables["MYSQL_DATABASE"]);
    assert_eq!(mariadb.sql_as(user, &variables["MYSQL_PASSWORD"], database, "SELECT 1").unwrap(), "1");
    assert_eq!((rabbitmq.left(), who_is(&rabbitmq, &variables).as_str()), (4, "Not management user"));
    conductor.tell(Event::Destroy).await.unwrap();
    conductor.gone().await;
    bench.stage.wait_until("nothing is left", async || bench.strays().await == 0).await;
    assert_eq!((bench.made().as_str(), rabbitmq.left()), ("0 0", 0));
    assert_eq!(mariadb.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'flyloft%'"), "0");
    assert!(!redis.ask("ACL USERS").contains("flyloft_"));
}

#[tokio::test]
async fn a_mariadb_or_a_redis_that_does_half_of_it_keeps_nothing_of_that() {
    let bench = Bench::new().await;
    let (mariadb, redis) = (Mariadb::start(), Redis::start());
    mariadb.sql("CREATE USER apt IDENTIFIED BY 'x'; GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO apt");
    mariadb.sql("GRANT SELECT ON mysql.user TO apt; GRANT ALL ON `flyloft\\_%`.* TO apt WITH GRANT OPTION");
    add(&bench, "maria", Kind::Mysql, &format!("mysql://apt:x@127.0.0.1:{}/", mariadb.port)).await;
    add(&bench, "cache", Kind::Redis, &redis.url()).await;
    mariadb.sql("REVOKE CREATE USER ON *.* FROM apt");
    let error = deploy(&bench, "main", "mysql").await.unwrap_err().text();
    assert!(error.contains("server `maria` at 127.0.0.1:") && error.contains("lacks a right: `apt`"), "{error}");
    assert_eq!(mariadb.sql("SHOW DATABASES LIKE 'flyloft%'"), "flyloft_labels");
    assert_eq!(mariadb.sql("SELECT COUNT(*) FROM flyloft_labels.labels"), "0");
    mariadb.sql("GRANT CREATE USER ON *.* TO apt");
    deploy(&bench, "main", "mysql").await.unwrap();

    // It cannot write down whom it has made.
    redis.refuse_files(true);
    let error = deploy(&bench, "main", "redis").await.unwrap_err().text();
    assert!(error.contains("server `cache` at 127.0.0.1:") && error.contains("save users"), "{error}");
    assert!(!redis.ask("ACL USERS").contains("flyloft_"));
    redis.refuse_files(false);
    deploy(&bench, "main", "redis").await.unwrap();
}
