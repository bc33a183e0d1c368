//! With a real server.

use std::collections::BTreeSet;

use flyloft_core::service::{Isolation, Kind};

use super::*;
use crate::error::Error;
use crate::service::Secret;
use crate::service::own_server::certificate;
use crate::service::redis_bench::{self as bench, PASSWORD, ask};

fn server(url: &str) -> Server {
    let (url, password) = ServerUrl::parse(Kind::Redis, url).unwrap();
    Server { name: "cache".to_owned(), url, password: Secret(password), ca: None, beside: None }
}

fn at(port: u16, who: &str) -> Server {
    server(&format!("redis://{who}@127.0.0.1:{port}/1"))
}

fn label(name: &str) -> Label {
    Label { name: format!("flyloft_{name}"), text: format!("flyloft 1f3a9c flyloft_{name}"), number: None }
}

fn wanted(name: &str, isolation: Isolation) -> Wanted {
    let password = Secret("s3cret".to_owned());
    Wanted { label: label(name), password, connections: 20, isolation, taken: BTreeSet::new(), seed: None }
}

/// Makes it, and gives the URL that an app gets.
async fn made(server: &Server, wanted: &Wanted) -> String {
    let number = Redis.provide(server, wanted).await.unwrap();
    let wanted = Wanted { label: Label { number, ..wanted.label.clone() }, ..wanted.clone() };
    let variables = Redis.variables(server, &wanted, Some("IT"));
    let url = variables.into_iter().find(|(name, _)| name == "IT_URL").unwrap();
    url.1
}

/// As the app that was given this.
fn opened(server: &Server, url: &str) -> Server {
    let (url, password) = ServerUrl::parse(Kind::Redis, url).unwrap();
    Server { url, password: Secret(password), ..server.clone() }
}

/// In a script it says so in other words.
fn is_refusal(said: &str) -> bool {
    let refusals = ["NOPERM", "ACL failure", "user executing the script can't", "insufficient ACL"];
    refusals.iter().any(|words| said.contains(words))
}

/// What people read.
async fn refusal(server: &Server) -> String {
    let error = Redis.check(server).await.unwrap_err();
    let port = server.url.port.to_string();
    Error::from(error).text().replace(&port, "PORT")
}

