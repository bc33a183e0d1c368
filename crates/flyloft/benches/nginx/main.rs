//! nginx as the edge: against an nginx that is configured by hand, and how soon and how often it is told of changes.
//!
//! ```text
//! cargo bench -p flyloft --bench nginx -- [--quick] [--json FILE]
//! ```
//!
//! Both nginx have two workers and the same upstream; `wrk` asks one and then the other, and what counts is the median of
//! the rounds' ratios. Ours has 500 other environments beside the one that is asked for. Then routes change: one after
//! the other, 50 at once, and under load. What a gate costs is told by the medians of single requests.
//!
//! Needs the Debian packages `nginx-light` and `wrk`.

#[path = "../edge/nginx.rs"]
mod by_hand;
#[allow(dead_code, reason = "other benchmarks use the rest")]
#[path = "../report.rs"]
mod report;
mod stage;
#[allow(dead_code, reason = "another benchmark uses the rest")]
#[path = "../edge/wrk.rs"]
mod wrk;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use self::stage::{GATED, HOST, Stage};

/// One comparison: what is asked for.
struct Case {
    name: &'static str,
    path: &'static str,
    connections: u32,
}

const CASES: [Case; 2] = [
    Case { name: "small answers", path: "/small", connections: 64 },
    Case { name: "answers of 1 MB", path: "/large", connections: 16 },
];

#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    round: Duration,
    changes: usize,
}

const FULL: Effort = Effort { rounds: 15, round: Duration::from_secs(2), changes: 30 };
const QUICK: Effort = Effort { rounds: 5, round: Duration::from_secs(1), changes: 10 };

/// Times nginx by hand, at least.
const RATIO: f64 = 0.98;
/// Milliseconds until a changed route shows, and those that a wake takes longer than by the embedded edge.
const VISIBLE: f64 = 100.0;
const WAKE: f64 = 5.0;
/// Milliseconds that a request takes longer which has to pass a gate.
const GATE: f64 = 1.0;
/// Changes at once, and how often nginx may be told of them.
const AT_ONCE: usize = 50;
const RELOADS: usize = 5;

fn main() -> Result<ExitCode> {
    // Cargo adds `--bench` to what the user wrote.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (effort, json) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => (FULL, None),
        ["--quick"] => (QUICK, None),
        ["--json", file] => (FULL, Some(PathBuf::from(file))),
        ["--quick", "--json", file] => (QUICK, Some(file.into())),
        _ => bail!("usage: cargo bench -p flyloft --bench nginx -- [--quick] [--json FILE]"),
    };
    runtime.block_on(measure(effort, json))
}

async fn measure(effort: Effort, json: Option<PathBuf>) -> Result<ExitCode> {
    let stage = Stage::start().await?;
    let mut report = Vec::new();
    for case in &CASES {
        throughput(&stage, case, effort, &mut report).await?;
    }
    gate(&stage, effort, &mut report).await?;
    changes(&stage, effort, &mut report).await?;
    at_once(&stage, &mut report).await?;
    wakes(&stage, effort, &mut report).await?;
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&file, text).with_context(|| format!("failed to write `{}`", file.display()))?;
    }
    Ok(report::status(report::all_kept(&report)))
}

async fn throughput(stage: &Stage, case: &Case, effort: Effort, report: &mut Vec<serde_json::Value>) -> Result<()> {
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let ask = |address| wrk::load(address, HOST, case.path, case.connections, effort.round);
        let (theirs, ours) = if round % 2 == 0 {
            let theirs = ask(stage.by_hand).await?;
            (theirs, ask(stage.ours).await?)
        } else {
            let ours = ask(stage.ours).await?;
            (ask(stage.by_hand).await?, ours)
        };
        rounds.push((theirs.per_second, ours.per_second));
    }
    let ratio = median(rounds.iter().map(|(theirs, ours)| ours / theirs).collect());
    let (theirs, ours) = (rounds.iter().map(|round| round.0), rounds.iter().map(|round| round.1));
    let (theirs, ours) = (median(theirs.collect()), median(ours.collect()));
    println!("{:<16} by hand {theirs:>8.0}/s, ours {ours:>8.0}/s: {ratio:.3} times, {RATIO} promised", case.name);
    report.push(json!({
        "name": format!("nginx, {}", case.name),
        "unit": "requests per second, times nginx by hand",
        "value": ratio,
        "promise": { "at_least": RATIO },
        "kept": ratio >= RATIO,
    }));
    Ok(())
}

