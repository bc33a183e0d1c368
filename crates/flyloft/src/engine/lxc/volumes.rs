//! Volumes: directories that outlive the containers that have them. As caches do, they belong to the app's user among the
//! keeper's ids, whatever the ids of the container are that has one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::PathBuf;

use flyloft_core::volume::files;

use super::container::APP;
use super::idmap::Access;
use super::mounts::Bind;
use super::places::Places;
use super::slots::Slot;
use super::tree::Usage;
use super::{step, tree};
use crate::engine::{Filling, Volume, VolumeId};
use crate::exec::Cmd;

#[derive(Clone, Debug)]
pub struct Volumes {
    dir: PathBuf,
    tmp: PathBuf,
    /// Whose ids own what is in them.
    keeper: Slot,
}

/// What the volumes of a container take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    pub usage: Usage,
    /// Files that are bounded with those of the writable layer.
    pub counted: u64,
    /// One of them takes more than it may.
    pub too_full: bool,
}

impl Volumes {
    pub fn new(places: &Places, keeper: Slot) -> Self {
        Self { dir: places.volumes.clone(), tmp: places.tmp.clone(), keeper }
    }

    /// Makes those that are missing, and says where they are mounted.
    pub fn take(&self, wanted: &[Volume]) -> io::Result<Vec<Bind>> {
        let taken = wanted.iter().map(|volume| {
            let source = self.make(&volume.id)?;
            let access = if volume.read_only { Access::ReadOnly } else { Access::ReadWrite };
            Ok(Bind { source, target: step::inside(&volume.path)?, access, uid_base: Some(self.keeper.uid_base()) })
        });
        taken.collect()
    }

    fn make(&self, id: &VolumeId) -> io::Result<PathBuf> {
        let dir = self.place(id)?;
        match DirBuilder::new().mode(0o755).create(&dir) {
            Ok(()) => {
                let app = self.keeper.uid_base() + APP;
                chown(&dir, Some(app), Some(app))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(dir)
    }

    fn place(&self, id: &VolumeId) -> io::Result<PathBuf> {
        id.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        Ok(self.dir.join(&id.0))
    }

    pub fn list(&self) -> io::Result<Vec<VolumeId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            found.extend(entry?.file_name().into_string().map(VolumeId).ok().filter(|id| id.check().is_ok()));
        }
        found.sort();
        Ok(found)
    }

