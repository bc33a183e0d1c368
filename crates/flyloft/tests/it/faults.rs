//! What goes wrong while environments sleep and wake: what the user sees of it, and that it ends well.

mod notes;
mod stuck;
mod swaps;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::crash::traces;
use crate::harness::{Flyloft, run, text, wait_for};
use crate::push::{SERVER, app, borrowed};

/// What a visitor gets, head and body. An error where the daemon dies meanwhile.
fn visit(flyloft: &Flyloft, env: &str, headers: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, flyloft.http))?;
    stream.set_read_timeout(Some(Duration::from_secs(40)))?;
    let host = env.replace('/', "-");
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}.localhost\r\nConnection: close\r\n{headers}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn state(flyloft: &Flyloft, env: &str) -> String {
    flyloft.why(env)["state"].as_str().unwrap().to_owned()
}

/// Bytes that are out of the way.
fn moved(flyloft: &Flyloft, env: &str) -> u64 {
    let memory = &flyloft.why(env)["memory"];
    ["compressed", "disk"].iter().filter_map(|place| memory[place].as_u64()).sum()
}

/// What answers has a child, and so it is held back when it wakes.
fn parent() -> Vec<(&'static str, String)> {
    let mut files = app("hello");
    files[2].1 = format!("import subprocess\nsubprocess.Popen(['sleep', 'infinity'])\n{}", files[2].1);
    files
}

