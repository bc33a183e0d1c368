//! The file system under the state directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flyloft_core::disk::{Space, Unit};
use nix::sys::statfs;

use super::nearest;
use crate::engine::lxc;
use crate::engine::lxc::tree::{self, Usage};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    pub state_dir: PathBuf,
    /// Whether the directory is there.
    pub exists: bool,
    /// Why nothing can be written there, or where it would be made.
    pub unwritable: Option<String>,
    pub filesystem: Filesystem,
    pub space: Space,
    pub inodes: Space,
    /// What environments and repositories have there, if somebody has measured that.
    pub own: Option<Usage>,
}

/// What matters about it: whether overlayfs can write there, and whether swap files work (swapon(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filesystem {
    Ext,
    Xfs,
    Btrfs,
    Tmpfs,
    Overlay,
    #[default]
    Other,
}

impl Storage {
    pub fn look(state_dir: &Path) -> Self {
        let place = nearest(state_dir);
        Self {
            state_dir: state_dir.to_owned(),
            exists: state_dir.is_dir(),
            unwritable: unwritable(state_dir, place),
            filesystem: filesystem(place),
            space: lxc::space(place, Unit::Bytes).unwrap_or_default(),
            inodes: lxc::space(place, Unit::Inodes).unwrap_or_default(),
            own: None,
        }
    }

    /// Measures what is ours where too little is free, and it matters: to measure it is to walk it.
    pub fn measured_below(mut self, floor: u64) -> Self {
        if [self.space, self.inodes].iter().any(|space| space.free < space.floor(floor)) {
            let engine = measure(&self.state_dir, &["engine/layers", "engine/caches", "engine/containers"]);
            let own = engine.plus(beside(&self.state_dir));
            self.own =
                Some(Usage { bytes: own.bytes.min(self.space.taken), inodes: own.inodes.min(self.inodes.taken) });
        }
        self
    }
}

/// What is ours beside layers, package caches and containers: volumes, repositories, what deploys said, and builds that are
/// under way with what they are given.
pub fn beside(state_dir: &Path) -> Usage {
    measure(state_dir, &["engine/volumes", "repos", "transcripts", "engine/builds", "engine/staging", "engine/apt"])
}

fn measure(state_dir: &Path, names: &[&str]) -> Usage {
    let trees = names.iter().map(|name| tree::measure(&state_dir.join(name)).unwrap_or_default());
    trees.fold(Usage::default(), Usage::plus)
}

fn unwritable(state_dir: &Path, place: &Path) -> Option<String> {
    if state_dir.exists() && !state_dir.is_dir() {
        return Some("it is not a directory".to_owned());
    }
    let owner = place.metadata().map(|meta| meta.uid()).unwrap_or(0);
    if place == state_dir && owner != nix::unistd::geteuid().as_raw() {
        return Some(format!("it belongs to user {owner}"));
    }
    // Trying is the only way to know: read-only mounts, attributes and full disks do not show in the mode.
    tempfile::Builder::new().prefix(".flyloft-").tempfile_in(place).err().map(|error| error.to_string())
}

fn filesystem(place: &Path) -> Filesystem {
    match statfs::statfs(place).map(|stat| stat.filesystem_type()) {
        Ok(statfs::EXT4_SUPER_MAGIC) => Filesystem::Ext,
        Ok(statfs::XFS_SUPER_MAGIC) => Filesystem::Xfs,
        Ok(statfs::BTRFS_SUPER_MAGIC) => Filesystem::Btrfs,
        Ok(statfs::TMPFS_MAGIC) => Filesystem::Tmpfs,
        Ok(statfs::OVERLAYFS_SUPER_MAGIC) => Filesystem::Overlay,
        _ => Filesystem::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_where_it_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::look(&dir.path().join("a/b"));
        assert!(!storage.exists);
        assert_eq!(storage.unwritable, None);
        assert!(storage.space.free > 0);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Storage::look(file.path()).unwritable.is_some());
        assert!(Storage::look(Path::new("/proc/flyloft")).unwritable.is_some());
    }

    #[test]
    fn where_too_little_is_free_it_is_known_how_much_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let engine = dir.path().join("engine/layers");
        std::fs::create_dir_all(&engine).unwrap();
        std::fs::write(engine.join("layer"), vec![1; 100_000]).unwrap();
        std::fs::create_dir(dir.path().join("repos")).unwrap();
        std::fs::write(dir.path().join("repos/pack"), vec![1; 200_000]).unwrap();
        std::fs::write(dir.path().join("of-somebody-else"), vec![1; 1_000_000]).unwrap();
        let own = |floor| Storage::look(dir.path()).measured_below(floor).own;
        assert_eq!(own(0), None);
        let own = own(u64::MAX).unwrap();
        assert!((300_000..1_000_000).contains(&own.bytes) && own.inodes == 2, "{own:?}");
        let beside = beside(dir.path());
        assert!((200_000..300_000).contains(&beside.bytes) && beside.inodes == 1, "{beside:?}");
    }
}
