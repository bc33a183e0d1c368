//! How long a visitor waits for what sleeps, and what a container holds asleep.
//!
//! ```text
//! cargo bench -p flyloft --bench sleep -- [--quick] [--json FILE]
//! ```
//!
//! Two apps: the example for Flask, and one that reads all of a heap of 64 MiB for each answer. They are pushed to a
//! daemon. First it goes, the engine is asked directly, and the client is in this process and goes to the container's own
//! address: from the thaw to the answer. Then the client goes to the daemon's edge: from its connection to the answer.
//! States take turns, so that what else the machine does meets all of them.
#![allow(clippy::disallowed_methods, reason = "benchmarks start the programs that people use")]

#[allow(dead_code, reason = "it offers more than this needs")]
#[path = "../../tests/it/harness.rs"]
mod harness;
#[allow(dead_code, reason = "other benchmarks use the rest")]
#[path = "../report.rs"]
mod report;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flyloft::config::Config;
use flyloft::engine::lxc::net::NetConfig;
use flyloft::engine::lxc::{LxcConfig, LxcEngine};
use flyloft::engine::{ContainerId, Engine, Held};
use flyloft_core::lifecycle::Depth;
use harness::Flyloft;
use serde_json::json;

const FLASK: &str = "bench-sleep";
const HEAP: &str = "bench-heap";

/// Text compresses to about a third, and so does this.
const HEAP_APP: &str = r#"
import random
from flask import Flask
app = Flask(__name__)
random.seed(1)
heap = b"".join(random.randbytes(1365) + bytes(2731) for _ in range(16384))
@app.get("/")
def hello():
    return str(sum(memoryview(heap)[::4096]))
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Awake,
    Frozen,
    Asleep,
    Deep,
}

/// What wakes, and whom the client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Engine,
    Edge,
}

struct Row {
    app: &'static str,
    by: By,
    before: Before,
    times: Vec<f64>,
    held: Option<Held>,
    /// Milliseconds for the median and the 99th percentile.
    promised: (f64, f64),
}

fn main() -> ExitCode {
    // Cargo adds `--bench` to what the user wrote.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let rounds = if args.iter().any(|arg| arg == "--quick") { 20 } else { 100 };
    let file = args.iter().position(|arg| arg == "--json").and_then(|at| args.get(at + 1));
    let mut flyloft = Flyloft::start();
    let containers = [FLASK, HEAP].map(|app| {
        let repository = flyloft.example(app, "flask-hello");
        if app == HEAP {
            repository.commit(&[("app.py", HEAP_APP)]);
        }
        repository.pushed(&["main"]);
        let shown: serde_json::Value =
            serde_json::from_str(&flyloft.ok(&["show", &format!("{app}/main"), "--json"])).unwrap();
        ContainerId(shown["container"].as_str().unwrap().to_owned())
    });
    flyloft.kill();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut rows = runtime.block_on(by_the_engine(&flyloft, &containers, rounds));
    flyloft.serve();
    rows.extend(by_the_edge(&flyloft, rounds));
    for app in [FLASK, HEAP] {
        flyloft.ok(&["destroy", app, "--yes"]);
    }
    print(&rows);
    if let Some(file) = file {
        let rows = rows.iter().map(|row| {
            let (app, by, state) = (row.app, format!("{:?}", row.by), format!("{:?}", row.before));
            let held = row.held;
            json!({"app": app, "by": by, "state": state, "p50": row.at(0.5), "p99": row.at(0.99), "held": held, "kept": row.kept()})
        });
        std::fs::write(file, serde_json::to_string_pretty(&rows.collect::<Vec<_>>()).unwrap()).unwrap();
    }
    report::status(rows.iter().all(Row::kept))
}

async fn by_the_engine(flyloft: &Flyloft, containers: &[ContainerId; 2], rounds: usize) -> Vec<Row> {
    let network = Config::default().network;
    let config = LxcConfig {
        state: flyloft.state.clone(),
        instance: std::fs::read_to_string(flyloft.state.join("instance")).unwrap().trim().to_owned(),
        init: harness::init(),
        network: NetConfig {
            ipv4: network.ipv4.address,
            ipv6: network.ipv6.address,
            dns: Vec::new(),
            edge_ports: Vec::new(),
        },
    };
    let engine = LxcEngine::open(config).await.unwrap();
    let mut rows = Vec::new();
    for (app, id) in [FLASK, HEAP].into_iter().zip(containers) {
        let row = |before| Row::new(app, By::Engine, before);
        let mut of_app = [Before::Awake, Before::Frozen, Before::Asleep, Before::Deep].map(row);
        let address = engine.find(id).await.unwrap().unwrap().addresses.ipv4;
        // The first wake of its life has nothing to go by.
        let mut learning = row(Before::Asleep);
        once(&engine, id, (address, 5000).into(), &mut learning).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        for _ in 0..rounds {
            for row in &mut of_app {
                once(&engine, id, (address, 5000).into(), row).await;
            }
        }
        rows.extend(of_app);
    }
    rows
}

