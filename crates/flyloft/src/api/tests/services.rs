//! Servers, with a real PostgreSQL.

use super::*;
use crate::service::bench::{ESCAPED, PASSWORD, Postgres};
use crate::service::redis_bench::Redis;

/// With the port left out, which is another one each time.
fn told(postgres: &Postgres, (code, text): (i32, String)) -> String {
    format!("{code}: {}", text.replace(&postgres.port.to_string(), "PORT"))
}

#[tokio::test]
async fn a_server_is_added_listed_tried_and_removed_and_its_password_is_shown_to_whoever_asks() {
    let desk = Desk::new().await;
    let postgres = Postgres::start_with(&["max_connections=20"]);
    let version = postgres.sql("SHOW server_version").split(' ').next().unwrap().to_owned();
    let mut text = String::new();
    let add = ["services", "add", "pg", "--kind", "postgres", "--url", "-"];
    text += &told(&postgres, desk.command(&["services", "ls"]).await);
    text += &told(&postgres, desk.command_with(&add, &postgres.url()).await);
    text += &told(&postgres, desk.command_with(&add, &postgres.url()).await);
    text += &told(&postgres, desk.command(&["services", "ls"]).await);
    text += &told(&postgres, desk.command(&["services", "check"]).await);
    insta::assert_snapshot!(text.replace(&version, "VERSION"));

    let (_, json) = desk.command(&["services", "ls", "--json"]).await;
    assert!(!json.contains(PASSWORD) && !json.contains(ESCAPED), "{json}");
    let (_, json) = desk.command(&["services", "ls", "--json", "--reveal"]).await;
    let listed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(listed["servers"][0]["url"], postgres.url());
    let (_, json) = desk.command(&["services", "check", "pg", "--json"]).await;
    let checked: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(checked["servers"][0]["max_connections"], 20, "{json}");

    assert_eq!(desk.command(&["services", "rm", "pg"]).await, (0, "server `pg` is removed\n".to_owned()));
    assert_eq!(desk.command(&["services", "rm", "pg"]).await.0, 20);
    assert_eq!(desk.command(&["services", "check", "pg"]).await.0, 20);
}

#[tokio::test]
async fn a_server_that_does_not_do_is_not_added_and_one_that_is_down_is_found_among_others() {
    let desk = Desk::new().await;
    let (well, mut ill) = (Postgres::start(), Postgres::start());
    let wrong = format!("postgres://admin:wrong@127.0.0.1:{}/postgres", well.port);
    let add = async |name: &str, url: &str| {
        desk.command_with(&["services", "add", name, "--kind", "postgres", "--url", "-"], url).await
    };
    let (code, said) = add("pg", &wrong).await;
    assert!(code == 1 && said.starts_with("error: server `pg` at 127.0.0.1:"), "{said}");
    assert!(said.contains("does not let `admin` in") && !said.contains("wrong@"), "{said}");
    assert!(desk.stage.store().servers().await.unwrap().is_empty());

    assert_eq!(add("pg", &well.url()).await.0, 0);
    assert_eq!(add("other", &ill.url()).await.0, 0);
    ill.stop();
    let (code, said) = desk.command(&["services", "check"]).await;
    assert!(code == 1 && said.contains("\npg ") && said.contains("server `other` at 127.0.0.1:"), "{said}");
    assert!(said.contains("cannot be reached"), "{said}");
    let (code, _) = desk.command(&["services", "check", "pg"]).await;
    assert_eq!(code, 0);
}

