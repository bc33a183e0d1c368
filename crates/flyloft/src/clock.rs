//! The clock by which environments age.
//!
//! It goes on evenly, also while the machine sleeps, whatever is done to the wall clock meanwhile: a wall clock that
//! jumps by a day must not turn every environment off, or destroy it. It is set by the wall clock once in each boot of
//! the machine, and kept beside the state, so that a daemon that starts again goes on with the same one.
//!
//! The time between a backup and its restore does not count either, or nothing of an old one would outlive the first
//! start. From then on the clock is behind the wall clock by that time, also after a reboot.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use flyloft_core::lifecycle::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Its file in the state directory: the boot, the milliseconds between 1970 and that boot, and by how many of them the
/// clock is behind that of the wall.
pub const FILE: &str = "clock";

/// In place of the boot, where the second is the time at which a backup was made.
const RESTORED: &str = "restored";

/// Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Milliseconds between 1970 and the boot.
    boot: Arc<AtomicI64>,
    /// None where it ends with the process.
    keeping: Option<Keeping>,
}

/// Where it is kept, and what stands there beside it.
#[derive(Clone, Debug)]
struct Keeping {
    file: PathBuf,
    boot_id: String,
    behind: i64,
}

impl Clock {
    /// Takes up the clock that `file` keeps, or sets it anew if it is of another boot.
    pub fn open(file: &Path, boot_id: &str) -> io::Result<Self> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let keeping = |behind| Some(Keeping { file: file.to_owned(), boot_id: boot_id.to_owned(), behind });
        let behind = match Kept::read(&text, boot_id) {
            Kept::OfThisBoot { boot, behind } => {
                return Ok(Self { boot: Arc::new(boot.into()), keeping: keeping(behind) });
            }
            Kept::Behind(behind) => behind,
            Kept::At(time) => crate::store::now().saturating_sub(time),
        };
        let clock = Self { keeping: keeping(behind), ..Self::behind(behind) };
        clock.keep()?;
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
        self.keep()
    }

    fn keep(&self) -> io::Result<()> {
        let Some(Keeping { file, boot_id, behind }) = &self.keeping else { return Ok(()) };
        write(file, &format!("{boot_id} {} {behind}\n", self.boot.load(Ordering::Relaxed)))
    }

    /// Leaves a clock for [`Clock::open`] that goes on from `time`, however long it takes until then.
    pub fn leave(file: &Path, time: Timestamp) -> io::Result<()> {
        write(file, &format!("{RESTORED} {}\n", time.0))
    }

    /// One that is set by the wall clock now.
    pub fn of_the_wall() -> Self {
        Self::behind(0)
    }

    fn behind(milliseconds: i64) -> Self {
        let boot = crate::store::now().saturating_sub(milliseconds).saturating_sub(since_boot());
        Self { boot: Arc::new(boot.into()), keeping: None }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.boot.load(Ordering::Relaxed).saturating_add(since_boot()).max(0) as u64)
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

/// What the file says.
enum Kept {
    OfThisBoot {
        boot: i64,
        behind: i64,
    },
    /// Of another boot. What cannot be read is of none.
    Behind(i64),
    /// Of another machine.
    At(i64),
}

impl Kept {
    fn read(text: &str, boot_id: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok());
        let behind = number(2).unwrap_or(0);
        match (words.first(), number(1)) {
            (Some(&id), Some(boot)) if id == boot_id => Self::OfThisBoot { boot, behind },
            (Some(&RESTORED), Some(time)) => Self::At(time),
            _ => Self::Behind(behind),
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

    #[test]
    fn after_a_reboot_it_is_set_by_the_wall() {
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
