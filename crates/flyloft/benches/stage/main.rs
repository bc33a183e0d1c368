//! How long it takes from `git push` to an answer, and what the daemon costs.
//!
//! ```text
//! cargo bench -p flyloft --bench stage -- [--quick] [--json FILE]
//! ```
//!
//! What is compared is measured in one run, round by round, so that what else the machine does meets both. `floor` is
//! the same web process, from the same files, started without a container: until it answers for the first time.
#![allow(clippy::disallowed_methods, reason = "benchmarks start the programs that people use")]

mod floor;
#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/harness.rs"]
mod harness;
#[allow(dead_code, reason = "another benchmark uses the rest")]
mod load;
#[allow(dead_code, reason = "another benchmark uses the rest")]
#[path = "../report.rs"]
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::{Flyloft, Repository, wait_for};
use load::Load;
use report::{Row, median};

const APP: &str = "bench-flask";

struct Effort {
    rounds: usize,
    environments: usize,
}

fn main() -> ExitCode {
    let (quick, file) = report::arguments();
    let effort = if quick { Effort { rounds: 3, environments: 10 } } else { Effort { rounds: 10, environments: 50 } };
    let mut rows = measure(&effort);
    if !quick {
        rows.push(from_nothing());
    }
    report::print(&rows, file)
}

fn measure(effort: &Effort) -> Vec<Row> {
    let mut flyloft = Flyloft::start();
    let _ = flyloft.cli(&["destroy", APP, "--yes"]);
    let repository = flyloft.example(APP, "flask-hello");
    // Makes the stack and the dependencies, if no run before has.
    repository.pushed(&["main"]);
    let (mut floors, mut news, mut again) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed = 0;
    let mut served = 0;
    for round in 0..effort.rounds {
        floors.push(floor::first_answer(&flyloft, APP));
        news.push(new_environment(&flyloft, &repository, round));
        let load = Load::start(flyloft.http, &format!("{APP}-main"));
        again.push(redeploy(&flyloft, &repository, round));
        let load = load.stop();
        (served, failed) = (served + load.well, failed + load.failed);
    }
    let floor = median(&floors);
    let memory = memory_with(&flyloft, &repository, effort.environments);
    flyloft.kill();
    let started = Instant::now();
    flyloft.serve();
    let start = started.elapsed();
    flyloft.ok(&["destroy", APP, "--yes"]);

    let over = |times: &[Duration]| median(times).saturating_sub(floor).as_secs_f64() * 1e3;
    let (new, redeploy) = (over(&news), over(&again));
    println!("floor: {:.0} ms, median of {}", floor.as_secs_f64() * 1e3, floors.len());
    println!("answers under load while redeploying: {served}, failed: {failed}\n");
    vec![
        Row {
            name: "new environment: git push → first 200",
            measured: format!("floor + {new:.0} ms"),
            promised: "≤ floor + 400 ms",
            kept: new <= 400.0,
            value: new,
        },
        Row {
            name: "redeploy of a code-only change: git push → new code",
            measured: format!("floor + {redeploy:.0} ms"),
            promised: "≤ floor + 350 ms",
            kept: redeploy <= 350.0,
            value: redeploy,
        },
        Row {
            name: "requests that fail while it is redeployed",
            measured: format!("{failed} of {}", served + failed),
            promised: "0",
            kept: failed == 0 && served > 0,
            value: failed as f64,
        },
        Row {
            name: "daemon's resident memory with all environments awake",
            measured: format!("{memory:.1} MB ({})", effort.environments),
            promised: "≤ 40 MB with 50",
            kept: memory <= 40.0,
            value: memory,
        },
        Row {
            name: "second start of the daemon, with these environments",
            measured: format!("{:.0} ms", start.as_secs_f64() * 1e3),
            promised: "≤ 200 ms",
            kept: start <= Duration::from_millis(200),
            value: start.as_secs_f64() * 1e3,
        },
    ]
}

/// The first push to a server that has nothing yet: the stack is made, the dependencies are installed.
fn from_nothing() -> Row {
    let flyloft = Flyloft::start_in("from-nothing");
    let repository = flyloft.example(APP, "flask-hello");
    let started = Instant::now();
    repository.pushed(&["main"]);
    let took = started.elapsed();
    flyloft.ok(&["destroy", APP, "--yes"]);
    let state = flyloft.state.clone();
    drop(flyloft);
    std::fs::remove_dir_all(state).unwrap();
    Row {
        name: "first push to an empty server, its stack included",
        measured: format!("{:.0} s", took.as_secs_f64()),
        promised: "≤ 90 s",
        kept: took <= Duration::from_secs(90),
        value: took.as_secs_f64(),
    }
}

/// A branch that was never pushed, with a change of the code.
fn new_environment(flyloft: &Flyloft, repository: &Repository, round: usize) -> Duration {
    let branch = format!("bench-{round}");
    let version = change(repository, &format!("new {round}"));
    let env = format!("{APP}/{branch}");
    let took = push_until(flyloft, repository, &env, &format!("main:{branch}"), &version);
    flyloft.ok(&["destroy", &env, "--yes"]);
    took
}

fn redeploy(flyloft: &Flyloft, repository: &Repository, round: usize) -> Duration {
    let version = change(repository, &format!("redeploy {round}"));
    push_until(flyloft, repository, &format!("{APP}/main"), "main", &version)
}

/// From the start of the git process until the environment answers with the new version.
fn push_until(flyloft: &Flyloft, repository: &Repository, env: &str, refs: &str, version: &str) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| repository.pushed(&[refs]));
        wait_for("the new version", || {
            let answer = flyloft.get(env, "/");
            (answer.status == 200 && answer.body.contains(version)).then_some(())
        });
        let took = started.elapsed();
        pushing.join().unwrap();
        took
    })
}

/// Changes the code and nothing else. The example shows the commit that it was made from, which is given.
fn change(repository: &Repository, what: &str) -> String {
    let code = std::fs::read_to_string(repository.dir.join("app.py")).unwrap();
    repository.commit(&[("app.py", &format!("{code}# {what}\n"))])[..10].to_owned()
}

/// The daemon's resident memory in megabytes while `count` environments are awake.
fn memory_with(flyloft: &Flyloft, repository: &Repository, count: usize) -> f64 {
    let branches: Vec<String> = (0..count).map(|number| format!("main:refs/heads/many-{number}")).collect();
    for some in branches.chunks(5) {
        repository.pushed(&some.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", flyloft.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024.0 / 1e6
}
