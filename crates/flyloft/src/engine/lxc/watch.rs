//! The disk's limits: no environment fills it, for itself or for others.
//!
//! Where the file system keeps no quota for a directory, this does: it looks how much is free, and when that has
//! changed by much, how much each container's writable layer and volumes take, and what its processes hold of files that
//! they have deleted. One that has outgrown its limit is stopped; below the floor, so is one that goes on writing. A stopped
//! container's files stay, with a note of what it was stopped for.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use flyloft_core::disk::{Shortage, Space, Unit};
use flyloft_core::policy::{Excess, Limits, Size};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::LxcEngine;
use super::container::{self, Record, Running};
use super::held;
use super::journal;
use super::places::Home;
use super::tree::{self, Usage};
use super::volumes::Filled;
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
const NOISE: Usage = Usage { bytes: 4 << 20, inodes: 500 };

/// What is free on a file system.
pub fn free(dir: &Path) -> io::Result<Usage> {
    let stat = nix::sys::statvfs::statvfs(dir)?;
    let bytes = stat.blocks_available() * stat.fragment_size();
    // Some file systems make inodes as they go, and say that they have none.
    let inodes = if stat.files() == 0 { u64::MAX } else { stat.files_available() };
    Ok(Usage { bytes, inodes })
}

/// What there is of a file system.
pub fn space(dir: &Path, unit: Unit) -> io::Result<Space> {
    let stat = nix::sys::statvfs::statvfs(dir)?;
    let Usage { bytes, inodes } = free(dir)?;
    Ok(match unit {
        Unit::Bytes => {
            let taken = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
            Space { unit, free: bytes, taken }
        }
        Unit::Inodes => Space { unit, free: inodes, taken: stat.files().saturating_sub(stat.files_free()) },
    })
}

/// What there is less of than the floor.
pub fn below_floor(dir: &Path, floor: u64) -> io::Result<Vec<Unit>> {
    let mut below = Vec::new();
    for unit in Unit::ALL {
        let space = space(dir, unit)?;
        if space.free < space.floor(floor) {
            below.push(unit);
        }
    }
    Ok(below)
}

/// What a container takes of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub named: Usage,
    pub volumes: Filled,
    /// Of files without a name; `None` if nobody has looked.
    pub held: Option<Usage>,
    /// Since when the container was frozen, if it was: for as long as that is so, this is true.
    pub frozen: Option<Instant>,
}

impl Taken {
    pub fn all(self) -> Usage {
        self.named.plus(self.held.unwrap_or_default())
    }

    /// By how many of the unit it has grown, as far as both times it was looked at.
    pub fn growth(self, before: Self, unit: Unit) -> i128 {
        let (now, then) = match (self.held, before.held) {
            (Some(_), Some(_)) => (self.all(), before.all()),
            _ => (self.named, before.named),
        };
        let (now, then) = (now.plus(self.volumes.usage), then.plus(before.volumes.usage));
        let [now, then] = [now, then].map(|usage| i128::from(unit.of(usage.bytes, usage.inodes)));
        now - then
    }

    /// Whoever held something is looked at until it holds nothing.
    pub fn holds(self) -> bool {
        self.held.is_some_and(|held| held.inodes > 0)
    }
}

/// What the disk has lost without that what was measured had grown by as much. Somebody writes then to a file without a
/// name, unless it is none of ours.
pub struct Ledger {
    free: u64,
    missing: i128,
}

impl Ledger {
    pub fn begin(free: u64) -> Self {
        Self { free, missing: 0 }
    }

    /// Whether so much is missing by now that it is time to look for it; the account begins anew then.
    pub fn settle(&mut self, free: u64, grown: i128) -> bool {
        let lost = i128::from(self.free) - i128::from(free);
        self.free = free;
        self.missing = (self.missing + lost - grown).max(0);
        let due = self.missing >= i128::from(MUCH.bytes);
        if due {
            self.missing = 0;
        }
        due
    }
}

/// What a container is stopped for, where there is too little `below` the floor.
pub fn verdict(before: Option<Taken>, now: Taken, limits: &Limits, below: &[Unit]) -> Option<Excess> {
    if now.all().bytes > limits.disk {
        return Some(Excess::Disk);
    }
    if now.volumes.too_full {
        return Some(Excess::Volume);
    }
    if now.all().inodes.saturating_add(now.volumes.counted) > limits.inodes {
        return Some(Excess::Inodes);
    }
    let goes_on = |before: Taken, unit: Unit| now.growth(before, unit) > i128::from(unit.of(NOISE.bytes, NOISE.inodes));
    let before = before?;
    below.iter().any(|unit| goes_on(before, *unit)).then_some(Excess::Floor)
}

/// The last line of its log.
fn last_words(at: OffsetDateTime, excess: Excess, limits: &Limits) -> String {
    let millisecond = u32::from(at.millisecond()) * 1_000_000;
    let at = at.replace_nanosecond(millisecond).unwrap_or(at).format(&Rfc3339).unwrap_or_default();
    let bound = match excess {
        Excess::Disk => format!(" of {}; what it has deleted and still has open counts too", Size(limits.disk)),
        Excess::Inodes => format!(": {}; those in its volumes count too", limits.inodes),
        Excess::Volume | Excess::Floor => String::new(),
    };
    format!("{at} flyloft | it was stopped: {excess}{bound}\n")
}

