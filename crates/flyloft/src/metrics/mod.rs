//! `/metrics`: the daemon's numbers for Prometheus, on listeners of their own.
//!
//! What must hold: nothing here is on the way of a visitor. Numbers are put together when somebody asks, and of what
//! sleeps nothing is asked but the store.

mod tally;
mod text;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::disk::{Space, Unit};
use flyloft_core::lifecycle::{Depth, Runs, State};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use self::tally::{BOUNDS, Tally};
use self::text::{Kind, Text};
use crate::error::{OrFailed, Result};
use crate::loft::Loft;
use crate::machine::load::Load;
use crate::sockets::claim;
use crate::store::EnvRow;
use crate::tls;

/// So many may ask at once, and take so long over it.
const CLIENTS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(30);

/// Listens with the socket of those `inherited` that is bound to the address, if there is one.
pub async fn listen(address: SocketAddr, inherited: &mut Vec<OwnedFd>) -> Result<TcpListener> {
    let listener = match claim(inherited, address) {
        Some(listener) => listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)),
        None => TcpListener::bind(address).await,
    };
    listener.or_failed(|| format!("failed to listen on `{address}` for metrics"))
}

pub async fn serve(listener: TcpListener, loft: Arc<Loft>) {
    let turns = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection for metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let loft = loft.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&loft, request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(PATIENCE, connection).await;
            drop(turn);
        });
    }
}

async fn answer(loft: &Loft, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, String::new());
        response.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a header's value"));
        return Ok(response);
    }
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "it is at /metrics\n".to_owned()));
    }
    Ok(match page(loft).await {
        Ok(text) => {
            let mut response = plain(StatusCode::OK, text);
            let kind = "text/plain; version=0.0.4; charset=utf-8".parse().expect("a header's value");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => {
            tracing::warn!(%error, "failed to put metrics together");
            plain(StatusCode::INTERNAL_SERVER_ERROR, error.text())
        }
    })
}

/// All numbers, as Prometheus reads them.
pub async fn page(loft: &Loft) -> Result<String> {
    let rows = loft.parts.store.environments(None).await.or_failed(|| "failed to list environments")?;
    let held = loft.parts.held(&rows).await;
    let mut text = Text::default();
    environments(&mut text, &rows, &held);
    requests(&mut text, loft, &rows);
    events(&mut text, loft);
    certificates(&mut text, &loft.parts.keeper.status(tls::now()));
    ports(&mut text, loft);
    disk(&mut text, loft);
    machine(&mut text, &Load::look());
    Ok(text.finish())
}

fn environments(text: &mut Text, rows: &[EnvRow], held: &[Option<u64>]) {
    const STATES: [&str; 7] = ["none", "awake", "waking", "asleep", "deep", "off", "destroyed"];
    let (mut states, mut apps) = (BTreeMap::from(STATES.map(|state| (state, 0_u64))), BTreeMap::new());
    for (row, held) in rows.iter().zip(held) {
        *states.entry(state(row)).or_default() += 1;
        *apps.entry(&row.name.app).or_insert(0) += held.unwrap_or(0);
    }
    text.family("flyloft_environments", Kind::Gauge, "Environments by state.");
    for (state, count) in states {
        text.sample("flyloft_environments", &[("state", state)], count);
    }
    text.family("flyloft_memory_held_bytes", Kind::Gauge, "Memory that the environments of an app hold.");
    for (app, bytes) in apps {
        text.sample("flyloft_memory_held_bytes", &[("app", app.as_str())], bytes);
    }
}

fn ports(text: &mut Text, loft: &Loft) {
    const RELAYED: &str = "flyloft_port_relayed";
    let relayed = loft.parts.ports.relayed();
    if relayed.is_empty() {
        return;
    }
    text.family(
        RELAYED,
        Kind::Gauge,
        "Connections, and clients of datagrams, that the daemon relays by a published port.",
    );
    for (env, port, count) in relayed {
        let (app, env, host) = (env.app.as_str(), env.env.as_str(), port.host.to_string());
        let labels = [("app", app), ("env", env), ("port", host.as_str()), ("protocol", port.protocol.as_str())];
        text.sample(RELAYED, &labels, count);
    }
}

fn state(row: &EnvRow) -> &'static str {
    match serde_json::from_str(&row.state) {
        Ok(State::Live(live)) => match live.runs {
            Runs::None => "none",
            Runs::Awake { .. } => "awake",
            Runs::Waking { .. } => "waking",
            Runs::Asleep { depth: Depth::Shallow, .. } => "asleep",
            Runs::Asleep { depth: Depth::Deep, .. } => "deep",
            Runs::Off { .. } => "off",
        },
        _ => "destroyed",
    }
}

