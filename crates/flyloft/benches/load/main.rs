//! Wakes that take their time or come all at once, and whether any request fails meanwhile.
//!
//! ```text
//! cargo bench -p flyloft --bench load -- [--quick] [--json FILE]
//! ```
//!
//! `floor` is the same web process, from the same files, started without a container: until it answers for the first
//! time. It and what it is compared with take turns, so that what else the machine does meets both.
//!
//! What is asked for every few milliseconds never rests, so its load has pauses in which it does: each step down is tried
//! until it was seen to have come about, and the load itself wakes it.
#![allow(clippy::disallowed_methods, reason = "benchmarks start the programs that people use")]

#[path = "../stage/floor.rs"]
mod floor;
#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/harness.rs"]
mod harness;
#[allow(dead_code, reason = "another benchmark uses the rest")]
#[path = "../stage/load.rs"]
mod load;
#[allow(dead_code, reason = "other benchmarks use the rest")]
#[path = "../report.rs"]
mod report;

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::{Flyloft, Repository, Response, wait_for};
use load::{Load, Rhythm};
use report::{Row, median, millis, part};

const APP: &str = "bench-load";
const MAIN: &str = "bench-load/main";

/// A pause is long enough to fall asleep in, and to be asleep for a while.
const RHYTHM: Rhythm = Rhythm { burst: Duration::from_millis(400), pause: Duration::from_millis(800) };

struct Effort {
    wakes: usize,
    rounds: usize,
    /// Environments that are visited all at once, and those that there is memory for.
    burst: usize,
    room: usize,
}

fn main() -> ExitCode {
    let (quick, file) = report::arguments();
    let effort = match quick {
        true => Effort { wakes: 5, rounds: 1, burst: 20, room: 6 },
        false => Effort { wakes: 30, rounds: 5, burst: 100, room: 30 },
    };
    let mut flyloft = Flyloft::start();
    let _ = flyloft.cli(&["destroy", APP, "--yes"]);
    let rows = {
        flyloft.example(APP, "flask-hello").pushed(&["main", "main:neighbour"]);
        let mut rows = vec![from_off(&flyloft, &effort)];
        rows.extend(under_load(&flyloft, &effort));
        rows.extend(burst(&mut flyloft, &effort));
        rows
    };
    flyloft.ok(&["destroy", APP, "--yes"]);
    println!();
    report::print(&rows, file)
}

fn from_off(flyloft: &Flyloft, effort: &Effort) -> Row {
    let (mut floors, mut wakes) = (Vec::new(), Vec::new());
    let mut phases = [const { Vec::new() }; 4];
    for _ in 0..effort.wakes {
        floors.push(floor::first_answer(flyloft, APP));
        flyloft.ok(&["off", MAIN]);
        let started = Instant::now();
        let answer = flyloft.get(MAIN, "/");
        wakes.push(started.elapsed());
        assert_eq!(answer.status, 200, "{}", answer.body);
        let is_seen = |woken: &serde_json::Value| woken["from"] == "off" && woken["answered_ms"].is_f64();
        let woken = wait_for("a record", || Some(flyloft.why(MAIN)["woken"].take()).filter(is_seen));
        for (times, phase) in phases.iter_mut().zip(["queued_ms", "started_ms", "ready_ms", "answered_ms"]) {
            times.push(Duration::from_secs_f64(woken[phase].as_f64().unwrap() / 1e3));
        }
    }
    let (floor, wake) = (median(&floors), median(&wakes));
    let [queued, started, ready, answered] = phases.map(|times| millis(median(&times)));
    println!("floor: {:.0} ms, wake from off: {:.0} ms, medians of {}", millis(floor), millis(wake), wakes.len());
    println!("of a wake {queued:.1} ms until its turn, {started:.1} until it ran, {ready:.1} until it was ready");
    println!("and {answered:.1} from the visitor's connection to its answer");
    let over = millis(wake.saturating_sub(floor));
    Row {
        name: "wake from off: a visit → its answer",
        measured: format!("floor + {over:.0} ms"),
        promised: "≤ floor + 100 ms",
        kept: over <= 100.0,
        value: over,
    }
}

/// Requests one after the other, with pauses, while it and its neighbour go down the ladder, wake, and are deployed anew.
fn under_load(flyloft: &Flyloft, effort: &Effort) -> [Row; 2] {
    const NEIGHBOUR: &str = "bench-load/neighbour";
    let (wakes_before, asleep_before) = rested(flyloft);
    let load = Load::in_bursts(flyloft.http, &format!("{APP}-main"), RHYTHM);
    for round in 0..effort.rounds {
        for step in [&["sleep"][..], &["sleep", "--deep"], &["off"]] {
            flyloft.ok(&[step, &[NEIGHBOUR]].concat());
            assert_eq!(flyloft.get(NEIGHBOUR, "/").status, 200, "{step:?}");
            rest_and_wake(flyloft, step);
        }
        for branch in ["neighbour", "main"] {
            let repository = changed(flyloft, round);
            repository.pushed(&[&format!("main:{branch}")]);
        }
    }
    let load = load.stop();
    let (wakes, asleep) = rested(flyloft);
    let (wakes, asleep) = (wakes - wakes_before, asleep - asleep_before);
    let (served, failed) = (load.well, load.failed);
    println!(
        "under load: {served} answers, {failed} failed, the longest after {:.0} ms; {wakes} wakes, {asleep} s at rest",
        millis(load.longest)
    );
    [
        Row {
            name: "requests that fail while it and a neighbour sleep and change",
            measured: format!("{failed} of {}", served + failed),
            promised: "0",
            kept: failed == 0 && served > 0,
            value: failed as f64,
        },
        Row {
            name: "wakes of what is under that load",
            measured: wakes.to_string(),
            promised: "> 0",
            kept: wakes > 0 && asleep > 0,
            value: wakes as f64,
        },
    ]
}

