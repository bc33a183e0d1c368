//! What the daemon takes.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::fleet::Fleet;
use crate::harness::Flyloft;
use crate::machine;

/// Per cent of one processor that it takes in this time, with the processes that it starts.
pub fn idle_share(pid: u32, time: Duration) -> Result<f64> {
    println!("doing nothing for {} s", time.as_secs());
    let (before, begun) = (processor_time(pid)?, Instant::now());
    machine::pause(time)?;
    let took = processor_time(pid)? - before;
    Ok(100.0 * took.as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// proc_pid_stat(5), with what its children took that have ended.
fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon has ended")?;
    // The name in parentheses may have spaces, so count from behind it; there field 3 comes first.
    let (_, fields) = stat.rsplit_once(") ").context("`stat` has a name")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = (14..=17).filter_map(|field| fields.get(field - 3)?.parse::<u64>().ok()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Bytes.
pub fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the daemon has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    let kib: f64 = line.split_whitespace().next().context("`VmRSS` is a number")?.parse()?;
    Ok(kib * 1024.0)
}

/// Milliseconds that the command line takes to list all environments, at the median.
pub fn list(fleet: &Fleet) -> Result<f64> {
    let mut times = (0..11).map(|_| fleet.ls()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64() * 1e3)
}

/// From the start of the process until it is ready.
pub fn restart(flyloft: &mut Flyloft, gracefully: bool) -> Duration {
    match gracefully {
        true => flyloft.stop(),
        false => flyloft.kill(),
    }
    let begun = Instant::now();
    flyloft.serve();
    begun.elapsed()
}
