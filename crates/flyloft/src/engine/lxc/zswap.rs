//! zswap: pages on their way to a disk are kept in memory, compressed (the kernel's zswap.rst).
//!
//! For deep sleep they must go on to the disk. No control group can be told so on version 1, so zswap is passed by for
//! the moment that it takes: what is stored meanwhile goes to the disk, whosever it is, and what is in zswap stays there.
//! A file that all daemons of the machine lock says that it is to be switched on again, should one die in that moment.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::offload::Wanted;
use super::places::RUN;

/// zswap as it is, for as long as this lives.
pub struct Steady(#[allow(dead_code, reason = "it is held")] Flock<File>);

/// zswap passed by, for as long as this lives.
pub struct Bypass {
    lock: Flock<File>,
    switch: PathBuf,
}

fn switch() -> PathBuf {
    "/sys/module/zswap/parameters/enabled".into()
}

impl Steady {
    /// Waits for whoever passes it by, and mends what one left that died.
    pub fn hold(wanted: &Wanted) -> io::Result<Self> {
        let lock = lock(FlockArg::LockSharedNonblock, wanted)?;
        if lock.metadata()?.len() > 0 {
            drop(lock);
            drop(Bypass::begin(wanted)?);
            return Self::hold(wanted);
        }
        Ok(Self(lock))
    }
}

impl Bypass {
    /// `None` where there is no zswap, or it is off.
    pub fn begin(wanted: &Wanted) -> io::Result<Option<Self>> {
        Self::begin_at(lock(FlockArg::LockExclusiveNonblock, wanted)?, switch())
    }

    fn begin_at(lock: Flock<File>, switch: PathBuf) -> io::Result<Option<Self>> {
        let left_behind = lock.metadata()?.len() > 0;
        if !left_behind && !is_on(&switch) {
            return Ok(None);
        }
        let bypass = Self { lock, switch };
        bypass.lock.set_len(1)?;
        fs::write(&bypass.switch, "N")?;
        Ok(Some(bypass))
    }
}

impl Drop for Bypass {
    fn drop(&mut self) {
        match fs::write(&self.switch, "Y").and_then(|()| self.lock.set_len(0)) {
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "zswap could not be switched on again"),
        }
    }
}

fn is_on(switch: &Path) -> bool {
    fs::read_to_string(switch).is_ok_and(|text| text.trim() == "Y")
}

/// Waits its turn, for as long as it is wanted.
fn lock(kind: FlockArg, wanted: &Wanted) -> io::Result<Flock<File>> {
    loop {
        match lock_at(&Path::new(RUN).join(".zswap"), kind) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wanted.check()?,
            locked => return locked,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lock_at(path: &Path, kind: FlockArg) -> io::Result<Flock<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    Flock::lock(file, kind).map_err(|(_, error)| error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn with(enabled: &str) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            fs::write(machine.switch(), enabled).unwrap();
            machine
        }

        fn switch(&self) -> PathBuf {
            self.0.path().join("enabled")
        }

        fn pass_by(&self) -> Option<Bypass> {
            let lock = lock_at(&self.0.path().join("lock"), FlockArg::LockExclusive).unwrap();
            Bypass::begin_at(lock, self.switch()).unwrap()
        }
    }

    #[test]
    fn it_is_off_while_it_is_passed_by_and_on_again_afterwards() {
        let machine = Machine::with("Y\n");
        let bypass = machine.pass_by().unwrap();
        assert!(!is_on(&machine.switch()));
        drop(bypass);
        assert!(is_on(&machine.switch()));
    }

    #[test]
    fn where_it_is_off_it_stays_off() {
        let machine = Machine::with("N\n");
        assert!(machine.pass_by().is_none());
        assert!(!is_on(&machine.switch()));
    }

    #[test]
    fn whoever_comes_after_a_daemon_that_died_switches_it_on_again() {
        let machine = Machine::with("Y\n");
        let bypass = std::mem::ManuallyDrop::new(machine.pass_by().unwrap());
        // Its lock goes with the process.
        nix::unistd::close(std::os::fd::AsRawFd::as_raw_fd(&*bypass.lock)).unwrap();
        assert!(!is_on(&machine.switch()));
        drop(machine.pass_by().unwrap());
        assert!(is_on(&machine.switch()));
    }
}
