//! PostgreSQL: an empty database, one with data, and what those that sleep hold on the server.

use std::time::{Duration, Instant};

use flyloft::service::postgres::Postgres as Driven;
use flyloft::service::{Driver, Label, Server, Wanted};
use flyloft_core::service::Kind;
use tokio_postgres::NoTls;

use crate::postgres::Postgres;
use crate::report::{Row, median, millis};
use crate::{server, wanted};

/// One that waits for its disk as those do that people run.
pub async fn rows(rounds: usize, environments: usize) -> Vec<Row> {
    let postgres = Postgres::start_with(&["fsync=on", "log_statement=none", "max_connections=300"]);
    let server = server(Kind::Postgres, &postgres.url());
    vec![
        empty(&server, rounds).await,
        copies(&postgres, &server, rounds).await,
        sleepers(&postgres, &server, environments).await,
    ]
}

/// From nothing to a role with a database, connection included.
async fn empty(server: &Server, rounds: usize) -> Row {
    let mut times = Vec::new();
    for round in 0..rounds {
        let wanted = wanted(&format!("bench_{round}"));
        let started = Instant::now();
        Driven.provide(server, &wanted).await.unwrap();
        times.push(started.elapsed());
        Driven.remove(server, &wanted.label).await.unwrap();
    }
    let time = median(&times);
    Row {
        name: "PostgreSQL database for a new environment",
        measured: format!("{:.0} ms", millis(time)),
        promised: "≤ 150 ms",
        kept: time <= Duration::from_millis(150),
        value: millis(time),
    }
}

/// A database with the data of a template, against what the server takes to copy them, in turns.
async fn copies(postgres: &Postgres, server: &Server, rounds: usize) -> Row {
    let seed = wanted("bench_template");
    Driven.provide(server, &seed).await.unwrap();
    let variables = Driven.variables(server, &seed, None);
    let url = &variables.iter().find(|(name, _)| name == "DATABASE_URL").unwrap().1;
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(&seed_data()).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    Driven.seal(server, &seed.label).await.unwrap();
    let (plain, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let (mut ours, mut servers) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let copy = Wanted { seed: Some(seed.label.clone()), ..wanted(&format!("bench_copy_{round}")) };
        let started = Instant::now();
        Driven.provide(server, &copy).await.unwrap();
        ours.push(started.elapsed());
        Driven.remove(server, &copy.label).await.unwrap();
        let started = Instant::now();
        plain.batch_execute("CREATE DATABASE bench_plain TEMPLATE bench_template").await.unwrap();
        servers.push(started.elapsed());
        plain.batch_execute("DROP DATABASE bench_plain").await.unwrap();
    }
    let (ours, servers) = (median(&ours), median(&servers));
    let ratio = ours.as_secs_f64() / servers.as_secs_f64();
    Row {
        name: "the same with the data of a template, to CREATE DATABASE … TEMPLATE",
        measured: format!("{ratio:.2} ({:.0} ms)", millis(ours)),
        promised: "≤ 1.2",
        kept: ratio <= 1.2,
        value: ratio,
    }
}

/// Forty tables, and some 100 MB in one of them: what a seed has that was made of a staging database.
fn seed_data() -> String {
    let tables: String = (0..40).map(|n| format!("CREATE TABLE t{n} (id serial PRIMARY KEY, text text);")).collect();
    format!("{tables} INSERT INTO t0 (text) SELECT repeat(md5(n::text), 30) FROM generate_series(1, 100000) n;")
}

/// So many environments hold a connection each, and are asleep.
async fn sleepers(postgres: &Postgres, server: &Server, environments: usize) -> Row {
    let all: Vec<Wanted> = (0..environments).map(|number| wanted(&format!("bench_sleeper_{number}"))).collect();
    let mut clients = Vec::new();
    for wanted in &all {
        Driven.provide(server, wanted).await.unwrap();
        let variables = Driven.variables(server, wanted, None);
        let url = &variables.iter().find(|(name, _)| name == "DATABASE_URL").unwrap().1;
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        clients.push(client);
    }
    let held = || postgres.sql("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'bench_sleeper%'");
    assert_eq!(held(), environments.to_string());
    let labels: Vec<Label> = all.iter().map(|wanted| wanted.label.clone()).collect();
    let started = Instant::now();
    assert!(Driven.hang_up(server, &labels, Duration::ZERO).await.unwrap().is_empty());
    while held() != "0" && started.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (took, left) = (started.elapsed(), held().parse::<f64>().unwrap());
    Row {
        name: "connections of environments that sleep, after the grace time",
        measured: format!("{left} of {environments} ({:.0} ms)", millis(took)),
        promised: "0",
        kept: left == 0.0,
        value: left,
    }
}
