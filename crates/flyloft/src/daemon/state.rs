//! The state directory: what the daemon finds there at once, and who has it.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::backup;
use crate::clock::{self, Clock};
use crate::error::{Error, OrFailed, Result};
use crate::store::Ballast;

/// A link in the state directory, to the socket where commands are taken.
pub const SOCKET: &str = "socket";

/// Locked by the daemon that uses the state directory.
pub const LOCK: &str = "lock";

/// Holds what tells this daemon's containers from those of others.
pub const INSTANCE: &str = "instance";

/// The directory of all that the daemon keeps, and what is known from it at once.
pub struct State {
    pub dir: PathBuf,
    /// Tells this daemon's containers, rules and addresses from those of others on the machine.
    pub instance: String,
    /// The machine's, and whether it is another one than the last daemon's.
    boot: String,
    pub rebooted: bool,
    pub clock: Clock,
    /// Held as long as the daemon runs.
    _lock: Flock<File>,
}

impl State {
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = || format!("failed to use the state directory `{}`", dir.display());
        // Others may pass through it: git runs as another user in a directory below. What is secret has its own mode.
        DirBuilder::new().recursive(true).mode(0o711).create(dir).or_failed(failed)?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o711)).or_failed(failed)?;
        let lock = open_private(&dir.join(LOCK)).or_failed(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => {
                Error::conflict(format!("another daemon uses the state directory `{}`", dir.display()))
                    .hint("give each its own with --state-dir")
            }
            error => Error::because(failed(), error),
        })?;
        must_be_restored(dir)?;
        Ballast::of(dir).make_way();
        match std::fs::remove_dir_all(dir.join(backup::STAGING)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).or_failed(failed),
            _ => {}
        }
        let instance = remembered(&dir.join(INSTANCE), || crate::random::hex(6)).or_failed(failed)?.0;
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").or_failed(|| "failed to read the boot id")?;
        let boot = boot.trim().to_owned();
        let (last, known) = remembered(&dir.join("boot-id"), || boot.clone()).or_failed(failed)?;
        let rebooted = known && last != boot;
        let clock = Clock::open(&dir.join(clock::FILE), &boot).or_failed(failed)?;
        Ok(Self { dir: dir.to_owned(), instance, boot, rebooted, clock, _lock: lock })
    }

    /// From here on the environments are what this boot left of them. A start that fails before that leaves it to the next
    /// one to find out that nothing runs.
    pub fn remember_boot(&self) -> std::io::Result<()> {
        if !self.rebooted {
            return Ok(());
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(self.boot.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.dir.join("boot-id")).map(drop).map_err(|error| error.error)
    }

    /// For who asks this daemon for what a changed configuration says: that may name another place.
    pub fn note_socket(&self, path: &Path) -> std::io::Result<()> {
        let (link, aside) = (self.dir.join(SOCKET), self.dir.join("socket.new"));
        let _ = std::fs::remove_file(&aside);
        // A link is read from where it lies.
        std::os::unix::fs::symlink(std::path::absolute(path)?, &aside)?;
        std::fs::rename(aside, link)
    }

    pub fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.or_failed(|| format!("failed to make `{}`", dir.display()))?;
        Ok(dir)
    }
}

/// The text in a file, which is made with `first` if it is not there. Says whether it was.
fn remembered(path: &Path, first: impl FnOnce() -> String) -> std::io::Result<(String, bool)> {
    let mut file = open_private(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    if !text.trim().is_empty() {
        return Ok((text.trim().to_owned(), true));
    }
    let text = first();
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok((text, false))
}

fn open_private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// A directory into which a backup has come in part is nothing to start with.
pub fn must_be_restored(dir: &Path) -> Result<()> {
    match dir.join(backup::restore::MARK).exists() {
        false => Ok(()),
        true => Err(Error::conflict(format!("a backup was restored into `{}`, and not to its end", dir.display()))
            .hint("wait for it if it goes on; if not, move the directory away, and run `flyloft restore` once more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_to_a_socket_leads_there_from_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state")).unwrap();
        state.note_socket(Path::new("a.sock")).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(std::fs::read_link(state.dir.join(SOCKET)).unwrap(), here.join("a.sock"));
    }
}