/// What the containers that run took when they were last measured.
pub(super) type Measured = BTreeMap<ContainerId, Taken>;

/// What the watch remembers from one look to the next.
pub struct Watch {
    at: Instant,
    free: Usage,
    measured: Measured,
    ledger: Ledger,
}

impl Watch {
    pub fn begin(engine: &LxcEngine) -> Self {
        let free = free(&engine.places.engine).unwrap_or_default();
        Self { at: Instant::now(), free, measured: BTreeMap::new(), ledger: Ledger::begin(free.bytes) }
    }

    /// Looks at the disk; acts when it has changed by much, is nearly full, or has not been looked at for long.
    pub async fn look(&mut self, engine: &LxcEngine) -> Result<(), EngineError> {
        let now = free(&engine.places.engine).map_err(EngineError::io("ask for the free space"))?;
        let below = below_floor(&engine.places.engine, engine.bounds.floor);
        let below = below.map_err(EngineError::io("ask for the free space"))?;
        let is_below = !below.is_empty();
        let much =
            self.free.bytes.abs_diff(now.bytes) >= MUCH.bytes || self.free.inodes.abs_diff(now.inodes) >= MUCH.inodes;
        if !much && !is_below && self.at.elapsed() < ROUND {
            return Ok(());
        }
        (self.at, self.free) = (Instant::now(), now);
        let mut measured = engine.measure_all(&self.measured, is_below).await?;
        let grown = |(id, taken): (&ContainerId, &Taken)| Some(taken.growth(*self.measured.get(id)?, Unit::Bytes));
        let grown = measured.iter().filter_map(grown).sum();
        if self.ledger.settle(now.bytes, grown) && !is_below {
            measured = engine.measure_all(&self.measured, true).await?;
        }
        let before = std::mem::replace(&mut self.measured, measured);
        for (id, taken) in &self.measured {
            // It has been judged by that.
            if taken.frozen.is_some() && before.get(id) == Some(taken) {
                continue;
            }
            // Removed meanwhile, it needs no stopping.
            let Ok((home, record)) = engine.known(id) else { continue };
            if let Some(excess) = verdict(before.get(id).copied(), *taken, &record.spec.limits, &below)
                && let Err(error) = engine.stop_for(&home, &record, excess).await
            {
                // The others are stopped all the same.
                tracing::error!(container = %id, %error, "failed to stop a container that fills the disk");
            }
        }
        Ok(())
    }
}

impl LxcEngine {
    /// Refuses to begin what needs space when there is none.
    pub(super) fn check_space(&self) -> Result<(), EngineError> {
        for unit in Unit::ALL {
            let space = self.space(unit)?;
            let floor = space.floor(self.bounds.floor);
            if space.free < floor {
                return Err(EngineError::Missing {
                    what: format!("the disk is full: {}", Shortage { space, floor, ours: None }),
                    hint: format!("destroy environments that nobody needs, or make room beside them; {}", unit.hint()),
                });
            }
        }
        Ok(())
    }

    /// Measures every container that runs, but not one that is frozen as it was when it became known: nobody writes there,
    /// and there may be a thousand. What the others hold of deleted files is looked for where something is known to be
    /// held, or everywhere.
    pub(super) async fn measure_all(&self, known: &Measured, everywhere: bool) -> Result<Measured, EngineError> {
        let mut measured = BTreeMap::new();
        for id in self.containers().await? {
            let (before, frozen) = (known.get(&id).copied(), self.frozen().get(&id).copied());
            if let Some(taken) = before.filter(|taken| frozen.is_some() && taken.frozen == frozen) {
                measured.insert(id, taken);
                continue;
            }
            let home = self.home(&id);
            let look = everywhere || before.is_some_and(Taken::holds);
            let (layout, volumes) = (self.layout, self.volumes.clone());
            let taken = super::blocking(format!("measure container `{id}`"), move || {
                let Some(running) = Running::find(&home) else { return Ok(None) };
                // Whatever it is, it must not hide what the container takes.
                if let Err(error) = journal::bound(&home) {
                    tracing::warn!(container = home.name, %error, "cannot bound LXC's log of a container");
                }
                let named = tree::measure(&home.upper())?;
                let has = Record::read(&home)?.map(|record| record.spec.volumes).unwrap_or_default();
                let volumes = volumes.filled(&has)?;
                // One that ends just now holds nothing any more.
                let held = look.then(|| running.groups(layout).and_then(|groups| held::measure(&home, &groups)).ok());
                Ok(Some(Taken { named, volumes, held: held.flatten(), frozen }))
            });
            match taken.await {
                Ok(taken) => measured.extend(taken.map(|taken| (id, taken))),
                // Removed meanwhile, as a rule; the others are measured all the same.
                Err(error) => tracing::warn!(%error, "failed to measure what a container takes of the disk"),
            }
        }
        self.sizes.note(measured.iter().map(|(id, taken)| (id, taken.named)), Instant::now());
        Ok(measured)
    }

