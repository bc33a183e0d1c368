//! The clock by which environments age.
//!
//! It goes on evenly, also while the machine sleeps, whatever is done to the wall clock meanwhile: a wall clock that
//! jumps by a day must not turn every environment off, or destroy it. It is kept beside the state, so that a daemon that
//! starts again goes on with the same one.
//!
//! Between two boots of the machine there is the wall clock alone, which may be wrong until others have put it right. So
//! it is noted once an hour what both say, and of the time since the last note a day counts at most
//! ([`Timestamp::resumed`]). That goes as well for time in which the machine ran and no daemon did.
//!
//! The time between a backup and its restore does not count either, or nothing of an old one would outlive the first
//! start.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flyloft_core::lifecycle::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Its file in the state directory: the boot and the milliseconds between 1970 and that boot; then what this clock said
/// when it was last noted, and what that of the wall did.
pub const FILE: &str = "clock";

/// In place of the boot, where the second is the time at which a backup was made.
const RESTORED: &str = "restored";

/// How often it is noted. A daemon that is killed forgets so much, which matters only if the machine starts anew then.
const NOTED_EVERY: Duration = Duration::from_secs(3600);

/// Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Milliseconds between 1970 and the boot.
    boot: Arc<AtomicI64>,
    /// None where it ends with the process.
    keeping: Option<Arc<Keeping>>,
}

/// Where it is kept, and when it was noted there. Whoever notes it holds that.
#[derive(Debug)]
struct Keeping {
    file: PathBuf,
    boot_id: String,
    noted: Mutex<Timestamp>,
}

impl Clock {
    /// Takes up the clock that `file` keeps, in whichever boot that was.
    pub fn open(file: &Path, boot_id: &str) -> io::Result<Self> {
        Self::open_at(file, boot_id, crate::store::now())
    }

    fn open_at(file: &Path, boot_id: &str, wall: i64) -> io::Result<Self> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let kept = Kept::read(&text, boot_id);
        let since_boot = since_boot();
        let now = match kept {
            Kept::OfThisBoot { boot, seen: None } => timestamp(boot.saturating_add(since_boot)),
            Kept::OfThisBoot { boot, seen: Some(seen) } => {
                seen.resumed(boot.saturating_add(since_boot).saturating_sub_unsigned(seen.0))
            }
            Kept::Seen { at, wall: then } => at.resumed(wall.saturating_sub(then)),
            Kept::Behind(behind) => timestamp(wall.saturating_sub(behind)),
            Kept::At(time) => time,
        };
        let noted = match kept {
            Kept::OfThisBoot { seen: Some(seen), .. } => seen,
            _ => now,
        };
        let keeping = Keeping { file: file.to_owned(), boot_id: boot_id.to_owned(), noted: noted.into() };
        let boot = i64::try_from(now.0).unwrap_or(i64::MAX).saturating_sub(since_boot);
        let clock = Self { boot: Arc::new(boot.into()), keeping: Some(Arc::new(keeping)) };
        // A daemon that is started again has visitors who wait, and a disk takes its time.
        if !matches!(kept, Kept::OfThisBoot { boot: before, seen: Some(_) } if before == boot) {
            clock.keep(wall)?;
        }
        Ok(clock)
    }

    /// Goes on from `time` where that lies ahead. The wall clock was wrong when this one was set by it, now or then, as that
    /// of a machine without a battery is until it has asked others; and what has happened in the future never grows old.
    pub fn catch_up(&self, time: Timestamp) -> io::Result<()> {
        let late = i64::try_from(time.since(self.now()).as_millis()).unwrap_or(0);
        if late == 0 {
            return Ok(());
        }
        self.boot.fetch_add(late, Ordering::Relaxed);
        self.note()
    }

    /// Has on record what it says now.
    pub fn note(&self) -> io::Result<()> {
        self.keep(crate::store::now())
    }

    /// The same, if that was not done for a while.
    pub fn note_hourly(&self) -> io::Result<()> {
        let Some(keeping) = &self.keeping else { return Ok(()) };
        let noted = *keeping.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if self.now().since(noted) < NOTED_EVERY { Ok(()) } else { self.note() }
    }

    fn keep(&self, wall: i64) -> io::Result<()> {
        let Some(keeping) = &self.keeping else { return Ok(()) };
        let mut noted = keeping.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (boot, now) = (self.boot.load(Ordering::Relaxed), self.now());
        write(&keeping.file, &format!("{} {boot} {} {wall}\n", keeping.boot_id, now.0))?;
        *noted = now;
        Ok(())
    }

    /// Leaves a clock for [`Clock::open`] that goes on from `time`, however long it takes until then.
    pub fn leave(file: &Path, time: Timestamp) -> io::Result<()> {
        write(file, &format!("{RESTORED} {}\n", time.0))
    }

    /// One that is set by the wall clock now, and ends with the process.
    pub fn of_the_wall() -> Self {
        let boot = crate::store::now().saturating_sub(since_boot());
        Self { boot: Arc::new(boot.into()), keeping: None }
    }

    pub fn now(&self) -> Timestamp {
        timestamp(self.boot.load(Ordering::Relaxed).saturating_add(since_boot()))
    }

    /// How long it is until then; nothing if that has passed.
    pub fn until(&self, then: Timestamp) -> Duration {
        then.since(self.now())
    }

    /// As if this time had passed.
    #[cfg(test)]
    pub fn advance(&self, by: Duration) {
        self.boot.fetch_add(by.as_millis() as i64, Ordering::Relaxed);
    }
}

