//! Many environments on one machine, nearly all of them asleep: what each holds, and what all of them cost the daemon.
//!
//! ```text
//! cargo bench -p flyloft --bench density -- [--environments N] [--json FILE]
//! ```
//!
//! Half of them are the example for Flask, half the one for Express, all of an app of the same commit. Memory is the
//! difference of the machine's `MemAvailable`, so that nothing is left out: LXC's monitors, page tables, network
//! namespaces. It is the whole machine's, too: what else happens on it is in the numbers, and below some hundred
//! environments free pages that each processor keeps for itself are.
//!
//! Takes a state directory, a swap file and kernel parameters of its own, and puts everything back, also when it is
//! interrupted; a second run finds what one that was killed has left.
#![allow(clippy::disallowed_methods, reason = "benchmarks start the programs that people use")]

mod daemon;
mod fleet;
#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/harness.rs"]
mod harness;
mod interrupt;
mod machine;
mod report;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::daemon::{idle_share, list, resident, restart};
use crate::fleet::{App, Fleet, Sleep};
use crate::machine::{Claims, Usage};
use crate::report::{Promise, Report, mib};

/// Beside the tests' own, which may go on meanwhile.
const HOME: &str = "/var/lib/flyloft-density";

const USAGE: &str = "usage: script/bench density [--environments N] [--json FILE]";

/// Below the first there is no tenth to compare with, above the last the machine has no ids for them.
const FEWEST: usize = 20;
const MOST: usize = 4000;

/// How many are awake together, to see what each holds.
const AWAKE: usize = 50;

/// How many are woken, one after the other.
const PICKS: usize = 100;

/// Two rounds of everything that happens once a minute.
const WATCHED: Duration = Duration::from_secs(120);

struct Arguments {
    environments: usize,
    json: Option<String>,
}

fn main() {
    // Cargo adds `--bench` to what the user wrote.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let arguments = parse(&args).unwrap_or_else(|error| {
        eprintln!("error: {error}\n{USAGE}");
        std::process::exit(2);
    });
    interrupt::listen();
    match run(&arguments) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::exit(if interrupt::happened() { 130 } else { 1 });
        }
    }
}

fn parse(args: &[String]) -> Result<Arguments> {
    let mut arguments = Arguments { environments: 200, json: None };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let value = rest.next().with_context(|| match arg.as_str() {
            "--environments" | "--json" => format!("`{arg}` wants a value"),
            _ => format!("`{arg}` means nothing here"),
        });
        match arg.as_str() {
            "--environments" => arguments.environments = environments(value?)?,
            "--json" => arguments.json = Some(value?.clone()),
            _ => bail!("`{arg}` means nothing here"),
        }
    }
    Ok(arguments)
}

fn environments(text: &str) -> Result<usize> {
    let count = text.parse().with_context(|| format!("`{text}` is no number of environments"))?;
    ensure!(count >= FEWEST, "{count} environments are too few to tell one from none: {FEWEST} at least");
    ensure!(count <= MOST, "{count} environments are more than a machine has ids for: {MOST} at most");
    Ok(count)
}

/// Says whether everything was as promised.
fn run(arguments: &Arguments) -> Result<bool> {
    // Goes last, when nothing is in its swap any more.
    let claims = Claims::make(Path::new(HOME), arguments.environments)?;
    let mut fleet = Fleet::start(HOME);
    let mut report = Report::default();
    let measured = measure(&mut fleet, &claims, arguments.environments, &mut report);
    fleet.destroy();
    // What was measured before it was interrupted is true all the same.
    report.print();
    if let Some(file) = &arguments.json {
        report.write(file)?;
    }
    measured.map(|()| report.kept())
}

fn measure(fleet: &mut Fleet, claims: &Claims, count: usize, report: &mut Report) -> Result<()> {
    let apps = [App::new("flask", count.div_ceil(2)), App::new("express", count / 2)];
    for app in &apps {
        // Makes the stack and the dependencies, if no run before has.
        fleet.push(app, &["main".to_owned()])?;
        fleet.sleep(&[app.main()], Sleep::Deep)?;
    }
    let disk = machine::disk(&fleet.flyloft.state)?;
    let mut created = Vec::new();
    for app in &apps {
        let is_first = created.is_empty();
        let before = Usage::settled()?;
        let (some, others) = app.branches.split_at(app.branches.len().min(AWAKE).min(claims.awake()));
        created.extend(fleet.push_all(app, some, None)?);
        let awake = Usage::settled()?.since(before).each(some.len());
        let charged = |count: usize| Ok::<_, anyhow::Error>(machine::charged(&app.app())? / count as f64);
        let charged_awake = charged(some.len() + 1)?;
        fleet.sleep(&app.named(some), Sleep::Shallow)?;
        if is_first {
            // A tenth of all: those that are asleep by now, or some more.
            let tenth = (count / 10).saturating_sub(some.len()).min(others.len());
            let (more, others) = others.split_at(tenth);
            created.extend(fleet.push_all(app, more, Some(Sleep::Shallow))?);
            let asleep = 2 + created.len();
            report.idle(asleep, idle_share(fleet.flyloft.pid(), WATCHED)?);
            created.extend(fleet.push_all(app, others, Some(Sleep::Shallow))?);
        } else {
            created.extend(fleet.push_all(app, others, Some(Sleep::Shallow))?);
        }
        let shallow = Usage::settled()?.since(before).each(app.branches.len());
        fleet.sleep(&app.named(&app.branches), Sleep::Deep)?;
        let deep = Usage::settled()?.since(before).each(app.branches.len());
        report.memory(app.name, awake, shallow, deep);
        report.charged(app.name, charged_awake, charged(app.branches.len() + 1)?);
    }
    let all: Vec<String> = apps.iter().flat_map(|app| app.named(&app.branches)).collect();
    let grown = machine::disk(&fleet.flyloft.state)?.saturating_sub(disk);
    report.row("disk, each", mib(grown as f64 / all.len() as f64), "MiB", Promise::None);
    report.creation(&created);

    report.idle(count, idle_share(fleet.flyloft.pid(), WATCHED)?);
    let mut memory = resident(fleet.flyloft.pid())?;
    report.row("`flyloft ls`", list(fleet)?, "ms", Promise::AtMost(100.0));

    for app in &apps {
        let picks = app.named(&machine::some(&app.branches, PICKS));
        for (depth, what) in [
            (None, "deep asleep, the first wake of its life"),
            (Some(Sleep::Deep), "deep asleep"),
            (Some(Sleep::Shallow), "asleep"),
        ] {
            if let Some(depth) = depth {
                fleet.sleep(&picks, depth)?;
            }
            report.wakes(app.name, what, &fleet.wake(&picks)?);
        }
        fleet.sleep(&picks, Sleep::Deep)?;
    }

    for (how, gracefully) in [("after SIGTERM", true), ("after kill -9", false)] {
        let took = restart(&mut fleet.flyloft, gracefully);
        report.row(&format!("start with all, {how}"), took.as_secs_f64() * 1e3, "ms", Promise::AtMost(2000.0));
        report.row(&format!("first `flyloft ls` {how}"), fleet.ls()?.as_secs_f64() * 1e3, "ms", Promise::None);
    }
    machine::pause(Duration::from_secs(5))?;
    memory = memory.max(resident(fleet.flyloft.pid())?);
    report.row("daemon's resident memory", memory / 1e6, "MB", Promise::AtMost(60.0));
    let asleep = fleet.count("asleep");
    report.row("asleep at the end", asleep as f64, "", Promise::AtLeast(count as f64));
    Ok(())
}