/// What is under load goes a step down, as soon as nobody asks for it just then, and its load wakes it.
fn rest_and_wake(flyloft: &Flyloft, step: &[&str]) {
    wait_for("it to rest in a pause of its load", || {
        // A request that comes meanwhile prevents it.
        flyloft.cli(&[step, &[MAIN]].concat());
        let seen = flyloft.why(MAIN);
        let moved = |place: &&str| seen["memory"][place].as_u64() > Some(0);
        match seen["state"].as_str() {
            Some("off") => Some(()),
            // And not only on the way there.
            Some("asleep") => ["compressed", "disk"].iter().any(moved).then_some(()),
            _ => None,
        }
    });
    wait_for("its load to wake it", || (flyloft.why(MAIN)["state"] == "awake").then_some(()));
}

/// How often it has woken in the last day, and for how many seconds of it it was not awake, as the daemon counts.
fn rested(flyloft: &Flyloft) -> (u64, u64) {
    let stats: serde_json::Value = serde_json::from_str(&flyloft.ok(&["stats", MAIN, "--json"])).unwrap();
    let number = |name: &str| stats["environments"][0][name].as_u64().unwrap();
    (number("wakes_today"), number("asleep_today"))
}

fn changed(flyloft: &Flyloft, round: usize) -> Repository<'_> {
    let repository = flyloft.repository(APP, &[]);
    let code = fs::read_to_string(repository.dir.join("app.py")).unwrap();
    repository.commit(&[("app.py", &format!("{code}# round {round}\n"))]);
    repository
}

/// All are visited at once, and there is memory for a part of them.
fn burst(flyloft: &mut Flyloft, effort: &Effort) -> Vec<Row> {
    let names: Vec<String> = (0..effort.burst).map(|number| format!("burst-{number}")).collect();
    let repository = flyloft.repository(APP, &[]);
    for some in names.chunks(5) {
        let refs: Vec<String> = some.iter().map(|name| format!("main:refs/heads/{name}")).collect();
        repository.pushed(&refs.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let envs: Vec<String> = names.iter().map(|name| format!("{APP}/{name}")).collect();
    for env in envs.iter().map(String::as_str).chain([MAIN, "bench-load/neighbour"]) {
        flyloft.ok(&["sleep", env]);
    }
    let each = flyloft.why(&envs[0])["memory"]["awake"].as_u64().unwrap();
    let processes: Vec<_> = envs.iter().map(|env| flyloft.processes(env)).collect();
    let available = harness::available();
    let reserve = available.saturating_sub(each * effort.room as u64);
    flyloft.kill();
    flyloft.config = format!("[memory]\nreserve = \"{reserve}B\"\n");
    flyloft.serve();

    let daemon = &*flyloft;
    let started = Instant::now();
    let answers: Vec<(Response, Duration)> = std::thread::scope(|scope| {
        let visit = |env| {
            let answer = daemon.get_within(env, Duration::from_secs(60));
            (answer, started.elapsed())
        };
        let visitors: Vec<_> = envs.iter().map(|env| scope.spawn(move || visit(env))).collect();
        visitors.into_iter().map(|visitor| visitor.join().unwrap()).collect()
    });
    let least = harness::available();
    let count = |wanted: u16| answers.iter().filter(|(answer, _)| answer.status == wanted).count();
    let (well, later) = (count(200), count(503));
    let times: Vec<Duration> =
        answers.iter().filter(|(answer, _)| answer.status == 200).map(|(_, took)| *took).collect();
    println!(
        "a burst of {} with room for {} ({} MiB each): {well} answered (p50 {:.1} s, p99 {:.1} s), {later} told to come back",
        effort.burst,
        effort.room,
        each >> 20,
        part(&times, 0.5).as_secs_f64(),
        part(&times, 0.99).as_secs_f64(),
    );
    println!(
        "memory available: {} MiB before, {} MiB after, {} MiB to stay free",
        available >> 20,
        least >> 20,
        reserve >> 20
    );
    let killed = envs.iter().zip(&processes).filter(|(env, before)| daemon.processes(env) != **before).count();
    let unanswered = answers.len() - well - later;
    flyloft.kill();
    flyloft.config = String::new();
    flyloft.serve();
    vec![
        Row {
            name: "requests of a burst without an answer or a clear 503",
            measured: format!("{unanswered} of {}", answers.len()),
            promised: "0",
            kept: unanswered == 0 && well > 0,
            value: unanswered as f64,
        },
        Row {
            name: "environments that a burst killed",
            measured: format!("{killed} of {}", answers.len()),
            promised: "0",
            kept: killed == 0,
            value: killed as f64,
        },
    ]
}
