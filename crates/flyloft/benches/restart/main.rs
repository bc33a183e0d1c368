//! What a restart of the daemon costs those who use an environment.
//!
//! ```text
//! cargo bench -p flyloft --bench restart -- [--quick] [--json FILE]
//! ```
//!
//! A newer version takes over again and again while two clients ask without a pause, one that keeps its connection and
//! one that opens another for each request. Then the daemon is killed, and the time is taken from the start of the next
//! process to the first answer of an environment, with others beside it.
#![allow(clippy::disallowed_methods, reason = "benchmarks start the programs that people use")]

#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/harness.rs"]
mod harness;
#[path = "../../tests/it/load.rs"]
mod load;
#[allow(dead_code, reason = "another benchmark uses the rest")]
#[path = "../report.rs"]
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::Flyloft;
use load::Load;
use report::{Row, median, millis};

const APP: &str = "bench-restart";

fn main() -> ExitCode {
    let (quick, file) = report::arguments();
    let (rounds, environments) = if quick { (3, 10) } else { (10, 50) };
    report::print(&measure(rounds, environments), file)
}

fn measure(rounds: usize, environments: usize) -> Vec<Row> {
    let mut flyloft = Flyloft::start();
    let repository = flyloft.example(APP, "flask-hello");
    repository.pushed(&["main"]);
    let branches: Vec<String> = (1..environments).map(|number| format!("main:refs/heads/many-{number}")).collect();
    for some in branches.chunks(5) {
        repository.pushed(&some.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let (load, mut upgrades) = (Load::start(flyloft.http, &format!("{APP}-main.localhost")), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        flyloft.ok(&["upgrade"]);
        upgrades.push(begun.elapsed());
    }
    let load = load.stop();

    // The same port each time, as on a server.
    flyloft.stop();
    flyloft.listen = format!("[::]:{}", free_port());
    flyloft.serve();
    let mut starts = Vec::new();
    for _ in 0..rounds {
        flyloft.kill();
        let started = Instant::now();
        flyloft.spawn(|_| {});
        starts.push(first_answer(flyloft.http, started));
        flyloft.ready();
    }
    flyloft.ok(&["destroy", APP, "--yes"]);

    let worst = starts.iter().max().copied().unwrap_or_default();
    println!("kill -9 with {environments} environments: {:.0} ms at the median\n", millis(median(&starts)));
    vec![
        Row {
            name: "requests that fail while a newer version takes over",
            measured: format!("{} of {}", load.failures.len(), load.well + load.failures.len() as u64),
            promised: "0",
            kept: load.failures.is_empty() && load.well > 0,
            value: load.failures.len() as f64,
        },
        Row {
            name: "the longest of these requests",
            measured: format!("{:.0} ms", millis(load.longest)),
            promised: "",
            kept: true,
            value: millis(load.longest),
        },
        Row {
            name: "`flyloft upgrade`, until the newer version answers",
            measured: format!("{:.0} ms", millis(median(&upgrades))),
            promised: "",
            kept: true,
            value: millis(median(&upgrades)),
        },
        Row {
            name: "kill -9: from the next start to an answer at the edge",
            measured: format!("{:.0} ms", millis(worst)),
            promised: "≤ 300 ms",
            kept: worst <= Duration::from_millis(300),
            value: millis(worst),
        },
    ]
}

/// From the start until the environment is served.
fn first_answer(port: u16, started: Instant) -> Duration {
    loop {
        if load::ask(port, &format!("{APP}-main.localhost")).unwrap_or(false) {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(30), "the edge does not answer");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One that no outgoing connection takes by chance.
fn free_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("::", *port)).is_ok();
    (18_000..19_000).find(free).expect("a port is free")
}
