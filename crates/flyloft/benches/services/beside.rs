//! A deploy whose build takes longer than what it gets on a server, with that and without it.

use std::fs;
use std::time::{Duration, Instant};

use flyloft::service::Driver;
use flyloft::service::postgres::Postgres as Driven;
use flyloft_core::service::Kind;
use tokio::runtime::Runtime;

use crate::harness::{Flyloft, Repository};
use crate::postgres::Postgres;
use crate::report::{Row, median, millis};
use crate::servers::{add, forget_servers, host_address};
use crate::{server, wanted};

const APP: &str = "bench-beside";

/// What each build of the app does for so long.
const BUILDS: &str = "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000);\n";

/// Both take turns, so that what else the machine does meets both. The server takes a second to let anybody in, so that
/// a deploy that waited for it would show.
pub fn row(runtime: &Runtime, rounds: usize) -> Row {
    let postgres = Postgres::start_with(&["post_auth_delay=1"]);
    let alone = provision(runtime, &postgres);
    let mut flyloft = Flyloft::start();
    forget_servers(&mut flyloft);
    add(&flyloft, "bench", "postgres", &postgres.url().replace("127.0.0.1", &host_address()));
    let repository = flyloft.example(APP, "express-hello");
    let build = fs::read_to_string(repository.dir.join("build.js")).unwrap();
    repository.commit(&[("build.js", &(build + BUILDS))]);
    // Makes the stack and the dependencies, if no run before has.
    repository.pushed(&["main"]);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        without.push(deploy(&flyloft, &repository, round, "none"));
        with.push(deploy(&flyloft, &repository, round, "postgres"));
    }
    flyloft.ok(&["destroy", APP, "--yes"]);
    drop(repository);
    forget_servers(&mut flyloft);
    let (without, with) = (median(&without), median(&with));
    let added = millis(with) - millis(without);
    println!(
        "a deploy that builds for 2 s: {:.0} ms, with a database that takes {:.0} ms: {:.0} ms, medians of {rounds}\n",
        millis(without),
        millis(alone),
        millis(with)
    );
    Row {
        name: "what a deploy that builds for longer takes more for a service",
        measured: format!("{added:.0} of {:.0} ms", millis(alone)),
        promised: "≤ 50 ms",
        kept: added <= 50.0,
        value: added,
    }
}

/// What it takes by itself.
fn provision(runtime: &Runtime, postgres: &Postgres) -> Duration {
    let server = server(Kind::Postgres, &postgres.url());
    let started = Instant::now();
    runtime.block_on(Driven.provide(&server, &wanted("bench_alone"))).unwrap();
    started.elapsed()
}

/// A branch that was never pushed, with a change of the code.
fn deploy(flyloft: &Flyloft, repository: &Repository, round: usize, services: &str) -> Duration {
    flyloft.ok(&["apps", "set", APP, &format!("services={services}")]);
    let branch = format!("{services}-{round}");
    repository.commit(&[("change.txt", &branch)]);
    let started = Instant::now();
    let pushed = repository.pushed(&[&format!("main:refs/heads/{branch}")]);
    let took = started.elapsed();
    assert_eq!(pushed.contains("Database on server bench"), services == "postgres", "{pushed}");
    flyloft.ok(&["destroy", &format!("{APP}/{branch}"), "--yes"]);
    took
}
