//! What services of environments cost: how long one takes to be made, what those that sleep hold on their server, and
//! what a deploy takes longer for them.
//!
//! ```text
//! cargo bench -p flyloft --bench services -- [--quick] [--json FILE]
//! ```
//!
//! The drivers are asked directly, for servers of the benchmark's own; deploys are of a daemon on LXC.
#![allow(clippy::disallowed_methods, reason = "benchmarks start the programs that people use")]

mod beside;
mod databases;
#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/harness.rs"]
mod harness;
mod others;
#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/own_server.rs"]
mod own_server;
#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/postgres.rs"]
mod postgres;
#[allow(dead_code, unused_imports, reason = "it offers more than this needs")]
#[path = "../../tests/it/rabbitmq.rs"]
mod rabbitmq;
#[allow(dead_code, unused_imports, reason = "it offers more than this needs")]
#[path = "../../tests/it/redis.rs"]
mod redis;
#[allow(dead_code, reason = "another benchmark uses the rest")]
#[path = "../report.rs"]
mod report;
#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/servers.rs"]
mod servers;

use std::collections::BTreeSet;
use std::process::ExitCode;

use flyloft::service::{Label, Secret, Server, Wanted};
use flyloft_core::service::{Isolation, Kind, ServerUrl};

fn main() -> ExitCode {
    let (quick, file) = report::arguments();
    let (rounds, environments) = if quick { (5, 20) } else { (20, 200) };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut rows = runtime.block_on(async {
        let mut rows = databases::rows(rounds, environments).await;
        rows.extend(others::redis(rounds, environments).await);
        rows.push(others::rabbitmq(rounds).await);
        rows
    });
    rows.push(beside::row(&runtime, if quick { 3 } else { 10 }));
    report::print(&rows, file)
}

fn server(kind: Kind, url: &str) -> Server {
    let (url, password) = ServerUrl::parse(kind, url).unwrap();
    Server { name: "bench".to_owned(), url, password: Secret(password), ca: None, beside: None }
}

fn wanted(name: &str) -> Wanted {
    let label = Label { name: name.to_owned(), text: format!("flyloft bench {name}"), number: None };
    let (password, isolation, taken) = (Secret("5ecret".to_owned()), Isolation::Usual, BTreeSet::new());
    Wanted { label, password, connections: 20, isolation, taken, seed: None }
}