#[tokio::test]
async fn what_is_no_server_is_refused_in_words_that_do_not_quote_its_password() {
    let desk = Desk::new().await;
    let mut text = String::new();
    for (name, url, input) in [
        ("pg", "postgres://admin:s3cret@db@x/postgres", ""),
        ("pg", "mysql://admin:s3cret@db/postgres", ""),
        ("Pg!", "postgres://admin:s3cret@db/postgres", ""),
        ("pg", "-", ""),
        ("pg", "-", "postgres://admin:s3cret@db:port/postgres\n"),
    ] {
        let words = ["services", "add", name, "--kind", "postgres", "--url", url];
        let (code, said) = desk.command_with(&words, input).await;
        assert_eq!(code, 2, "{said}");
        text += &said;
    }
    let words = ["services", "add", "pg", "--kind", "postgres", "--url", "-", "--ca", "-"];
    text += &desk.command_with(&words, "postgres://admin:s3cret@db/postgres\nno certificate").await.1;
    let words = ["services", "add", "pg", "--kind", "postgres", "--url", "-", "--ca", "/etc/ca.pem"];
    text += &desk.command_with(&words, "postgres://admin:s3cret@db/postgres").await.1;
    assert!(!text.contains("s3cret"), "{text}");
    insta::assert_snapshot!(text);
    let (code, said) = desk.command(&["services", "add", "pg", "--kind", "oracle", "--url", "-"]).await;
    assert!(code == 2 && said.contains("`oracle` is no kind of service"), "{said}");
}

#[tokio::test]
async fn servers_are_an_admins_business() {
    let desk = Desk::new().await;
    let bot =
        Principal { name: "bot".to_owned(), role: Role::Deployer { apps: vec![AppName::parse("shop").unwrap()] } };
    for words in [&["services", "ls"][..], &["services", "ls", "--reveal"], &["services", "rm", "pg"]] {
        let (code, said) = desk.command_by(&bot, words).await;
        assert_eq!((code, said.lines().next()), (1, Some("error: key `bot` is not an admin's")));
    }
}

#[tokio::test]
async fn a_password_that_another_key_sealed_is_not_mistaken_for_one_that_is_wrong() {
    let desk = Desk::new().await;
    let postgres = Postgres::start();
    let words = ["services", "add", "pg", "--kind", "postgres", "--url", "-"];
    assert_eq!(desk.command_with(&words, &postgres.url()).await.0, 0);
    desk.stage.sql("UPDATE servers SET password = x'00112233445566778899aabbccddeeff00112233445566'");
    let (code, said) = desk.command(&["services", "check"]).await;
    assert!(code == 1 && said.contains("failed to read the password of server `pg`"), "{said}");
}

