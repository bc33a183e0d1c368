//! The disk's limits: no environment fills it, for itself or for others.
//!
//! Where the file system keeps no quota for a directory, this does: it looks how much is free, and when that has
//! changed by much, how much each container's writable layer takes. One that has outgrown its limit is stopped; below
//! the floor, so is one that goes on writing. A stopped container's files stay.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use flyloft_core::policy::Limits;

use super::LxcEngine;
use super::container::{Record, Running};
use super::places::Home;
use super::step::exceeds;
use super::tree::{self, Usage};
use crate::engine::{ContainerId, Engine, EngineError};

/// How much of the disk the engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that stay free on the state directory's file system.
    pub floor: u64,
    /// Bytes of output kept of one container.
    pub logs: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { floor: 2 << 30, logs: 10 << 20 }
    }
}

/// How often the layers are measured even if hardly anything has changed.
const ROUND: Duration = Duration::from_secs(60);

/// Changes of the free space that make it worth to measure at once.
const MUCH: Usage = Usage { bytes: 64 << 20, inodes: 10_000 };

/// What a container may grow by between two measurements without being taken for one that goes on writing.
const NOISE: u64 = 4 << 20;

/// What is free on a file system.
fn free(dir: &Path) -> io::Result<Usage> {
    let stat = nix::sys::statvfs::statvfs(dir)?;
    let bytes = stat.blocks_available() * stat.fragment_size();
    // Some file systems make inodes as they go, and say that they have none.
    let inodes = if stat.files() == 0 { u64::MAX } else { stat.files_available() };
    Ok(Usage { bytes, inodes })
}

/// Why a container is stopped. Reads as a sentence about it.
fn verdict(before: Option<Usage>, now: Usage, limits: &Limits, below_floor: bool) -> Option<String> {
    if exceeds(now, limits) {
        return Some(format!(
            "it was stopped: it has written more than the {} bytes or {} files that are allowed",
            limits.disk, limits.inodes
        ));
    }
    let grew = now.bytes.saturating_sub(before.map_or(now.bytes, |before| before.bytes));
    (below_floor && grew > NOISE)
        .then(|| format!("it was stopped: the machine's disk is nearly full, and it wrote {grew} bytes within seconds"))
}

/// What the containers that run took when they were last measured.
type Measured = BTreeMap<ContainerId, Usage>;

/// What the watch remembers from one look to the next.
pub struct Watch {
    at: Instant,
    free: Usage,
    measured: Measured,
}

impl Watch {
    pub fn begin(engine: &LxcEngine) -> Self {
        let free = free(&engine.places.engine).unwrap_or_default();
        Self { at: Instant::now(), free, measured: BTreeMap::new() }
    }

    /// Looks at the disk; acts when it has changed by much, is nearly full, or has not been looked at for long.
    pub async fn look(&mut self, engine: &LxcEngine) -> Result<(), EngineError> {
        let now = free(&engine.places.engine).map_err(EngineError::io("ask for the free space"))?;
        let below_floor = now.bytes < engine.bounds.floor;
        let much =
            self.free.bytes.abs_diff(now.bytes) >= MUCH.bytes || self.free.inodes.abs_diff(now.inodes) >= MUCH.inodes;
        if much || below_floor || self.at.elapsed() >= ROUND {
            (self.at, self.free) = (Instant::now(), now);
            self.measured = engine.inspect(&self.measured, below_floor).await?;
        }
        Ok(())
    }
}

impl LxcEngine {
    /// Refuses to begin what needs space when there is none.
    pub(super) fn check_space(&self) -> Result<(), EngineError> {
        let free = free(&self.places.engine).map_err(EngineError::io("ask for the free space"))?;
        if free.bytes >= self.bounds.floor && free.inodes >= MUCH.inodes {
            return Ok(());
        }
        Err(EngineError::Missing {
            what: format!("the disk is full: {} bytes are free, and {} are kept free", free.bytes, self.bounds.floor),
            hint: "free some space, or set a lower `floor` in `[disk]` of the configuration".to_owned(),
        })
    }

    /// Measures every container that runs, and stops those that must not go on.
    async fn inspect(&self, known: &Measured, below_floor: bool) -> Result<Measured, EngineError> {
        let mut measured = BTreeMap::new();
        for container in self.observe().await? {
            // Removed meanwhile, it needs no watching.
            let Ok((home, record)) = self.known(&container.id) else { continue };
            if Running::find(&home).is_none() {
                continue;
            }
            let upper = home.upper();
            let now = super::blocking(format!("measure container `{}`", container.id), move || tree::measure(&upper));
            let now = now.await?;
            if let Some(why) = verdict(known.get(&container.id).copied(), now, &record.spec.limits, below_floor) {
                self.stop_for(&home, &record, &why).await?;
            }
            measured.insert(container.id, now);
        }
        Ok(measured)
    }

    async fn stop_for(&self, home: &Home, record: &Record, why: &str) -> Result<(), EngineError> {
        tracing::warn!(container = home.name, why, "stopped a container");
        self.stop(&record.spec.id, Duration::ZERO).await?;
        // Nobody else writes to the log now.
        let line = format!("flyloft | {why}\n");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(home.console());
        log.and_then(|mut log| log.write_all(line.as_bytes())).map_err(EngineError::io("write to a container's log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory: 0, swap: 0, pids: 0, cpu_weight: 100, disk: 100 << 20, inodes: 1000 };

    fn usage(megabytes: u64, inodes: u64) -> Usage {
        Usage { bytes: megabytes << 20, inodes }
    }

    #[test]
    fn a_container_is_stopped_when_it_has_outgrown_its_bytes_or_its_files() {
        assert!(verdict(None, usage(101, 1), &LIMITS, false).is_some());
        assert!(verdict(None, usage(1, 1001), &LIMITS, false).is_some());
        assert_eq!(verdict(None, usage(100, 1000), &LIMITS, false), None);
    }

    #[test]
    fn below_the_floor_only_who_goes_on_writing_is_stopped() {
        assert!(verdict(Some(usage(10, 1)), usage(20, 1), &LIMITS, true).is_some());
        assert_eq!(verdict(Some(usage(10, 1)), usage(10, 1), &LIMITS, true), None);
        assert_eq!(verdict(Some(usage(10, 1)), usage(20, 1), &LIMITS, false), None);
        assert_eq!(verdict(None, usage(20, 1), &LIMITS, true), None, "it has just been started");
    }
}
