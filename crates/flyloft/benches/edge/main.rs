//! The embedded edge against nginx, as reverse proxies in front of the same upstream, in one run on one machine.
//!
//! ```text
//! cargo bench -p flyloft --bench edge -- [--quick] [--json FILE]
//! ```
//!
//! Both proxies have two workers, keep connections to the upstream, and set the same headers. `wrk` asks one and then
//! the other, in short rounds and with the first place changing, so that what else the machine does meets both; what
//! counts is the median of the rounds' ratios. The processor time that each proxy took for a request is read from `/proc`
//! besides: it is what can still be compared on a machine that is busy otherwise, where the rates say little.
//!
//! Over TLS 1.3 and HTTP/2, with the same certificate, it is `h2load` that asks (`-- --tls` does only that).
//!
//! What the gate costs is measured in the same way (`-- --gate` does only that).
//!
//! Besides, it says how long the edge takes to let a request go that has waited for its environment (`-- --wake` does
//! only that).
//!
//! Needs the Debian packages `nginx-light`, `wrk` and `nghttp2-client`.

mod gate;
mod nginx;
#[allow(dead_code, reason = "other benchmarks use the rest")]
#[path = "../report.rs"]
mod report;
mod tls;
mod wake;
#[allow(dead_code, reason = "another benchmark uses the rest")]
mod wrk;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flyloft::edge::embedded::{EdgeConfig, Embedded};
use flyloft::edge::{Edge, Route, Target};
use flyloft::exec::Cmd;
use flyloft_core::name::EnvRef;
use serde_json::json;

const HOST: &str = "shop.test";
const WORKERS: usize = 2;
const WAKES: usize = 500;

/// One comparison: what is asked for, and what is promised.
struct Case {
    name: &'static str,
    path: &'static str,
    connections: u32,
    /// Requests at a time of each connection of HTTP/2 over TLS. None is plain HTTP/1.1.
    streams: Option<u32>,
    /// At least this many times nginx's requests per second.
    promise: f64,
}

const CASES: [Case; 2] = [
    Case { name: "small answers", path: "/small", connections: 64, streams: None, promise: 1.0 },
    Case { name: "answers of 1 MB", path: "/large", connections: 16, streams: None, promise: 1.3 },
];

const SECURE_CASES: [Case; 2] = [
    Case { name: "small, TLS, h2", path: "/small", connections: 32, streams: Some(4), promise: 1.0 },
    Case { name: "1 MB, TLS, h2", path: "/large", connections: 16, streams: Some(1), promise: 1.0 },
];

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    round: Duration,
}

const FULL: Effort = Effort { rounds: 15, round: Duration::from_secs(2) };
const QUICK: Effort = Effort { rounds: 7, round: Duration::from_secs(1) };

/// What one proxy did in one round.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    /// Microseconds of processor time for each request, user and system together.
    cpu: f64,
}

fn main() -> Result<ExitCode> {
    // Cargo adds `--bench` to what the user wrote.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", listen, upstream] => {
            let config = EdgeConfig::new([listen.parse::<SocketAddr>()?]);
            runtime.block_on(serve(config, upstream.parse()?))?
        }
        ["serve-tls", listen, upstream, dir] => {
            let secure = Some(tls::config(Path::new(dir), listen.parse()?)?);
            runtime.block_on(serve(EdgeConfig { secure, ..EdgeConfig::new([]) }, upstream.parse()?))?
        }
        [] => runtime.block_on(compare(FULL, None))?,
        ["--gate"] => runtime.block_on(compare_gate(FULL))?,
        ["--tls"] => {
            heading();
            runtime.block_on(compare_tls(FULL))?
        }
        ["--wake"] => vec![runtime.block_on(wake())?],
        ["--quick"] => runtime.block_on(compare(QUICK, None))?,
        ["--json", file] => runtime.block_on(compare(FULL, Some(file.into())))?,
        ["--quick", "--json", file] => runtime.block_on(compare(QUICK, Some(file.into())))?,
        _ => bail!("usage: cargo bench -p flyloft --bench edge -- [--gate | --tls | --wake | --quick] [--json FILE]"),
    };
    Ok(report::status(report::all_kept(&report)))
}

