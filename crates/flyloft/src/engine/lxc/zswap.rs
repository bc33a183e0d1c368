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
use crate::machine::memory::PASSED_BY;

/// zswap as it is, for as long as this lives.
pub struct Steady(#[allow(dead_code, reason = "it is held")] Flock<File>);

/// zswap passed by, for as long as this lives.
pub struct Bypass {
    lock: Flock<File>,
    switch: PathBuf,
}

/// Switches zswap on again where a daemon died while it passed it by, and says whether that was so. Whoever does so now
/// sees to it.
pub fn mend() -> io::Result<bool> {
    mend_at(Path::new(PASSED_BY), switch())
}

fn mend_at(path: &Path, switch: PathBuf) -> io::Result<bool> {
    // Most often there is nothing to wait for.
    if fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Ok(false);
    }
    let lock = match lock_at(path, FlockArg::LockExclusiveNonblock) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        lock => lock?,
    };
    if lock.metadata()?.len() == 0 {
        return Ok(false);
    }
    let bypass = Bypass { lock, switch };
    bypass.end().map(|()| true)
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
    /// `None` where there is no zswap, it is off, or nobody may switch it, as in a container.
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
        match fs::write(&bypass.switch, "N") {
            Ok(()) => Ok(Some(bypass)),
            Err(error) => {
                tracing::warn!(%error, "zswap cannot be passed by");
                Ok(None)
            }
        }
    }

    fn end(&self) -> io::Result<()> {
        if !is_on(&self.switch) {
            fs::write(&self.switch, "Y")?;
        }
        self.lock.set_len(0)
    }
}

impl Drop for Bypass {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "zswap could not be switched on again");
        }
    }
}

fn is_on(switch: &Path) -> bool {
    fs::read_to_string(switch).is_ok_and(|text| text.trim() == "Y")
}

fn lock(kind: FlockArg, wanted: &Wanted) -> io::Result<Flock<File>> {
    lock_behind_gate(Path::new(PASSED_BY), kind, wanted)
}

/// Waits its turn, for as long as it is wanted. Whoever waits has the gate: those who hold zswap steady come and go, and
/// who is to pass it by would otherwise wait until there is none of them.
fn lock_behind_gate(path: &Path, kind: FlockArg, wanted: &Wanted) -> io::Result<Flock<File>> {
    let _gate = lock_when_free(&path.with_extension("gate"), kind, wanted)?;
    lock_when_free(path, kind, wanted)
}

fn lock_when_free(path: &Path, kind: FlockArg, wanted: &Wanted) -> io::Result<Flock<File>> {
    loop {
        match lock_at(path, kind) {
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
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

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
    fn whoever_is_to_pass_it_by_does_not_wait_for_those_who_come_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = |kind, wanted: &Wanted| lock_behind_gate(&path, kind, wanted);
        let before = lock(FlockArg::LockSharedNonblock, &Wanted::default()).unwrap();
        std::thread::scope(|scope| {
            let passing = scope.spawn(|| lock(FlockArg::LockExclusiveNonblock, &Wanted::default()).map(drop));
            let gate = path.with_extension("gate");
            while lock_at(&gate, FlockArg::LockSharedNonblock).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Nobody wants it for longer than a moment.
            let wanted = Wanted::default();
            drop(wanted.by_whoever_holds());
            let after = lock(FlockArg::LockSharedNonblock, &wanted);
            drop(before);
            passing.join().unwrap().unwrap();
            assert!(after.is_err(), "it went first");
        });
        lock(FlockArg::LockSharedNonblock, &Wanted::default()).unwrap();
    }

    #[test]
    fn where_it_is_off_it_stays_off() {
        let machine = Machine::with("N\n");
        assert!(machine.pass_by().is_none());
        assert!(!is_on(&machine.switch()));
    }

    #[test]
    fn where_nobody_may_switch_it_nothing_is_left_to_be_mended() {
        let machine = Machine::with("Y\n");
        let mut sealed = File::from(memfd_create(c"switch", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        sealed.write_all(b"Y\n").unwrap();
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK;
        fcntl(&sealed, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        let lock = || lock_at(&machine.0.path().join("lock"), FlockArg::LockExclusive).unwrap();
        let switch = PathBuf::from(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
        assert!(Bypass::begin_at(lock(), switch).unwrap().is_none());
        assert_eq!(lock().metadata().unwrap().len(), 0);
    }

    #[test]
    fn whoever_comes_after_a_daemon_that_died_switches_it_on_again() {
        let machine = Machine::with("Y\n");
        let bypass = std::mem::ManuallyDrop::new(machine.pass_by().unwrap());
        // Its lock goes with the process.
        nix::unistd::close(bypass.lock.as_raw_fd()).unwrap();
        assert!(!is_on(&machine.switch()));
        drop(machine.pass_by().unwrap());
        assert!(is_on(&machine.switch()));
    }

    #[test]
    fn a_daemon_that_starts_switches_it_on_again_once_and_leaves_whoever_passes_it_by_alone() {
        let machine = Machine::with("Y\n");
        let lock = machine.0.path().join("lock");
        let mend = || mend_at(&lock, machine.switch()).unwrap();
        assert!(!mend(), "there is no file yet");
        let bypass = machine.pass_by().unwrap();
        assert!(!mend() && !is_on(&machine.switch()), "it was taken from who has it");
        let bypass = std::mem::ManuallyDrop::new(bypass);
        nix::unistd::close(bypass.lock.as_raw_fd()).unwrap();
        assert!(mend() && is_on(&machine.switch()));
        assert!(!mend(), "it was mended already");
    }
}