fn since_boot() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every kernel that runs containers has this clock");
    time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000
}

fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp(u64::try_from(milliseconds).unwrap_or(0))
}

/// What the file says.
#[derive(Clone, Copy)]
enum Kept {
    OfThisBoot {
        boot: i64,
        /// When it was noted; versions of Flyloft before this was did not say.
        seen: Option<Timestamp>,
    },
    /// Of another boot, noted when the wall clock said this.
    Seen { at: Timestamp, wall: i64 },
    /// The same, of such a version: so many milliseconds behind the wall clock. What cannot be read is not behind.
    Behind(i64),
    /// Of another machine.
    At(Timestamp),
}

impl Kept {
    fn read(text: &str, boot_id: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok());
        let seen = number(2).zip(number(3)).map(|(at, wall)| (timestamp(at), wall));
        match (words.first(), number(1)) {
            (Some(&id), Some(boot)) if id == boot_id => Self::OfThisBoot { boot, seen: seen.map(|(at, _)| at) },
            (Some(&RESTORED), Some(time)) => Self::At(timestamp(time)),
            _ => match seen {
                Some((at, wall)) => Self::Seen { at, wall },
                None => Self::Behind(number(2).unwrap_or(0)),
            },
        }
    }
}

/// Whole or not at all, also if the power fails.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let aside = file.with_extension("new");
    let mut written = File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    fs::rename(aside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_daemon_of_the_same_boot_goes_on_with_the_clock_whatever_the_wall_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clock");
        let first = Clock::open(&file, "boot-1").unwrap();
        // As the file would be if the wall clock had been a day behind when it was written.
        let day = 24 * 3600 * 1000;
        fs::write(&file, format!("boot-1 {}\n", first.boot.load(Ordering::Relaxed) - day)).unwrap();
        let second = Clock::open(&file, "boot-1").unwrap();
        let behind = first.now().0 - second.now().0;
        assert!((day - 10_000..=day + 10_000).contains(&(behind as i64)), "{behind} ms behind");
    }

    #[test]
    fn what_lies_ahead_of_it_is_caught_up_with_once_and_for_this_boot() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let first = Clock::open(&file, "boot-1").unwrap();
        let used = Timestamp(first.now().0 + 1_000_000);
        let same = first.clone();
        first.catch_up(used).unwrap();
        let next = Clock::open(&file, "boot-1").unwrap();
        for clock in [&first, &same, &next] {
            assert!((used.0..used.0 + 10_000).contains(&clock.now().0), "{:?} and {used:?}", clock.now());
        }
        first.catch_up(Timestamp(used.0 - 1)).unwrap();
        assert!(first.now() >= used);
    }

    const HOUR: i64 = 3600 * 1000;
    const DAY: i64 = 24 * HOUR;

    /// How far a clock is from this time.
    fn off(clock: &Clock, time: i64) -> u64 {
        clock.now().0.abs_diff(time as u64)
    }

    #[test]
    fn a_boot_with_a_wall_that_is_far_ahead_ages_nothing_by_more_than_a_day_and_the_next_one_by_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let wall = crate::store::now();
        let open = |boot_id: &str, wall| Clock::open_at(&file, boot_id, wall).unwrap();
        assert!(off(&open("boot-1", wall), wall) < 10_000);
        // In order: after a night, far ahead, put right again, years behind, and right.
        let boots = [(8 * HOUR, 8 * HOUR), (15 * DAY, 8 * HOUR + DAY), (DAY, 8 * HOUR + DAY)];
        let boots = boots.into_iter().chain([(-wall, 8 * HOUR + DAY), (2 * DAY, 8 * HOUR + 2 * DAY)]);
        for (boot, (ahead, expected)) in boots.enumerate() {
            let clock = open(&format!("boot-{}", boot + 2), wall + ahead);
            assert!(
                off(&clock, wall + expected) < 10_000,
                "{ahead} ms ahead: {:?}, not {}",
                clock.now(),
                wall + expected
            );
        }
    }

    #[test]
    fn of_the_time_in_which_no_daemon_ran_a_day_counts_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let first = Clock::open(&file, "boot-1").unwrap();
        let now = first.now().0 as i64;
        for (days, counted) in [(0, 0), (1, DAY), (21, DAY)] {
            let (boot, wall) = (first.boot.load(Ordering::Relaxed), crate::store::now());
            let seen = now - days * DAY;
            fs::write(&file, format!("boot-1 {boot} {seen} {}\n", wall - days * DAY)).unwrap();
            for _ in 0..2 {
                let clock = Clock::open(&file, "boot-1").unwrap();
                assert!(off(&clock, seen + counted) < 10_000, "{days} days: {:?}", clock.now());
            }
        }
    }

    #[test]
    fn it_is_noted_once_an_hour() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let clock = Clock::open(&file, "boot-1").unwrap();
        let text = || fs::read_to_string(&file).unwrap();
        let first = text();
        clock.advance(NOTED_EVERY - Duration::from_secs(60));
        clock.note_hourly().unwrap();
        assert_eq!(text(), first);
        clock.advance(Duration::from_secs(60));
        clock.note_hourly().unwrap();
        let noted: u64 = text().split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(clock.now().since(Timestamp(noted)) < Duration::from_secs(10), "{}", text());
    }

    #[test]
    fn what_a_version_before_has_kept_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let wall = crate::store::now();
        for boot_id in ["boot-1", "boot-2"] {
            let boot = wall - 30 * DAY - since_boot();
            fs::write(&file, format!("boot-1 {boot} {}\n", 30 * DAY)).unwrap();
            assert!(off(&Clock::open(&file, boot_id).unwrap(), wall - 30 * DAY) < 10_000, "{boot_id}");
        }
    }

    #[test]
    fn without_a_file_that_can_be_read_it_is_set_by_the_wall() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clock");
        for damaged in ["boot-1 0\n", "boot-2\n", "boot-2 soon\n", ""] {
            fs::write(&file, damaged).unwrap();
            let now = Clock::open(&file, "boot-2").unwrap().now();
            let wall = crate::store::now() as u64;
            assert!(wall.abs_diff(now.0) < 10_000, "{damaged:?}: {now:?} and {wall}");
            assert!(fs::read_to_string(&file).unwrap().starts_with("boot-2 "), "it is kept from then on");
        }
    }

    #[test]
    fn after_a_restore_it_goes_on_from_the_backup_and_so_it_does_after_reboots() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let month = 30 * 24 * 3600 * 1000;
        let made = crate::store::now() as u64 - month;
        Clock::leave(&file, Timestamp(made)).unwrap();
        for boot_id in ["boot-1", "boot-1", "boot-2", "boot-3"] {
            let now = Clock::open(&file, boot_id).unwrap().now().0;
            assert!((made..made + 10_000).contains(&now), "{boot_id}: {now} and {made}");
        }
    }
}
