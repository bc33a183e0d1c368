//! Redis and RabbitMQ: from nothing to what an environment gets there, connection included.

use std::time::{Duration, Instant};

use flyloft::service::rabbitmq::Rabbitmq as OfRabbitmq;
use flyloft::service::redis::Redis as OfRedis;
use flyloft::service::{Driver, Label, Server, Wanted};
use flyloft_core::service::{Isolation, Kind};

use crate::rabbitmq::Rabbitmq;
use crate::redis::Redis;
use crate::report::{Row, median, millis};
use crate::{server, wanted};

/// On a server that has so many already, and writes down all of them with each. Most keys have a prefix; database
/// numbers are few.
pub async fn redis(rounds: usize, environments: usize) -> Vec<Row> {
    let redis = Redis::start();
    let server = server(Kind::Redis, &redis.url());
    for number in 0..environments {
        OfRedis.provide(&server, &wanted(&format!("bench_other_{number}"))).await.unwrap();
    }
    let ways = [
        ("Redis user for a new environment, with a prefix", Isolation::Usual),
        ("the same with a database number", Isolation::Database),
    ];
    let mut rows = Vec::new();
    for (name, isolation) in ways {
        let time = made(&OfRedis, &server, isolation, rounds).await;
        rows.push(row(name, time, Duration::from_millis(20), "≤ 20 ms"));
    }
    rows
}

pub async fn rabbitmq(rounds: usize) -> Row {
    let rabbitmq = Rabbitmq::start();
    let server = server(Kind::Rabbitmq, &rabbitmq.url());
    let time = made(&OfRabbitmq, &server, Isolation::Usual, rounds).await;
    row("RabbitMQ virtual host for a new environment", time, Duration::from_millis(200), "≤ 200 ms")
}

async fn made(driver: &dyn Driver, server: &Server, isolation: Isolation, rounds: usize) -> Duration {
    let mut times = Vec::new();
    for round in 0..rounds {
        let wanted = Wanted { isolation, ..wanted(&format!("bench_{round}")) };
        let started = Instant::now();
        let number = driver.provide(server, &wanted).await.unwrap();
        times.push(started.elapsed());
        driver.remove(server, &Label { number, ..wanted.label }).await.unwrap();
    }
    median(&times)
}

fn row(name: &'static str, time: Duration, most: Duration, promised: &'static str) -> Row {
    Row { name, measured: format!("{:.1} ms", millis(time)), promised, kept: time <= most, value: millis(time) }
}