    pub(super) async fn stop_for(&self, home: &Home, record: &Record, excess: Excess) -> Result<(), EngineError> {
        tracing::warn!(container = home.name, %excess, "stopped a container");
        // First, so that nobody who finds it stopped starts it again; on a full disk only its end may make room for the
        // note.
        self.excess.remember(&record.spec.id, excess);
        let noted = container::note_excess(home, excess);
        self.stop(&record.spec.id, Duration::ZERO).await?;
        let noted = noted.or_else(|_| container::note_excess(home, excess));
        // Nobody else writes to the log now.
        let line = last_words(OffsetDateTime::now_utc(), excess, &record.spec.limits);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(home.console());
        let written = log.and_then(|mut log| log.write_all(line.as_bytes()));
        self.excess.tell();
        noted.and(written).map_err(EngineError::io("write down what a container was stopped for"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[Unit] = &[Unit::Bytes];
    const LIMITS: Limits = Limits { memory: 0, swap: 0, pids: 0, cpu_weight: 100, disk: 100 << 20, inodes: 1000 };

    fn usage(megabytes: u64, inodes: u64) -> Usage {
        Usage { bytes: megabytes << 20, inodes }
    }

    fn named(megabytes: u64, inodes: u64) -> Taken {
        Taken { named: usage(megabytes, inodes), ..Taken::default() }
    }

    #[test]
    fn a_container_is_stopped_when_it_has_outgrown_its_bytes_or_its_files() {
        assert_eq!(verdict(None, named(101, 1), &LIMITS, &[]), Some(Excess::Disk));
        assert_eq!(verdict(None, named(1, 1001), &LIMITS, &[]), Some(Excess::Inodes));
        assert_eq!(verdict(None, named(100, 1000), &LIMITS, &[]), None);
        let holding = Taken { held: Some(usage(60, 1)), ..named(50, 1) };
        assert_eq!(verdict(None, holding, &LIMITS, &[]), Some(Excess::Disk), "deleted files count");
        let beside = |counted| Taken { volumes: Filled { counted, ..Filled::default() }, ..named(1, 600) };
        assert_eq!(verdict(None, beside(401), &LIMITS, &[]), Some(Excess::Inodes), "so do those in volumes");
        assert_eq!(verdict(None, beside(400), &LIMITS, &[]), None);
    }

    #[test]
    fn below_the_floor_only_who_goes_on_writing_is_stopped() {
        assert_eq!(verdict(Some(named(10, 1)), named(20, 1), &LIMITS, BYTES), Some(Excess::Floor));
        assert_eq!(verdict(Some(named(10, 1)), named(10, 1), &LIMITS, BYTES), None);
        assert_eq!(verdict(Some(named(10, 1)), named(20, 1), &LIMITS, &[]), None);
        assert_eq!(verdict(None, named(20, 1), &LIMITS, BYTES), None, "it has just been started");
        let holding = |megabytes| Taken { held: Some(usage(megabytes, 1)), ..named(10, 1) };
        assert_eq!(verdict(Some(holding(10)), holding(20), &LIMITS, BYTES), Some(Excess::Floor));
        assert_eq!(verdict(Some(named(10, 1)), holding(20), &LIMITS, BYTES), None, "nobody had looked before");
    }

    #[test]
    fn who_goes_on_making_files_is_stopped_where_there_are_too_few_inodes() {
        let limits = Limits { inodes: 100_000, ..LIMITS };
        let many = |below| verdict(Some(named(10, 1000)), named(11, 2000), &limits, below);
        assert_eq!(many(&[Unit::Inodes]), Some(Excess::Floor));
        assert_eq!(many(&Unit::ALL), Some(Excess::Floor));
        assert_eq!([many(BYTES), many(&[])], [None, None]);
        let few = verdict(Some(named(10, 1000)), named(90, 1400), &limits, &[Unit::Inodes]);
        assert_eq!(few, None, "there is room for what it writes");
        let holding = |inodes| Taken { held: Some(usage(0, inodes)), ..named(10, 1) };
        assert_eq!(verdict(Some(holding(1)), holding(900), &limits, &[Unit::Inodes]), Some(Excess::Floor));
    }

    #[test]
    fn deleted_files_are_looked_for_when_the_disk_has_lost_what_nobody_is_known_to_have_written() {
        let mut ledger = Ledger::begin(1000 << 20);
        assert!(!ledger.settle(900 << 20, 100 << 20), "somebody's files have grown by as much");
        assert!(!ledger.settle(860 << 20, 0));
        assert!(ledger.settle(820 << 20, 0), "little by little it is much");
        assert!(!ledger.settle(820 << 20, 0), "that was looked for");
    }

    #[test]
    fn the_last_words_of_a_container_that_was_stopped_say_when_and_why() {
        let at = time::macros::datetime!(2026-11-24 06:00:00.5 UTC);
        insta::assert_snapshot!(last_words(at, Excess::Disk, &LIMITS), @"2026-11-24T06:00:00.5Z flyloft | it was stopped: it has outgrown its disk limit of 100MiB; what it has deleted and still has open counts too");
    }
}
