//! The same with a real MariaDB.

use flyloft_core::service::Kind;

use super::redis::{add, deploy};
use super::*;
use crate::service::mariadb_bench::Mariadb;

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