/// What a gate costs a visitor who has a cookie and sends one request after the other.
async fn gate(stage: &Stage, effort: Effort, report: &mut Vec<serde_json::Value>) -> Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        for (host, medians) in [(HOST, &mut without), (GATED, &mut with)] {
            let headers = [format!("Host: {host}"), format!("Cookie: {}", stage::cookie())];
            let load = wrk::load_with(stage.ours, &headers, "/small", 1, effort.round).await?;
            medians.push(load.median.context("`wrk` says no median")?);
        }
    }
    let (without, with) = (median(without), median(with));
    println!("a request takes {without:.3} ms, {with:.3} ms past a gate");
    report.push(json!({
        "name": "nginx, what a gate costs a request",
        "unit": "milliseconds, at the median",
        "value": with - without,
        "promise": { "at_most": GATE },
        "kept": with - without <= GATE,
    }));
    Ok(())
}

/// Redeploys, one after the other, as quickly as any deploy: the edge is told when one begins, and where it leads to when
/// it is healthy.
async fn changes(stage: &Stage, effort: Effort, report: &mut Vec<serde_json::Value>) -> Result<()> {
    let (mut visible, mut sure) = (Vec::new(), Vec::new());
    for round in 0..effort.changes {
        stage.expect("changes.test");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (app, name) = stage.app(round % 2);
        let begun = Instant::now();
        let (seen, set) = tokio::join!(stage.sees(name, begun), async {
            stage.route("changes.test", app).await.map(|()| begun.elapsed())
        });
        visible.push(seen?.as_secs_f64() * 1e3);
        sure.push(set?.as_secs_f64() * 1e3);
    }
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (worst, worst_sure) = (most(&visible), most(&sure));
    let (visible, sure) = (median(visible), median(sure));
    println!(
        "a deploy shows after {visible:.1} ms (at most {worst:.0}), and nobody sees the old one after {sure:.1} ms (at most {worst_sure:.0})"
    );
    report.push(json!({
        "name": "nginx, a deploy shows, with 500 environments",
        "unit": "milliseconds",
        "value": visible,
        "worst": worst,
        "all": sure,
        "promise": { "at_most": VISIBLE },
        "kept": visible <= VISIBLE,
    }));
    Ok(())
}

async fn at_once(stage: &Stage, report: &mut Vec<serde_json::Value>) -> Result<()> {
    for number in 0..AT_ONCE {
        stage.route(&format!("many-{number}.test"), stage.app(0).0).await?;
    }
    tokio::time::sleep(Duration::from_secs(25)).await;
    let before = stage.reloads()?;
    let (done, load) = stage.load();
    let begun = Instant::now();
    let name = |number| format!("many-{number}.test");
    let routed = (0..AT_ONCE).map(|number| async move { stage.route(&name(number), stage.app(1).0).await });
    for routed in futures_util::future::join_all(routed).await {
        routed?;
    }
    let took = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reloads = stage.reloads()? - before;
    done.cancel();
    let (asked, failed) = load.await?;
    println!("{AT_ONCE} changes at once: {reloads} reloads, {took:?}; {failed} of {asked} requests failed meanwhile");
    report.push(json!({
        "name": format!("nginx, reloads of {AT_ONCE} changes at once"),
        "unit": "reloads",
        "value": reloads,
        "promise": { "at_most": RELOADS },
        "kept": reloads <= RELOADS,
    }));
    report.push(json!({
        "name": "nginx, requests that failed during reloads",
        "unit": format!("of {asked}"),
        "value": failed,
        "promise": { "at_most": 0 },
        "kept": failed == 0,
    }));
    Ok(())
}

/// What nginx adds to a wake: the same request, by way of it and without.
async fn wakes(stage: &Stage, effort: Effort, report: &mut Vec<serde_json::Value>) -> Result<()> {
    let (mut through, mut without) = (Vec::new(), Vec::new());
    for _ in 0..effort.changes * 3 {
        through.push(stage.wake(stage.ours).await?.as_secs_f64() * 1e3);
        without.push(stage.wake(stage.embedded).await?.as_secs_f64() * 1e3);
    }
    let (through, without) = (median(through), median(without));
    println!("a wake takes {through:.2} ms through nginx, {without:.2} ms through the embedded edge");
    report.push(json!({
        "name": "nginx, what it adds to a wake",
        "unit": "milliseconds",
        "value": through - without,
        "promise": { "at_most": WAKE },
        "kept": through - without <= WAKE,
    }));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn write(path: &std::path::Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("failed to write `{}`", path.display()))
}
