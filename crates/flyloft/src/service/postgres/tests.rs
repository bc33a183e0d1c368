//! With a real server.

mod data;

use flyloft_core::service::{Kind, ServerUrl};

use super::*;
use crate::error::Error;
use crate::exec::Cmd;
use crate::service::Secret;
use crate::service::bench::{self, PASSWORD};

fn server(url: &str) -> Server {
    let (url, password) = ServerUrl::parse(Kind::Postgres, url).unwrap();
    Server { name: "pg".to_owned(), url, password: Secret(password), ca: None, beside: None }
}

fn at(port: u16, user: &str, rest: &str) -> Server {
    server(&format!("postgres://{user}@127.0.0.1:{port}/{rest}"))
}

/// What people read.
async fn refusal(server: &Server) -> String {
    let error = Postgres.check(server).await.unwrap_err();
    let port = server.url.port.to_string();
    Error::from(error).text().replace(&port, "PORT")
}

#[tokio::test]
async fn a_server_that_is_well_says_what_it_is_whatever_the_password_has_in_it() {
    let postgres = bench::Postgres::start();
    let server = server(&postgres.url());
    assert_eq!(server.password.0, PASSWORD);
    let health = Postgres.check(&server).await.unwrap();
    assert!(postgres.sql("SHOW server_version").starts_with(&health.version), "{health:?}");
    assert_eq!((health.connections, health.max_connections), (1, Some(100)));
    assert_eq!(format!("{:?}", server.password), "…");
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_told_with_what_to_do() {
    let postgres = bench::Postgres::start_with(&["max_connections=6", "superuser_reserved_connections=1"]);
    postgres.sql("CREATE ROLE weak LOGIN CREATEDB PASSWORD 'x'");
    postgres.sql("CREATE ROLE weaker LOGIN CREATEROLE PASSWORD 'x'");
    postgres.sql("CREATE ROLE apt LOGIN CREATEROLE CREATEDB PASSWORD 'x'");
    let port = postgres.port;
    assert!(Postgres.check(&at(port, "apt:x", "")).await.is_ok());
    let mut told = String::new();
    for wrong in [
        at(port, "admin:wrong", ""),
        at(port, "nobody:x", ""),
        at(port, "admin", ""),
        at(port, "apt:x", "nowhere"),
        at(port, "weak:x", ""),
        at(port, "weaker:x", ""),
        at(port, "apt:x", "?sslmode=require"),
    ] {
        told += &refusal(&wrong).await;
    }
    let holder = at(port, "apt:x", "");
    let mut held = Vec::new();
    while let Ok(session) = Session::open(&holder).await {
        held.push(session);
    }
    told += &refusal(&holder).await;
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn a_server_that_is_down_or_lets_nobody_in_is_told_from_one_that_is_not() {
    let mut postgres = bench::Postgres::start();
    let server = server(&postgres.url());
    let mut told = String::new();
    for lines in ["hostssl all all all scram-sha-256\n", "host all all 203.0.113.0/24 scram-sha-256\n"] {
        postgres.stop();
        postgres.admit(lines);
        postgres.run();
        told += &refusal(&server).await;
    }
    postgres.stop();
    told += &refusal(&server).await;
    let nowhere = Server { url: ServerUrl { host: "nowhere.invalid".to_owned(), ..server.url.clone() }, ..server };
    let error = Postgres.check(&nowhere).await.unwrap_err();
    assert_eq!(error.fault, Fault::Down);
    insta::assert_snapshot!(told.replace("Connection refused (os error 111)", "REFUSED"));
}

#[tokio::test]
async fn an_encrypted_server_is_believed_if_who_signed_its_certificate_was_named() {
    let mut postgres = bench::Postgres::start();
    let mut signed = Vec::new();
    for (name, host) in [("right", "IP:127.0.0.1"), ("elsewhere", "DNS:db.example.org")] {
        let [key, certificate] = ["key", "pem"].map(|kind| postgres.path(&format!("{name}.{kind}")));
        let (subject, host) = (format!("/CN={name}"), format!("subjectAltName={host}"));
        let openssl = Cmd::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-subj", &subject, "-addext", "basicConstraints=critical,CA:FALSE", "-addext", &host]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).run().await.unwrap();
        signed.push([key, certificate].map(|path| std::fs::read_to_string(path).unwrap()));
    }
    let (right, elsewhere) = (signed[0][1].clone(), signed[1][1].clone());
    postgres.stop();
    postgres.admit("hostssl all all all scram-sha-256\n");
    postgres.write("data/postgresql.auto.conf", "ssl = on\n");
    let mut told = String::new();
    for [key, certificate] in &signed {
        postgres.write("data/server.key", key);
        postgres.write("data/server.crt", certificate);
        postgres.run();
        let plain = server(&format!("{}?sslmode=require", postgres.url()));
        let named = |ca: &str| Server { ca: Some(ca.to_owned()), ..plain.clone() };
        if *certificate == right {
            Postgres.check(&named(&right)).await.unwrap();
            told += &refusal(&plain).await;
        }
        told += &refusal(&named(&elsewhere)).await;
        postgres.stop();
    }
    insta::assert_snapshot!(told);
}