/// The edge alone, with one route. Runs until it is killed.
async fn serve(config: EdgeConfig, upstream: SocketAddr) -> Result<Vec<serde_json::Value>> {
    let edge = Embedded::open(EdgeConfig { threads: WORKERS, ..config })?;
    edge.set(HOST, Route::public(EnvRef::parse("shop/main")?, Target::Upstream(upstream))).await?;
    let route = Route::public(EnvRef::parse("shop/gated")?, Target::Upstream(upstream));
    edge.set(gate::HOST, Route { guard: gate::guard(), ..route }).await?;
    std::future::pending().await
}

async fn compare(effort: Effort, json: Option<PathBuf>) -> Result<Vec<serde_json::Value>> {
    let dir = tempfile::tempdir()?;
    let (upstream, proxy, edge) = (free_address()?, free_address()?, free_address()?);
    let _upstream = start(nginx::upstream(dir.path(), upstream)?, upstream).await?;
    let proxy_process = start(nginx::proxy(dir.path(), proxy, upstream, HOST, WORKERS)?, proxy).await?;
    let itself = std::env::current_exe()?;
    let serve = Cmd::new(itself).arg("serve").arg(edge.to_string()).arg(upstream.to_string());
    let edge_process = start(serve, edge).await?;

    let mut report = Vec::new();
    heading();
    for case in &CASES {
        report.push(side_by_side(case, effort, (&proxy_process, proxy), (&edge_process, edge)).await?);
    }
    report.extend(compare_tls(effort).await?);
    report.push(gated(&edge_process, edge, effort).await?);
    report.push(wake().await?);
    if let Some(file) = json {
        std::fs::write(&file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("failed to write `{}`", file.display()))?;
    }
    Ok(report)
}

fn heading() {
    println!(
        "{:<16} {:>12} {:>12} {:>7} {:>9}   {:>10} {:>10}",
        "", "nginx", "flyloft", "ratio", "promised", "nginx", "flyloft"
    );
}

/// Both over TLS, which leads nowhere else.
async fn compare_tls(effort: Effort) -> Result<Vec<serde_json::Value>> {
    let dir = tempfile::tempdir()?;
    tls::certificate(dir.path(), HOST).await?;
    let (upstream, proxy, edge) = (free_address()?, free_address()?, free_address()?);
    let _upstream = start(nginx::upstream(dir.path(), upstream)?, upstream).await?;
    let secured = tls::nginx(dir.path());
    let their_process = start(nginx::proxy_with(dir.path(), proxy, upstream, HOST, WORKERS, secured)?, proxy).await?;
    let serve = Cmd::new(std::env::current_exe()?).arg("serve-tls").arg(edge.to_string()).arg(upstream.to_string());
    let our_process = start(serve.arg(dir.path()), edge).await?;
    let mut report = Vec::new();
    for case in &SECURE_CASES {
        report.push(side_by_side(case, effort, (&their_process, proxy), (&our_process, edge)).await?);
    }
    Ok(report)
}

/// nginx and the edge in turns.
async fn side_by_side(
    case: &Case,
    effort: Effort,
    (their_process, proxy): (&Process, SocketAddr),
    (our_process, edge): (&Process, SocketAddr),
) -> Result<serde_json::Value> {
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let ours_first = round % 2 == 1;
        let early = if ours_first { Some(measure(our_process, edge, case, effort.round).await?) } else { None };
        let theirs = measure(their_process, proxy, case, effort.round).await?;
        let ours = match early {
            Some(ours) => ours,
            None => measure(our_process, edge, case, effort.round).await?,
        };
        rounds.push((theirs, ours));
    }
    let of = |what: &dyn Fn(&(Measured, Measured)) -> f64| median(rounds.iter().map(what).collect());
    let (theirs, ours) = (of(&|round| round.0.per_second), of(&|round| round.1.per_second));
    let (their_cpu, our_cpu) = (of(&|round| round.0.cpu), of(&|round| round.1.cpu));
    let ratio = of(&|round| round.1.per_second / round.0.per_second);
    println!(
        "{:<16} {theirs:>10.0}/s {ours:>10.0}/s {ratio:>6.2}x {:>8.2}x   {their_cpu:>7.1} µs {our_cpu:>7.1} µs",
        case.name, case.promise
    );
    Ok(json!({
        "name": format!("edge, {}", case.name),
        "unit": "requests per second, times nginx",
        "value": ratio,
        "promise": { "at_least": case.promise },
        "kept": ratio >= case.promise,
        "nginx": { "requests_per_second": theirs, "cpu_microseconds": their_cpu },
        "flyloft": { "requests_per_second": ours, "cpu_microseconds": our_cpu },
    }))
}