#[tokio::test]
async fn a_server_stays_as_long_as_environments_have_something_on_it() {
    let desk = Desk::new().await;
    let postgres = Postgres::start();
    let words = ["services", "add", "pg", "--kind", "postgres", "--url", "-"];
    assert_eq!(desk.command_with(&words, &postgres.url()).await.0, 0);
    let (code, said) = desk.command(&["apps", "set", "shop", "services=postgres"]).await;
    assert!(code == 0 && said.contains("\nservices    postgres  app\n"), "{said}");
    desk.stage.deploy().await.unwrap();
    let (code, said) = desk.command(&["services", "rm", "pg"]).await;
    assert_eq!(code, 1);
    insta::assert_snapshot!(said, @r"
    error: there is something on server `pg`
      hint: destroy what has it, or wait until it has gone: `shop/main`
    ");
    assert_eq!(desk.command(&["destroy", "shop/main", "--yes"]).await.0, 0);
    desk.stage.wait_until("it can go", async || desk.command(&["services", "rm", "pg"]).await.0 == 0).await;
}

#[tokio::test]
async fn data_are_the_business_of_whoever_may_use_the_app_and_templates_that_of_admins() {
    let desk = Desk::new().await;
    let postgres = Postgres::start();
    let words = ["services", "add", "pg", "--kind", "postgres", "--url", "-"];
    assert_eq!(desk.command_with(&words, &postgres.url()).await.0, 0);
    let deployer = |app: &str| Principal {
        name: "bot".to_owned(),
        role: Role::Deployer { apps: vec![AppName::parse(app).unwrap()] },
    };
    let (ours, theirs) = (deployer("shop"), deployer("cart"));
    let commands: [&[&str]; 4] = [
        &["services", "psql", "shop/main"],
        &["services", "dump", "shop/main"],
        &["services", "restore", "shop/main", "-", "--yes"],
        &["services", "reset", "shop/main", "--yes"],
    ];
    for words in commands {
        let (code, said) = desk.command_by(&theirs, words).await;
        assert!(code == 1 && said.contains("`bot`"), "{said}");
        let (code, said) = desk.command_by(&ours, words).await;
        let what = if words[1] == "psql" { "postgres" } else { "database" };
        let none = format!("error: `shop/main` has no {what}");
        assert_eq!((code, said.lines().next()), (20, Some(none.as_str())));
    }
    desk.command(&["apps", "set", "shop", "services=postgres"]).await;
    desk.stage.deploy().await.unwrap();
    // The engine in memory runs nothing, and says that it went well.
    for words in commands {
        let (code, said) = desk.command_by(&ours, words).await;
        assert_eq!(code, 0, "{words:?}: {said}");
    }
    desk.stage.engine.ends("pg_dump", 3);
    let failed = "error: failed to dump `postgres` of `shop/main`\n  because: it ended with status 3\n";
    assert_eq!(desk.command_by(&ours, &["services", "dump", "shop/main"]).await, (1, failed.to_owned()));
    let (code, said) = desk.command_by(&ours, &["services", "psql", "shop/main", "--as", "REPORTS"]).await;
    assert_eq!((code, said.lines().next()), (20, Some("error: `shop/main` has nothing called `REPORTS`")));
    let (code, said) = desk.command(&["services", "restore", "shop/main", "-"]).await;
    assert_eq!(
        (code, said.lines().next()),
        (2, Some("error: all data in `postgres` of `shop/main` would be replaced"))
    );
    let (code, said) = desk.command(&["services", "reset", "shop/main"]).await;
    assert!(code == 2 && said.contains("there is no terminal to ask"), "{said}");
    let (code, said) = desk.command(&["services", "dump", "shop/main", "/etc/motd"]).await;
    assert_eq!((code, said.lines().next()), (2, Some("error: `/etc/motd` would be a file of the server")));

    let template = ["services", "template", "pg", "shop_seed", "--from-dump", "-"];
    let (code, said) = desk.command_by(&ours, &template).await;
    assert_eq!((code, said.lines().next()), (1, Some("error: key `bot` is not an admin's")));
    let (code, said) = desk.command_with(&template, "SELECT 1").await;
    assert_eq!(code, 0, "{said}");
    let (_, listed) = desk.command(&["services", "ls"]).await;
    assert!(listed.contains("\nTEMPLATE   SERVER  AGE  STATE\nshop_seed  pg      "), "{listed}");
    assert_eq!(desk.command(&["destroy", "shop/main", "--yes"]).await.0, 0);
    let (code, said) = desk.command(&["services", "rm", "pg"]).await;
    assert_eq!((code, said.lines().next()), (1, Some("error: there are templates on server `pg`")));
    assert_eq!(desk.command(&["services", "template", "pg", "shop_seed", "--rm"]).await.0, 0);
    desk.stage.wait_until("it can go", async || desk.command(&["services", "rm", "pg"]).await.0 == 0).await;
}

#[tokio::test]
async fn a_server_whose_password_has_changed_is_told_of_anew_while_environments_have_something_on_it() {
    let desk = Desk::new().await;
    let (postgres, other) = (Postgres::start(), Postgres::start());
    postgres.sql("CREATE ROLE apt LOGIN CREATEDB CREATEROLE PASSWORD 'x'");
    let url = |password: &str| format!("postgres://apt:{password}@127.0.0.1:{}", postgres.port);
    let add = ["services", "add", "pg", "--kind", "postgres", "--url", "-"];
    assert_eq!(desk.command_with(&add, &url("x")).await.0, 0);
    desk.command(&["apps", "set", "shop", "services=postgres"]).await;
    desk.stage.deploy().await.unwrap();
    postgres.sql("ALTER ROLE apt PASSWORD 'y'");
    let change = ["services", "change", "pg", "--url", "-"];
    let (code, said) = desk.command_with(&change, &url("z")).await;
    assert!(
        code == 1 && said.contains("hint: give the right one; where it has changed: flyloft services change pg"),
        "{said}"
    );
    let (code, said) = desk.command_with(&change, &url("y")).await;
    assert!(code == 0 && said.starts_with("server `pg` is changed: postgres "), "{said}");
    assert_eq!(desk.command(&["services", "check", "pg"]).await.0, 0);
    let (code, said) = desk.command_with(&change, &other.url().replace("postgres://", "mysql://")).await;
    assert!(code == 2 && said.contains("begins with `postgres://`"), "its kind stays: {said}");
    let (code, said) = desk.command_with(&change, &other.url()).await;
    assert!(code == 1 && said.contains(" is another server than `pg`: it has no `flyloft_shop_main_"), "{said}");
    assert_eq!(desk.command(&["services", "check", "pg"]).await.0, 0);
    let bot =
        Principal { name: "bot".to_owned(), role: Role::Deployer { apps: vec![AppName::parse("shop").unwrap()] } };
    assert_eq!(desk.command_by(&bot, &change).await.0, 1);
    let nobody = ["services", "change", "nobody", "--url", "-"];
    assert_eq!(desk.command_with(&nobody, &url("y")).await.0, 20);
    let template = ["services", "template", "pg", "seed", "--from-dump", "-"];
    assert_eq!(desk.command_with(&template, "SELECT 1").await.0, 0);
    assert_eq!(desk.command(&["destroy", "shop/main", "--yes"]).await.0, 0);
    let is_gone = async || desk.stage.store().services().await.unwrap().is_empty();
    desk.stage.wait_until("only the template is there", is_gone).await;
    let (code, said) = desk.command_with(&change, &other.url()).await;
    assert!(code == 1 && said.contains(": it has no `flyloft_template_seed_"), "{said}");
    assert_eq!(desk.command_with(&change, &url("y")).await.0, 0);
    assert_eq!(desk.command(&["services", "template", "pg", "seed", "--rm"]).await.0, 0);
    desk.stage.wait_until("it can go", async || desk.command(&["services", "rm", "pg"]).await.0 == 0).await;
}

#[tokio::test]
async fn a_redis_keeps_its_number_while_something_of_an_environment_is_there() {
    let desk = Desk::new().await;
    let redis = Redis::start();
    let other = format!("{}/3", redis.url().strip_suffix("/1").unwrap());
    let add = ["services", "add", "cache", "--kind", "redis", "--url", "-"];
    assert_eq!(desk.command_with(&add, &redis.url()).await.0, 0);
    let change = ["services", "change", "cache", "--url", "-"];
    assert_eq!(desk.command_with(&change, &other).await.0, 0);
    assert_eq!(desk.command_with(&change, &redis.url()).await.0, 0);
    desk.command(&["apps", "set", "shop", "services=redis"]).await;
    desk.stage.deploy().await.unwrap();
    let (code, said) = desk.command_with(&change, &other).await;
    assert_eq!(code, 1);
    insta::assert_snapshot!(said, @r"
    error: what is on server `cache` is in database 1, and stays there
      hint: give the URL that ends in /1
      hint: or give the other number a name of its own: flyloft services add
    ");
    assert_eq!(desk.command_with(&change, &redis.url()).await.0, 0);
    assert_eq!(desk.command(&["destroy", "shop/main", "--yes"]).await.0, 0);
    let is_changed = async || desk.command_with(&change, &other).await.0 == 0;
    desk.stage.wait_until("nothing is there", is_changed).await;
}

#[tokio::test]
async fn whoever_makes_the_first_template_is_told_what_that_waits_for() {
    let desk = Desk::new().await;
    let postgres = Postgres::start();
    let add = ["services", "add", "pg", "--kind", "postgres", "--url", "-"];
    assert_eq!(desk.command_with(&add, &postgres.url()).await.0, 0);
    let waits = "-----> Preparing postgresql-client (once)\n";
    for (name, is_told) in [("first", true), ("second", false)] {
        let template = ["services", "template", "pg", name, "--from-dump", "-"];
        let (code, said) = desk.command_with(&template, "SELECT 1").await;
        assert!(code == 0 && said.contains(waits) == is_told, "{name}: {said}");
    }
}