#[tokio::test]
async fn a_server_that_is_well_says_what_it_is_whatever_the_password_has_in_it() {
    let redis = bench::Redis::start_with(&["aclfile users.acl", "maxclients 50"]);
    let server = server(&redis.url());
    assert_eq!(server.password.0, PASSWORD);
    let health = Redis.check(&server).await.unwrap();
    assert!(redis.ask("INFO server").contains(&format!("redis_version:{}", health.version)), "{health:?}");
    assert_eq!((health.connections, health.max_connections), (1, Some(50)));
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_told_with_what_to_do() {
    let mut redis = bench::Redis::prepared(&["maxclients 4"]);
    redis.admit(
        "user default off\nuser apt on >x ~* &* +@all\nuser weak on >x ~* &* +@all -acl|setuser\n\
         user weaker on >x ~* &* +@all -client\nuser weakest on >x +ping\nuser noconfig on >x ~* &* +@all -config",
    );
    redis.run();
    let port = redis.port;
    assert!(Redis.check(&at(port, "apt:x")).await.is_ok());
    let mut told = String::new();
    for who in ["apt:wrong", "nobody:x", "default", "weak:x", "weaker:x", "weakest:x", "noconfig:x"] {
        told += &refusal(&at(port, who)).await;
    }
    told += &refusal(&server(&format!("rediss://apt:x@127.0.0.1:{port}"))).await;
    let holder = at(port, "apt:x");
    let mut held = Vec::new();
    while let Ok(session) = Session::open(&holder).await {
        held.push(session);
    }
    told += &refusal(&holder).await;
    drop(held);
    redis.stop();
    redis.admit("user default on nopass ~* &* +@all\nuser apt on >x ~* &* +@all");
    redis.run();
    told += &refusal(&at(port, "apt:x")).await;
    redis.stop();
    told += &refusal(&at(port, "apt:x")).await.replace("Connection refused (os error 111)", "REFUSED");
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn a_replica_is_no_place_to_write_to() {
    let primary = bench::Redis::start();
    let replica = bench::Redis::start_with(&["aclfile users.acl", &format!("replicaof 127.0.0.1 {}", primary.port)]);
    let error = Redis.check(&server(&replica.url())).await.unwrap_err();
    assert_eq!(error.fault, Fault::Replica);
}

#[tokio::test]
async fn an_encrypted_server_is_believed_if_who_signed_its_certificate_was_named() {
    let [right, elsewhere] = [("right", "IP:127.0.0.1"), ("elsewhere", "DNS:db.example.org")];
    let [right, elsewhere] = [right, elsewhere].map(|(name, host)| certificate(name, host));
    let mut told = String::new();
    for [key, certificate] in [&right, &elsewhere] {
        let mut redis = bench::Redis::prepared(&[
            "aclfile users.acl",
            "port 0",
            "tls-port PORT",
            "tls-cert-file server.crt",
            "tls-key-file server.key",
            "tls-ca-cert-file server.crt",
            "tls-auth-clients no",
        ]);
        redis.write("server.crt", certificate);
        redis.write("server.key", key);
        redis.run();
        let open = server(&redis.url());
        let plain = server(&redis.url().replace("redis://", "rediss://"));
        let named = |ca: &str| Server { ca: Some(ca.to_owned()), ..plain.clone() };
        if certificate == &right[1] {
            Redis.check(&named(&right[1])).await.unwrap();
            told += &refusal(&plain).await;
            told += &refusal(&open).await;
        }
        told += &refusal(&named(&elsewhere[1])).await;
    }
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn a_user_with_a_prefix_gets_at_no_key_and_no_channel_of_anybody_else() {
    let redis = bench::Redis::start();
    let server = server(&redis.url());
    let [one, other] = [wanted("one", Isolation::Usual), wanted("other", Isolation::Usual)];
    let (one, other) = (made(&server, &one).await, made(&server, &other).await);
    assert!(one.ends_with("/1"), "{one}");
    ask(&other, "SET flyloft_other:session secret").unwrap();
    redis.ask("SET payroll secret");

    for allowed in [
        "SET flyloft_one:a 1",
        "INCR flyloft_one:a",
        "HSET flyloft_one:h f v",
        "XADD flyloft_one:s * f v",
        "SORT flyloft_one:l",
        "PUBLISH flyloft_one:news x",
        "INFO server",
        "CLIENT SETNAME web",
        "SCRIPT LOAD return(1)",
        "SELECT 1",
    ] {
        ask(&one, allowed).unwrap_or_else(|error| panic!("{allowed}: {error}"));
    }
    assert_eq!(ask(&one, "EVAL return(redis.call('GET',KEYS[1])) 1 flyloft_one:a").unwrap(), "2");
    for forbidden in [
        "GET flyloft_other:session",
        "SET flyloft_other:session x",
        "RENAME flyloft_other:session flyloft_one:session",
        "SORT flyloft_one:l BY flyloft_other:* GET flyloft_other:*",
        "SORT flyloft_other:l STORE flyloft_one:l",
        "GETDEL flyloft_other:session",
        "COPY flyloft_one:a flyloft_one:b DB 3",
        "MOVE flyloft_one:a 3",
        "SELECT 0",
        "SELECT 2",
        "EVAL return(redis.call('GET','flyloft_other:session')) 0",
        "EVAL return(redis.call('SELECT','2')) 0",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "DBSIZE",
        "FLUSHALL",
        "FLUSHDB",
        "SWAPDB 0 1",
        "MIGRATE 127.0.0.1 6379 flyloft_one:a 0 1000",
        "PUBLISH flyloft_other:news x",
        "PUBSUB CHANNELS *",
        "CLIENT LIST",
        "CLIENT KILL USER flyloft_other",
        "CLIENT TRACKING on BCAST",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "MONITOR",
        "CONFIG GET *",
        "ACL LIST",
        "ACL SETUSER flyloft_one allkeys",
        "SHUTDOWN NOSAVE",
        "MODULE LIST",
        "REPLICAOF 127.0.0.1 1",
    ] {
        let refused = ask(&one, forbidden).expect_err(forbidden);
        assert!(is_refusal(&refused), "{forbidden}: {refused}");
    }
    let held = opened(&server, &one);
    let subscribed = Session::open(&held).await.unwrap().ask("subscribe", &command(&["PSUBSCRIBE", "*"])).await;
    assert!(matches!(subscribed.unwrap_err().fault, Fault::Forbidden { .. }));
    assert_eq!(ask(&other, "GET flyloft_other:session").unwrap(), "secret");
    assert_eq!(redis.ask("GET payroll"), "secret");
}

#[tokio::test]
async fn a_user_with_a_number_gets_at_that_database_and_at_the_empty_one_in_which_everybody_begins() {
    let redis = bench::Redis::start();
    let server = server(&redis.url());
    let prefix = made(&server, &wanted("prefix", Isolation::Usual)).await;
    let one = made(&server, &wanted("one", Isolation::Database)).await;
    let other = made(&server, &wanted("other", Isolation::Database)).await;
    assert!(one.ends_with("/2") && other.ends_with("/3"), "{one} {other}");
    ask(&prefix, "SET flyloft_prefix:a secret").unwrap();
    ask(&other, "SET session secret").unwrap();
    ask(&one, "SET anything 1").unwrap();
    assert_eq!(ask(&one, "KEYS *").unwrap(), "anything");
    assert_eq!(ask(&one, "DBSIZE").unwrap(), "1");
    let begin = one.trim_end_matches("/2");
    assert_eq!(ask(begin, "KEYS *").unwrap(), "");
    for forbidden in [
        "SELECT 1",
        "SELECT 3",
        "SELECT 03",
        "COPY anything anything DB 3",
        "MOVE anything 3",
        "SWAPDB 2 3",
        "FLUSHALL",
        "EVAL redis.call('SELECT',3)return(redis.call('GET','session')) 0",
        "PUBLISH flyloft_other:news x",
        "ACL WHOAMI",
    ] {
        let refused = ask(&one, forbidden).expect_err(forbidden);
        assert!(is_refusal(&refused), "{forbidden}: {refused}");
    }
    ask(&one, "FLUSHDB").unwrap();
    assert_eq!(ask(&one, "DBSIZE").unwrap(), "0");
    assert_eq!(ask(&other, "GET session").unwrap(), "secret");
    assert_eq!(ask(&prefix, "GET flyloft_prefix:a").unwrap(), "secret");
}

#[tokio::test]
async fn numbers_are_of_empty_databases_that_nobody_has_and_end_some_day() {
    let redis = bench::Redis::start_with(&["aclfile users.acl", "databases 6"]);
    let server = server(&redis.url());
    redis.ask("SET payroll secret");
    let refused = Redis.provide(&server, &wanted("one", Isolation::Database)).await.unwrap_err();
    assert!(refused.to_string().contains("it has keys in database 0"), "{refused}");
    let at_zero = Server { url: ServerUrl { database: "0".to_owned(), ..server.url.clone() }, ..server.clone() };
    let refused = Redis.provide(&at_zero, &wanted("one", Isolation::Database)).await.unwrap_err();
    assert!(Error::from(refused).text().contains("redis://HOST/1"));
    redis.ask("DEL payroll");
    redis.ask("-n 2 SET theirs 1");
    // 1 is of those with a prefix, 2 of somebody else, and 3 is on record for one whom the server has lost.
    let taken = Wanted { taken: BTreeSet::from([3]), ..wanted("one", Isolation::Database) };
    assert_eq!(Redis.provide(&server, &taken).await.unwrap(), Some(4));
    assert_eq!(Redis.provide(&server, &wanted("one", Isolation::Database)).await.unwrap(), Some(4));
    let many = (0..2).map(|n| format!("n{n}"));
    let numbers = many.map(|name| {
        let (server, wanted) = (&server, wanted(&name, Isolation::Database));
        async move { Redis.provide(server, &wanted).await }
    });
    let numbers = futures_util::future::join_all(numbers).await;
    let numbers: BTreeSet<_> = numbers.into_iter().map(|number| number.unwrap().unwrap()).collect();
    assert_eq!(numbers, BTreeSet::from([3, 5]), "at once, and one each");
    let refused = Redis.provide(&server, &wanted("late", Isolation::Database)).await.unwrap_err();
    assert_eq!(refused.fault, Fault::NoNumber(6));
    assert_eq!(redis.ask("-n 1 EXISTS flyloft:lock"), "0");
}

#[tokio::test]
async fn what_is_removed_takes_its_keys_and_its_connections_along_and_nothing_else() {
    let redis = bench::Redis::start();
    let server = server(&redis.url());
    let one = made(&server, &wanted("one", Isolation::Usual)).await;
    let other = made(&server, &wanted("on", Isolation::Usual)).await;
    let number = made(&server, &wanted("number", Isolation::Database)).await;
    // More than are looked through at a time.
    redis.ask("-n 1 EVAL for\ti=1,2500\tdo\tredis.call('SET','flyloft_one:'..i,'x')\tend 0");
    ask(one.trim_end_matches("/1"), "SET flyloft_one:where x").unwrap();
    ask(&other, "SET flyloft_on:a kept").unwrap();
    ask(&number, "SET anything x").unwrap();
    let open = opened(&server, &one);
    let held = Session::open(&open).await.unwrap();
    assert!(held.ask("ask", &command(&["GET", "flyloft_one:1"])).await.is_ok());
    Redis.remove(&server, &label("one")).await.unwrap();
    assert!(held.ask("ask", &command(&["GET", "flyloft_one:1"])).await.is_err());
    let number = Label { number: Some(2), ..label("number") };
    Redis.remove(&server, &number).await.unwrap();
    for database in [0, 1, 2] {
        let left = redis.ask(&format!("-n {database} KEYS *"));
        assert_eq!(left, if database == 1 { "flyloft_on:a" } else { "" });
    }
    assert_eq!(redis.ask("ACL USERS").lines().collect::<Vec<_>>(), ["admin", "default", "flyloft_on"]);
    Redis.remove(&server, &label("one")).await.unwrap();
    Redis.remove(&server, &number).await.unwrap();
}

#[tokio::test]
async fn connections_on_which_nothing_was_asked_for_a_while_are_ended_and_no_others() {
    let redis = bench::Redis::start();
    let server = server(&redis.url());
    let [one, other] = [wanted("one", Isolation::Usual), wanted("other", Isolation::Usual)];
    let [of_one, of_other] = [made(&server, &one).await, made(&server, &other).await].map(|url| opened(&server, &url));
    let quiet = Session::open(&of_one).await.unwrap();
    let busy = Session::open(&of_one).await.unwrap();
    let others = Session::open(&of_other).await.unwrap();
    let ping = command(&["PING"]);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    busy.ask("ask", &ping).await.unwrap();
    let hang_up = |quiet| Redis.hang_up(&server, std::slice::from_ref(&one.label), Duration::from_secs(quiet));
    assert_eq!(hang_up(2).await.unwrap(), ["flyloft_one"]);
    assert!(quiet.ask("ask", &ping).await.is_err());
    busy.ask("ask", &ping).await.unwrap();
    assert_eq!(hang_up(0).await.unwrap(), Vec::<String>::new());
    assert!(busy.ask("ask", &ping).await.is_err());
    others.ask("ask", &ping).await.unwrap();
}

#[tokio::test]
async fn the_database_of_those_with_a_prefix_is_nobodys_own_after_another_number_is_told() {
    let redis = bench::Redis::start();
    let before = server(&redis.url());
    let [one, other] = [wanted("one", Isolation::Usual), wanted("other", Isolation::Usual)];
    made(&before, &one).await;
    let other = made(&before, &other).await;
    ask(&other, "SET flyloft_other:a kept").unwrap();
    let after = Server { url: ServerUrl { database: "2".to_owned(), ..before.url.clone() }, ..before };
    Redis.remove(&after, &one.label).await.unwrap();
    assert_eq!(ask(&other, "GET flyloft_other:a").unwrap(), "kept");
    assert_eq!(redis.ask("ACL USERS").lines().collect::<Vec<_>>(), ["admin", "default", "flyloft_other"]);
}

#[tokio::test]
async fn what_is_not_ours_is_neither_used_nor_removed() {
    let redis = bench::Redis::start();
    let server = server(&redis.url());
    redis.ask("ACL SETUSER flyloft_one on >theirs ~* +@all &flyloft/another/flyloft_one");
    let before = redis.ask("ACL LIST");
    for isolation in [Isolation::Usual, Isolation::Database] {
        let refused = Redis.provide(&server, &wanted("one", isolation)).await.unwrap_err();
        assert!(matches!(refused.fault, Fault::Taken { .. }), "{refused}");
    }
    let refused = Redis.remove(&server, &label("one")).await.unwrap_err();
    insta::assert_snapshot!(Error::from(refused).text().replace(&redis.port.to_string(), "PORT"));
    assert_eq!(redis.ask("ACL LIST"), before);
}

#[tokio::test]
async fn users_are_there_after_a_restart_or_known_to_be_lost() {
    let mut redis = bench::Redis::start();
    let server_of_it = server(&redis.url());
    let url = made(&server_of_it, &wanted("one", Isolation::Usual)).await;
    redis.stop();
    redis.run();
    ask(&url, "SET flyloft_one:a 1").unwrap();

    let mut redis = bench::Redis::start_with(&[]);
    let server = server(&redis.url());
    let one = wanted("one", Isolation::Database);
    let url = made(&server, &one).await;
    ask(&url, "SET a 1").unwrap();
    let names = ["flyloft_one".to_owned()];
    assert!(Redis.lost(&server, &names).await.unwrap().is_empty());
    redis.stop();
    redis.run();
    assert_eq!(Redis.lost(&server, &names).await.unwrap(), names);
    // Its keys are there, so that the number is used, and it is given to who had it.
    let again = Wanted { label: Label { number: Some(2), ..one.label.clone() }, ..one };
    assert_eq!(Redis.provide(&server, &wanted("other", Isolation::Database)).await.unwrap(), Some(3));
    assert_eq!(made(&server, &again).await, url);
    assert_eq!(ask(&url, "GET a").unwrap(), "1");
}