    pub fn measure(&self, id: &VolumeId) -> io::Result<Usage> {
        match tree::measure(&self.place(id)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Usage::default()),
            usage => usage,
        }
    }

    pub fn filled(&self, volumes: &[Volume]) -> io::Result<Filled> {
        let mut filled = Filled::default();
        for volume in volumes.iter().filter(|volume| !volume.read_only) {
            let usage = self.measure(&volume.id)?;
            filled.usage = filled.usage.plus(usage);
            filled.too_full |= usage.bytes > volume.size;
            if volume.counts {
                filled.counted = filled.counted.saturating_add(usage.inodes);
            } else {
                filled.too_full |= usage.inodes > files(volume.size);
            }
        }
        Ok(filled)
    }

    /// Nothing of it is there until all is. Within the runtime, on a thread that may wait.
    pub fn fill(&self, id: &VolumeId, with: &Filling) -> io::Result<()> {
        self.remove(id)?;
        let (place, aside) = (self.place(id)?, self.tmp.join(format!("filling-{id}")));
        tree::purge(&aside)?;
        match with {
            Filling::Tree(tree) => {
                tree::disarm(tree)?;
                fs::rename(tree, &aside)?;
                // Whatever an archive says of its first directory.
                fs::set_permissions(&aside, fs::Permissions::from_mode(0o755))?;
            }
            // Nobody but the daemon has written there since it was disarmed, and no link is followed.
            Filling::CopyOf(other) => {
                let copy =
                    Cmd::new("cp").args(["--archive", "--reflink=auto", "--"]).arg(self.place(other)?).arg(&aside);
                tokio::runtime::Handle::current().block_on(copy.run()).map_err(io::Error::other)?;
            }
        }
        fs::rename(aside, place)
    }

    pub fn remove(&self, id: &VolumeId) -> io::Result<()> {
        let aside = self.tmp.join(format!("volume-{id}"));
        tree::purge(&aside)?;
        match fs::rename(self.place(id)?, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => tree::purge(&aside),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes() -> (tempfile::TempDir, Volumes) {
        let dir = tempfile::tempdir().unwrap();
        let (volumes, tmp) = (dir.path().join("volumes"), dir.path().join("tmp"));
        fs::create_dir(&volumes).unwrap();
        fs::create_dir(&tmp).unwrap();
        let keeper = serde_json::from_str("0").unwrap();
        (dir, Volumes { dir: volumes, tmp, keeper })
    }

    fn volume(id: &str, size: u64) -> Volume {
        Volume { id: VolumeId(id.to_owned()), path: "/data".to_owned(), size, read_only: false, counts: false }
    }

    #[test]
    fn a_volume_is_made_once_and_is_too_full_beyond_its_own_size_alone() {
        let (_dir, volumes) = volumes();
        let (small, large) = (volume("a", 50_000), volume("b", 1 << 20));
        let binds = volumes.take(&[small.clone(), large.clone()]).unwrap();
        fs::write(binds[1].source.join("file"), vec![1; 200_000]).unwrap();
        assert!(!volumes.filled(&[small.clone(), large.clone()]).unwrap().too_full);
        fs::write(binds[0].source.join("file"), vec![1; 100_000]).unwrap();
        assert_eq!(volumes.take(std::slice::from_ref(&small)).unwrap()[0].source, binds[0].source);
        let filled = volumes.filled(&[small.clone(), large]).unwrap();
        assert!(filled.too_full && filled.usage.bytes >= 300_000, "{filled:?}");
        // Nobody fills what cannot be written to.
        assert_eq!(volumes.filled(&[Volume { read_only: true, ..small }]).unwrap(), Filled::default());
    }

    #[test]
    fn files_count_with_those_of_the_container_or_are_as_many_as_the_volume_has_blocks() {
        let (_dir, volumes) = volumes();
        let alone = volume("a", 4 * 4096);
        let dir = volumes.take(std::slice::from_ref(&alone)).unwrap().remove(0).source;
        let filled = |volume: &Volume| volumes.filled(std::slice::from_ref(volume)).unwrap();
        (0..4).for_each(|n| fs::write(dir.join(n.to_string()), "").unwrap());
        assert!(!filled(&alone).too_full);
        fs::write(dir.join("one-more"), "").unwrap();
        assert!(filled(&alone).too_full);
        assert_eq!(filled(&alone).counted, 0);
        let filled = filled(&Volume { counts: true, ..alone });
        assert_eq!((filled.counted, filled.too_full), (5, false));
    }

    #[test]
    fn a_volume_that_is_removed_leaves_nothing_and_no_name_leads_elsewhere() {
        let (dir, volumes) = volumes();
        let binds = volumes.take(&[volume("a", 1)]).unwrap();
        fs::write(binds[0].source.join("file"), "x").unwrap();
        for _ in 0..2 {
            volumes.remove(&VolumeId("a".to_owned())).unwrap();
        }
        assert_eq!(volumes.list().unwrap(), []);
        assert!(fs::read_dir(dir.path().join("tmp")).unwrap().next().is_none());
        assert!(volumes.remove(&VolumeId("../tmp".to_owned())).is_err());
        assert!(dir.path().join("tmp").exists());
        assert!(volumes.take(&[volume("../tmp", 1)]).is_err());
        let outside = Volume { path: "/data/../../etc".to_owned(), ..volume("a", 1) };
        assert!(volumes.take(&[outside]).is_err());
    }
}
