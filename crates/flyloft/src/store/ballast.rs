//! Room on the disk that is given up when there is none left, so that a full disk does not keep anybody from
//! destroying what fills it, nor the daemon from starting.
//!
//! On ext4 root has a reserve of its own. Other file systems have none, and somebody may have used that one up.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

const BALLAST: u64 = 32 << 20;

/// Less than this is what a start or a command may need, beside what ext4 says is free and keeps for itself: 2 % of it, at
/// most 4096 blocks (`reserved_clusters` in the kernel's `ext4.rst`).
const TIGHT: u64 = (8 << 20) + (4096 * 4096);

/// So much must be free for the ballast to be taken aboard again.
const AMPLE: u64 = 256 << 20;

#[derive(Clone, Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// Of a state directory. Nothing is done yet.
    pub fn of(state: &Path) -> Self {
        Self { path: state.join("ballast") }
    }

    /// Throws it off if the disk is full. Takes a microsecond if it is not.
    pub fn make_way(&self) {
        if self.free().is_ok_and(|free| free < TIGHT) && fs::remove_file(&self.path).is_ok() {
            tracing::error!(path = %self.path.display(), "the disk is full: gave up the last reserve");
        }
    }

    /// Takes it aboard where there is room for it.
    pub fn renew(&self) -> io::Result<()> {
        if self.path.exists() || self.free()? < AMPLE {
            return Ok(());
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&self.path)?;
        let laid = fallocate(&file, FallocateFlags::empty(), 0, BALLAST as i64);
        if laid.is_err() {
            fs::remove_file(&self.path)?;
        }
        Ok(laid?)
    }

    /// Bytes that root may still use.
    fn free(&self) -> io::Result<u64> {
        let disk = statvfs(self.path.parent().unwrap_or(Path::new("/")))?;
        Ok(disk.blocks_free() * disk.fragment_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    /// A file system of its own, of this size.
    struct Disk(tempfile::TempDir);

    impl Disk {
        fn of(size: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let options = format!("size={size}");
            mount(Some("disk"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
            Self(dir)
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
        }
    }

    #[test]
    fn a_full_disk_has_room_once_more_when_the_ballast_goes() {
        let disk = Disk::of(300 << 20);
        let ballast = Ballast::of(disk.0.path());
        ballast.renew().unwrap();
        ballast.make_way();
        assert!(disk.0.path().join("ballast").exists(), "there was room");

        let hog = File::create(disk.0.path().join("hog")).unwrap();
        fallocate(&hog, FallocateFlags::empty(), 0, (300 - 32) << 20).unwrap();
        assert!(fs::write(disk.0.path().join("state"), "x").is_err());
        ballast.make_way();
        fs::write(disk.0.path().join("state"), "x").unwrap();
        ballast.renew().unwrap();
        assert!(!disk.0.path().join("ballast").exists(), "the disk is still full");

        hog.set_len(0).unwrap();
        ballast.renew().unwrap();
        assert!(disk.0.path().join("ballast").exists());
    }
}