/// Whether a process that PID 1 of a container has started was stopped.
fn stopped(init: i32) -> bool {
    let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    let stat = |child: &str| fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    children.split_whitespace().any(|child| stat(child).rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

#[test]
fn a_daemon_that_dies_at_any_step_of_the_ladder_comes_back_and_ends_what_it_had_begun() {
    const ENV: &str = "it-ladder/main";
    let zswap = || fs::read_to_string("/sys/module/zswap/parameters/enabled").unwrap_or_default();
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-ladder", &borrowed(&parent())).pushed(&["main"]);
    let before = (traces(&flyloft), zswap());
    // Where it dies, from what, of which command (of a visit where there is none), and what has to come of it.
    let deaths: &[(&str, Option<&str>, &[&str], &str)] = &[
        ("freeze.begun", None, &["sleep"], "asleep"),
        ("freeze.half", None, &["sleep"], "asleep"),
        ("freeze.done", None, &["sleep"], "asleep"),
        ("offload.begun", None, &["sleep"], "asleep"),
        ("offload.half", None, &["sleep"], "asleep"),
        ("offload.half", None, &["sleep", "--deep"], "asleep"),
        ("offload.done", None, &["sleep"], "asleep"),
        ("thaw.begun", Some("sleep"), &[], "awake"),
        ("thaw.noted", Some("sleep"), &[], "awake"),
        ("thaw.held", Some("sleep"), &[], "awake"),
        ("thaw.done", Some("sleep"), &[], "awake"),
        ("off.begun", None, &["off"], "off"),
        ("off.half", Some("sleep"), &["off"], "off"),
        ("off.done", None, &["off"], "off"),
        ("start.begun", Some("off"), &[], "awake"),
        ("start.half", Some("off"), &[], "awake"),
        ("start.done", Some("off"), &[], "awake"),
    ];
    for (place, from, command, expected) in deaths {
        flyloft.kill();
        flyloft.fault(place);
        flyloft.serve();
        if let Some(from) = from {
            flyloft.ok(&[from, ENV]);
        }
        let thawed = place.starts_with("thaw").then(|| {
            // After a shorter sleep nobody is held back.
            std::thread::sleep(Duration::from_millis(1100));
            flyloft.processes(ENV).1
        });
        if command.is_empty() {
            let _ = visit(&flyloft, ENV, "");
        } else {
            flyloft.cli(&[command, &[ENV][..]].concat());
        }
        flyloft.died();
        if let (&"thaw.held", Some(init)) = (place, thawed) {
            wait_for("what answers to be held back", || stopped(init).then_some(()));
        }
        flyloft.serve();
        let what = format!("it to be {expected} after {place}");
        wait_for(&what, || (state(&flyloft, ENV) == *expected).then_some(()));
        match *expected {
            "asleep" => wait_for(&what, || (moved(&flyloft, ENV) > 1 << 20).then_some(())),
            "off" => wait_for(&what, || {
                flyloft.why(ENV)["memory"]["held"].as_u64().is_none_or(|held| held == 0).then_some(())
            }),
            _ => {}
        }
        let answer = visit(&flyloft, ENV, "").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "after {place}: {answer}");
        let init = flyloft.processes(ENV).1;
        wait_for("nobody to be held back", || (!stopped(init)).then_some(()));
        wait_for(&what, || (zswap() == before.1).then_some(()));
    }
    assert_eq!(traces(&flyloft), before.0);
    flyloft.ok(&["destroy", "it-ladder", "--yes"]);
}

#[test]
fn what_is_killed_from_outside_while_it_sleeps_is_started_for_its_next_visitor() {
    const ENV: &str = "it-killed/main";
    let flyloft = Flyloft::start();
    flyloft.repository("it-killed", &borrowed(&app("hello"))).pushed(&["main"]);
    for depth in [&["sleep"][..], &["sleep", "--deep"]] {
        for with_monitor in [false, true] {
            flyloft.ok(&[depth, &[ENV][..]].concat());
            let (monitor, init) = flyloft.processes(ENV);
            kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
            if with_monitor {
                kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
            }
            let answer = visit(&flyloft, ENV, "").unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{depth:?}: {answer}");
            let woken = wait_for("it to be awake", || {
                Some(flyloft.why(ENV)).filter(|why| why["state"] == "awake").map(|mut why| why["woken"].take())
            });
            assert!(woken["failure"].is_null(), "{woken}");
            assert_ne!(flyloft.processes(ENV).1, init);
        }
    }
    flyloft.ok(&["destroy", "it-killed", "--yes"]);
}

#[test]
fn an_app_that_is_killed_while_it_sleeps_is_started_before_its_next_visitor_gets_through() {
    const ENV: &str = "it-orphan/main";
    let flyloft = Flyloft::start();
    flyloft.repository("it-orphan", &borrowed(&app("hello"))).pushed(&["main"]);
    for _ in 0..3 {
        flyloft.ok(&["sleep", ENV]);
        let (_, init) = flyloft.processes(ENV);
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        for child in children.split_whitespace() {
            kill(Pid::from_raw(child.parse().unwrap()), Signal::SIGKILL).unwrap();
        }
        assert_ne!(children.trim(), "", "it had no app");
        let answer = visit(&flyloft, ENV, "").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
        let woken = flyloft.why(ENV)["woken"].take();
        assert!(woken["failure"].is_null(), "{woken}");
    }
    flyloft.ok(&["destroy", "it-orphan", "--yes"]);
}

#[test]
fn what_is_killed_from_outside_while_it_serves_is_started_within_seconds_and_the_second_time_by_its_next_visitor() {
    const ENV: &str = "it-slain/main";
    let flyloft = Flyloft::start();
    flyloft.repository("it-slain", &borrowed(&app("hello"))).pushed(&["main"]);
    let (_, init) = flyloft.processes(ENV);
    // What was told of an earlier environment of this name is still there.
    let earlier = flyloft.told(ENV, "crashed").len();
    let newest = |count| {
        let told = || Some(flyloft.told(ENV, "crashed")).filter(|told| told.len() == earlier + count);
        wait_for("it to be told", told).pop().unwrap()
    };
    let killed = Instant::now();
    kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
    assert_eq!(newest(1), "v1 ended by itself and is started again");
    // Nobody has come meanwhile.
    wait_for("it to be awake", || (flyloft.why(ENV)["woken"]["by"] == "flyloft").then_some(()));
    assert_eq!(state(&flyloft, ENV), "awake");
    // Until the next comparison with what should be it may be a minute.
    assert!(killed.elapsed() < Duration::from_secs(10), "it took {:?}", killed.elapsed());
    let answers = || {
        let answer = visit(&flyloft, ENV, "").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    };
    answers();
    let (_, next) = flyloft.processes(ENV);
    assert_ne!(next, init);

    kill(Pid::from_raw(next), Signal::SIGKILL).unwrap();
    assert_eq!(newest(2), "v1 ended by itself and is started again by the next visit");
    assert_eq!(state(&flyloft, ENV), "off");
    answers();
    flyloft.ok(&["destroy", "it-slain", "--yes"]);
}

#[test]
fn what_the_kernel_cannot_freeze_stays_awake_says_so_and_sleeps_once_it_can() {
    const ENV: &str = "it-stuck/main";
    let flyloft = Flyloft::start();
    flyloft.repository("it-stuck", &borrowed(&app("hello"))).pushed(&["main"]);
    let stuck = stuck::Stuck::within(flyloft.processes(ENV).1);
    let output = flyloft.cli(&["sleep", ENV]);
    assert!(!output.status.success());
    assert!(text(&output).contains("cannot be frozen now"), "{}", text(&output));
    assert_eq!(state(&flyloft, ENV), "awake");
    assert_eq!(flyloft.get(ENV, "/").body, "hello");
    let told = flyloft.told(ENV, "sleep-failed").pop().unwrap();
    let culprit = format!("cannot be frozen now: process {} (", stuck.pid());
    assert!(told.contains(&culprit), "{told}");
    drop(stuck);
    flyloft.ok(&["sleep", ENV]);
    assert_eq!(flyloft.get(ENV, "/").body, "hello");
    flyloft.ok(&["destroy", "it-stuck", "--yes"]);
}

/// A server that starts well, unless a file says how not to.
fn moody() -> Vec<(&'static str, String)> {
    let mood = r#"import os, sys
open("mood", "a").close()
mood = open("mood").read()
if mood == "exits": sys.exit("no database here")
VERSION = "hello"
"#;
    let server = SERVER.replace("(\"\", int", "(\"127.0.0.1\" if mood == \"hides\" else \"\", int");
    let mut files = app("hello");
    files[2].1 = format!("{mood}{server}");
    files
}

#[test]
fn a_wake_that_never_becomes_healthy_is_told_to_who_waits_and_the_next_visit_tries_again() {
    const ENV: &str = "it-moody/main";
    let flyloft = Flyloft::start();
    flyloft.repository("it-moody", &borrowed(&moody())).pushed(&["main"]);
    let shown: serde_json::Value = serde_json::from_str(&flyloft.ok(&["show", ENV, "--json"])).unwrap();
    let upper = flyloft.state.join("engine/containers").join(shown["container"].as_str().unwrap()).join("upper/app");
    flyloft.ok(&["off", ENV]);
    let earlier = flyloft.told(ENV, "wake-failed").len();
    for (round, (mood, why)) in
        [("exits", "web.1 exited with code 1"), ("hides", "listens on 127.0.0.1:5000 alone")].iter().enumerate()
    {
        fs::write(upper.join("mood"), mood).unwrap();
        let (answer, page) = std::thread::scope(|scope| {
            let browser = scope.spawn(|| visit(&flyloft, ENV, "Accept: text/html\r\n").unwrap());
            (visit(&flyloft, ENV, "").unwrap(), browser.join().unwrap())
        });
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
        assert!(
            answer.contains("it-moody/main did not wake") && answer.contains("flyloft why it-moody/main"),
            "{answer}"
        );
        assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
        if page.contains("is waking up") {
            // It comes back by itself, and is told what became of it.
            let page = visit(&flyloft, ENV, "Accept: text/html\r\n").unwrap();
            assert!(page.contains("did not wake"), "{page}");
        }
        let told = wait_for("it to be told", || {
            Some(flyloft.told(ENV, "wake-failed")).filter(|told| told.len() > earlier + round)
        });
        assert!(told[earlier + round].contains(why), "{told:?}");
        let seen = wait_for("it to be off", || Some(flyloft.why(ENV)).filter(|seen| seen["state"] == "off"));
        assert!(seen["woken"]["failure"].as_str().unwrap().contains(why), "{seen}");
    }
    fs::write(upper.join("mood"), "").unwrap();
    assert_eq!(flyloft.get(ENV, "/").body, "hello");
    flyloft.ok(&["destroy", "it-moody", "--yes"]);
}

/// The store's files, which nobody can write to while this lives.
struct ReadOnly(Vec<PathBuf>);

impl ReadOnly {
    fn of(state: &Path) -> Self {
        // What its readers and writers share stays: it is a part of their memory.
        let files = ["store.db", "store.db-wal"].map(|name| state.join(name)).into_iter();
        let files: Vec<_> = files.filter(|file| file.exists()).collect();
        run(Command::new("chattr").arg("+i").args(&files));
        Self(files)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        run(Command::new("chattr").arg("-i").args(&self.0));
    }
}

#[test]
fn where_the_store_cannot_be_written_what_runs_is_served_and_everything_else_says_why() {
    const ENV: &str = "it-store/sleeper";
    let mut flyloft = Flyloft::start();
    let repository = flyloft.repository("it-store", &borrowed(&app("hello")));
    repository.pushed(&["main", "main:sleeper"]);
    flyloft.ok(&["sleep", ENV]);
    let read_only = ReadOnly::of(&flyloft.state);
    assert_eq!(flyloft.get("it-store/main", "/").body, "hello");
    for _ in 0..2 {
        let began = Instant::now();
        let answer = visit(&flyloft, ENV, "").unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
        assert!(answer.contains("failed to record the state of `it-store/sleeper`"), "{answer}");
        assert!(began.elapsed() < Duration::from_secs(10), "it was held though nothing came of it");
    }
    assert_eq!(state(&flyloft, ENV), "asleep");
    let refused = flyloft.cli(&["wake", ENV]);
    assert!(text(&refused).contains("failed to record"), "{}", text(&refused));
    repository.commit(&[("notes.txt", "more")]);
    repository.rejected(&["main"]);
    drop(read_only);
    assert_eq!(flyloft.get(ENV, "/").body, "hello");
    wait_for("it to be awake", || (state(&flyloft, ENV) == "awake").then_some(()));
    repository.pushed(&["main"]);

    flyloft.kill();
    let read_only = ReadOnly::of(&flyloft.state);
    let (_, refused) = flyloft.fails_to_serve();
    assert!(refused.contains("store.db") && refused.contains("not permitted"), "{refused}");
    drop(read_only);
    flyloft.serve();
    assert_eq!(flyloft.get(ENV, "/").body, "hello");
    flyloft.ok(&["destroy", "it-store", "--yes"]);
}