async fn once(engine: &LxcEngine, id: &ContainerId, address: SocketAddr, row: &mut Row) {
    if row.before != Before::Awake {
        engine.freeze(id).await.unwrap();
    }
    row.held = match row.before {
        Before::Awake | Before::Frozen => None,
        Before::Asleep => Some(engine.offload(id, Depth::Shallow).await.unwrap()),
        Before::Deep => Some(engine.offload(id, Depth::Deep).await.unwrap()),
    };
    // What the machine does because of it has ended.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let started = Instant::now();
    if row.before != Before::Awake {
        engine.thaw(id).await.unwrap();
    }
    let answered = tokio::task::spawn_blocking(move || get(address, "bench"));
    answered.await.unwrap();
    row.times.push(started.elapsed().as_secs_f64() * 1e3);
}

/// There is no command that freezes and leaves the memory where it is.
fn by_the_edge(flyloft: &Flyloft, rounds: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for app in [FLASK, HEAP] {
        let (env, host) = (format!("{app}/main"), format!("{app}-main.localhost"));
        let once = |row: &mut Row| {
            match row.before {
                Before::Awake | Before::Frozen => {}
                Before::Asleep => drop(flyloft.ok(&["sleep", &env])),
                Before::Deep => drop(flyloft.ok(&["sleep", &env, "--deep"])),
            }
            std::thread::sleep(Duration::from_millis(20));
            let started = Instant::now();
            get((Ipv4Addr::LOCALHOST, flyloft.http).into(), &host);
            row.times.push(started.elapsed().as_secs_f64() * 1e3);
        };
        let mut of_app = [Before::Awake, Before::Asleep, Before::Deep].map(|before| Row::new(app, By::Edge, before));
        once(&mut Row::new(app, By::Edge, Before::Asleep));
        std::thread::sleep(Duration::from_millis(1500));
        for _ in 0..rounds {
            of_app.iter_mut().for_each(once);
        }
        rows.extend(of_app);
    }
    rows
}

fn get(address: SocketAddr, host: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

impl Row {
    fn new(app: &'static str, by: By, before: Before) -> Self {
        let promised = match (app, by, before) {
            (FLASK, By::Engine, Before::Frozen) => (3.0, f64::INFINITY),
            (FLASK, By::Edge, Before::Asleep) => (12.0, 30.0),
            (FLASK, By::Edge, Before::Deep) => (50.0, f64::INFINITY),
            (HEAP, By::Edge, Before::Asleep) => (60.0, f64::INFINITY),
            _ => (f64::INFINITY, f64::INFINITY),
        };
        Self { app, by, before, times: Vec::new(), held: None, promised }
    }

    fn at(&self, part: f64) -> f64 {
        let mut sorted = self.times.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() as f64 * part) as usize).min(sorted.len() - 1)]
    }

    fn kept(&self) -> bool {
        self.at(0.5) <= self.promised.0 && self.at(0.99) <= self.promised.1
    }
}

fn print(rows: &[Row]) {
    println!(
        "{:<12} {:<7} {:<8} {:>9} {:>9}   {:<22} {:<5} held",
        "app", "by", "state", "p50", "p99", "promised", "kept"
    );
    for row in rows {
        let promised = match row.promised {
            (f64::INFINITY, _) => String::new(),
            (p50, f64::INFINITY) => format!("p50 ≤ {p50} ms"),
            (p50, p99) => format!("p50 ≤ {p50}, p99 ≤ {p99} ms"),
        };
        let kept = match row.promised {
            (f64::INFINITY, _) => "",
            _ if row.kept() => "yes",
            _ => "NO",
        };
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let held = row.held.map_or_else(String::new, |held| {
            let why = held.kept.map_or_else(String::new, |why| format!("; {why}"));
            let (resident, pool) = (mib(held.resident), mib(held.pool));
            let (compressed, disk) = (mib(held.compressed), mib(held.disk));
            format!("{resident:.1} MiB + {pool:.1} for {compressed:.1} compressed, {disk:.1} on disk{why}")
        });
        let (p50, p99) = (row.at(0.5), row.at(0.99));
        let (by, before) = (format!("{:?}", row.by).to_lowercase(), format!("{:?}", row.before).to_lowercase());
        println!("{:<12} {by:<7} {before:<8} {p50:>6.1} ms {p99:>6.1} ms   {promised:<22} {kept:<5} {held}", row.app);
    }
}