/// The gate alone.
async fn compare_gate(effort: Effort) -> Result<Vec<serde_json::Value>> {
    let dir = tempfile::tempdir()?;
    let (upstream, edge) = (free_address()?, free_address()?);
    let _upstream = start(nginx::upstream(dir.path(), upstream)?, upstream).await?;
    let serve = Cmd::new(std::env::current_exe()?).arg("serve").arg(edge.to_string()).arg(upstream.to_string());
    let edge_process = start(serve, edge).await?;
    Ok(vec![gated(&edge_process, edge, effort).await?])
}

/// What the edge does with and without a gate, in turns.
async fn gated(process: &Process, edge: SocketAddr, effort: Effort) -> Result<serde_json::Value> {
    let case = &CASES[0];
    let (without, with) = (gate::headers_elsewhere(HOST), gate::headers());
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let mut measured = [None, None];
        for turn in [round % 2, 1 - round % 2] {
            let headers = if turn == 0 { &without } else { &with };
            let load = wrk::load_with(edge, headers, case.path, case.connections, effort.round);
            measured[turn] = Some(timed(process, load).await?);
        }
        let [Some(without), Some(with)] = measured else { bail!("a round has two turns") };
        rounds.push((without, with));
    }
    Ok(gate::report(&rounds, median))
}

/// What the edge itself takes of a wake.
async fn wake() -> Result<serde_json::Value> {
    let (floor, edge) = (wake::floor(WAKES)?, wake::edge(HOST, WORKERS, WAKES).await?);
    println!(
        "a request that waited is at its app {:.0} µs after the wake (p99 {:.0} µs), floor {:.0} µs (p99 {:.0} µs)",
        edge.p50, edge.p99, floor.p50, floor.p99
    );
    Ok(json!({
        "name": format!("edge, a request that waited, with {} other environments", wake::OTHERS),
        "unit": "microseconds from the wake to the first byte at the app",
        "value": edge.p50,
        "p99": edge.p99,
        "floor": { "p50": floor.p50, "p99": floor.p99 },
    }))
}

async fn measure(proxy: &Process, address: SocketAddr, case: &Case, round: Duration) -> Result<Measured> {
    match case.streams {
        None => timed(proxy, wrk::load(address, HOST, case.path, case.connections, round)).await,
        Some(streams) => timed(proxy, tls::load(address, HOST, case.path, (case.connections, streams), round)).await,
    }
}

/// With what the proxy takes for it.
async fn timed(proxy: &Process, load: impl Future<Output = Result<wrk::Load>>) -> Result<Measured> {
    let before = proxy.cpu()?;
    let load = load.await?;
    let cpu = (proxy.cpu()? - before).as_secs_f64() * 1e6 / load.requests as f64;
    Ok(Measured { per_second: load.per_second, cpu })
}

/// A server under test. It leads a process group of its own, which goes as a whole.
struct Process {
    group: i32,
    _child: tokio::process::Child,
}

async fn start(command: Cmd, address: SocketAddr) -> Result<Process> {
    let child = command.spawn(Stdio::null(), Stdio::null(), Stdio::inherit())?;
    let group = child.id().with_context(|| format!("`{command}` has ended"))? as i32;
    let process = Process { group, _child: child };
    let begin = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        if begin.elapsed() > Duration::from_secs(5) {
            bail!("`{command}` does not listen on {address}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(process)
}

impl Process {
    /// The processor time that its process group has taken so far. proc(5): the fields of `stat`, in ticks.
    fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for entry in std::fs::read_dir("/proc")? {
            let Ok(stat) = std::fs::read_to_string(entry?.path().join("stat")) else { continue };
            // The name in parentheses may have spaces, so count from behind it; there field 3 comes first.
            let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<&str> = fields.split(' ').collect();
            let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            if number(5) == self.group as u64 {
                ticks += number(14) + number(15);
            }
        }
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.group);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("failed to write `{}`", path.display()))
}
