//! The load: `wrk`, and what it says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flyloft::exec::Cmd;

pub struct Load {
    pub requests: u64,
    pub per_second: f64,
    /// Half of the requests took no longer than this, in milliseconds, where that is said.
    pub median: Option<f64>,
}

/// Asks for `path` of `host` for as long as `round`.
pub async fn load(address: SocketAddr, host: &str, path: &str, connections: u32, round: Duration) -> Result<Load> {
    load_with(address, &[format!("Host: {host}")], path, connections, round).await
}

/// The same with these headers. An answer that is not 200, or none, is an error: it would be cheap.
pub async fn load_with(
    address: SocketAddr,
    headers: &[String],
    path: &str,
    connections: u32,
    round: Duration,
) -> Result<Load> {
    let output = Cmd::new("wrk")
        .args(["--threads=1", "--latency"])
        .arg(format!("--connections={connections}"))
        .arg(format!("--duration={}s", round.as_secs()))
        .args(headers.iter().map(|header| format!("--header={header}")))
        .arg(format!("http://{address}{path}"))
        .run()
        .await
        .context("failed to run `wrk`")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "requests failed:\n{said}");
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in ")).map(|(count, _)| count);
    let per_second = said.lines().find_map(|line| line.strip_prefix("Requests/sec:")).map(str::trim);
    let median = said.lines().find_map(|line| line.trim().strip_prefix("50%")).map(str::trim);
    Ok(Load {
        requests: requests.and_then(|count| count.parse().ok()).with_context(|| format!("`wrk` said:\n{said}"))?,
        per_second: per_second.and_then(|rate| rate.parse().ok()).with_context(|| format!("`wrk` said:\n{said}"))?,
        median: median.and_then(milliseconds),
    })
}

fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let (number, factor) = units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}