/// For each environment, not for each app: what is counted goes with the environment, and a sum must not go down.
fn requests(text: &mut Text, loft: &Loft, rows: &[EnvRow]) {
    let name = "flyloft_requests_total";
    text.family(name, Kind::Counter, "Answers to visitors by the class of their status.");
    for row in rows {
        let (app, env) = (row.name.app.as_str(), row.name.env.as_str());
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(loft.parts.edge.answers(&row.host)) {
            if count > 0 {
                text.sample(name, &[("app", app), ("env", env), ("class", class)], count);
            }
        }
    }
}

fn events(text: &mut Text, loft: &Loft) {
    let counts = loft.parts.tally.counts();
    let results = |text: &mut Text, name: &str, of: fn(&tally::Counts) -> [(&'static str, u64); 2]| {
        for (app, counts) in &counts {
            for (result, count) in of(counts) {
                text.sample(name, &[("app", app.as_str()), ("result", result)], count);
            }
        }
    };
    text.family("flyloft_deploys_total", Kind::Counter, "Deploys that have ended, by result.");
    let deploys = |counts: &tally::Counts| [("succeeded", counts.deploys), ("failed", counts.failed_deploys)];
    results(text, "flyloft_deploys_total", deploys);
    text.family("flyloft_wakes_total", Kind::Counter, "Wakes that have ended, by result.");
    let wakes = |counts: &tally::Counts| [("succeeded", counts.woken), ("failed", counts.failed_wakes)];
    results(text, "flyloft_wakes_total", wakes);

    let help = "From the visit to its answer, or where nobody waited until it was ready, for wakes that succeeded.";
    text.family("flyloft_wake_seconds", Kind::Histogram, help);
    for (app, counts) in &counts {
        let app = app.as_str();
        for (bound, count) in BOUNDS.iter().zip(counts.wakes) {
            text.sample("flyloft_wake_seconds_bucket", &[("app", app), ("le", &bound.to_string())], count);
        }
        text.sample("flyloft_wake_seconds_bucket", &[("app", app), ("le", "+Inf")], counts.woken);
        text.sample("flyloft_wake_seconds_sum", &[("app", app)], counts.waking);
        text.sample("flyloft_wake_seconds_count", &[("app", app)], counts.woken);
    }
}

fn certificates(text: &mut Text, all: &[tls::Status]) {
    let name = "flyloft_certificate_left_days";
    text.family(name, Kind::Gauge, "Whole days until a certificate that clients are shown expires.");
    for one in all {
        if let Some((_, validity)) = &one.shown {
            text.sample(name, &[("file", &one.file.display().to_string())], validity.days_left(tls::now()));
        }
    }
}

fn disk(text: &mut Text, loft: &Loft) {
    if let Ok(Space { free, .. }) = loft.parts.builder.space(Unit::Bytes) {
        text.gauge("flyloft_disk_free_bytes", "What is free on the disk of the state directory.", free);
    }
    text.gauge("flyloft_disk_floor_bytes", "What is kept free there.", loft.parts.settings.disk.floor);
    let name = "flyloft_dropped_total";
    text.family(name, Kind::Counter, "What was removed to keep the disk within bounds, by what it was.");
    for (kind, count) in loft.parts.tally.all_dropped() {
        text.sample(name, &[("kind", kind)], count);
    }
}

fn machine(text: &mut Text, load: &Load) {
    text.gauge("process_resident_memory_bytes", "Memory that the daemon holds.", resident());
    text.gauge("flyloft_machine_memory_available_bytes", "MemAvailable of the machine.", load.available);
    text.gauge("flyloft_machine_swap_bytes", "Swap of the machine.", load.swap_total);
    text.gauge("flyloft_machine_swap_used_bytes", "Swap in use.", load.swap_total.saturating_sub(load.swap_free));
    let pools = [("zram", load.zram), ("zswap", load.zswap)];
    let name = "flyloft_machine_compressed_stored_bytes";
    text.family(name, Kind::Gauge, "Memory that was compressed, by its size before that.");
    pools.iter().for_each(|(kind, pool)| text.sample(name, &[("kind", kind)], pool.stored));
    let name = "flyloft_machine_compressed_pool_bytes";
    text.family(name, Kind::Gauge, "Memory that compressed memory takes.");
    pools.iter().for_each(|(kind, pool)| text.sample(name, &[("kind", kind)], pool.taken));
    if let Some(pressure) = load.pressure {
        let name = "flyloft_machine_memory_pressure_seconds_total";
        text.family(name, Kind::Counter, "Time in which some, or all, tasks waited for memory.");
        text.sample(name, &[("tasks", "some")], pressure.some_total);
        text.sample(name, &[("tasks", "full")], pressure.full_total);
    }
}

/// Bytes (proc_pid_statm(5)).
fn resident() -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * page
}

#[cfg(test)]
mod tests;
