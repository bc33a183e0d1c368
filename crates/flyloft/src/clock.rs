//! The clock by which environments age.
//!
//! It goes on evenly, also while the machine sleeps, whatever is done to the wall clock meanwhile: a wall clock that
//! jumps by a day must not turn every environment off, or destroy it. It is set by the wall clock once in each boot of
//! the machine, and kept beside the state, so that a daemon that starts again goes on with the same one.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use flyloft_core::lifecycle::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Milliseconds between 1970 and the boot.
    boot: Arc<AtomicI64>,
}

impl Clock {
    /// Takes up the clock that `file` keeps, or sets it anew if it is of another boot.
    pub fn open(file: &Path, boot_id: &str) -> io::Result<Self> {
        let kept = match fs::read_to_string(file) {
            Ok(text) => kept(&text, boot_id),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(boot) = kept {
            return Ok(Self { boot: Arc::new(boot.into()) });
        }
        let clock = Self::of_the_wall();
        fs::write(file, format!("{boot_id} {}\n", clock.boot.load(Ordering::Relaxed)))?;
        Ok(clock)
    }

    /// One that is set by the wall clock now.
    pub fn of_the_wall() -> Self {
        let wall = crate::store::now();
        Self { boot: Arc::new((wall - since_boot()).into()) }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp((self.boot.load(Ordering::Relaxed) + since_boot()).max(0) as u64)
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

/// What the file says, if it says it of this boot.
fn kept(text: &str, boot_id: &str) -> Option<i64> {
    text.trim().strip_prefix(boot_id)?.trim().parse().ok()
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
}
