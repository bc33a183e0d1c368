//! Trees that hostile programs have filled: measured, cleaned and removed without following a link, without running
//! out of stack or descriptors however deep they nest, and without ever resolving a path inside them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, ReadDir};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::beneath;

/// Directories that may lie within each other. Real trees stay below 50.
const DEPTH: usize = 200;

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

impl Usage {
    /// Either may be of a tree that nobody can measure.
    pub fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }

    fn add(&mut self, meta: &Metadata, linked: &mut HashSet<u64>) {
        self.inodes += 1;
        let counted_before = meta.nlink() > 1 && meta.is_file() && !linked.insert(meta.ino());
        if !counted_before {
            self.bytes += meta.blocks() * 512;
        }
    }
}

/// Sums up what lies in `root`. Files that vanish meanwhile do not matter; nesting beyond all reason counts as using
/// everything, so that whoever watches a limit acts.
pub fn measure(root: &Path) -> io::Result<Usage> {
    let (mut usage, mut linked) = (Usage::default(), HashSet::new());
    let walked = walk(root, &mut |_, meta| {
        usage.add(meta, &mut linked);
        Ok(())
    });
    match walked {
        Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => Ok(Usage { bytes: u64::MAX, inodes: u64::MAX }),
        walked => walked.map(|()| usage),
    }
}

/// Makes a tree harmless for the host and says what it takes: no setuid and setgid programs, no device nodes (but
/// overlayfs's whiteouts, device 0:0), no file capabilities.
pub fn disarm(root: &Path) -> io::Result<Usage> {
    let (mut usage, mut linked) = (Usage::default(), HashSet::new());
    walk(root, &mut |path, meta| {
        let kind = meta.file_type();
        let device = kind.is_block_device() || (kind.is_char_device() && meta.rdev() != 0);
        if device || kind.is_socket() || kind.is_fifo() {
            return fs::remove_file(path);
        }
        if meta.is_file() && meta.mode() & 0o6000 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o1777))?;
        }
        usage.add(meta, &mut linked);
        Ok(())
    })?;
    Ok(usage)
}

/// [`disarm`], or [`measure`] where the files are Debian's own.
pub fn disarm_unless_trusted(root: &Path, trusted: bool) -> io::Result<Usage> {
    if trusted { measure(root) } else { disarm(root) }
}

/// Calls `visit` for everything below `root`, parents first. The path it gets is good for the length of the call: it
/// goes through a descriptor of the directory, not through the names that lead there.
fn walk(root: &Path, visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    let mut open: Vec<(Dir, ReadDir)> = Vec::new();
    let root = Dir::open(root)?;
    let entries = root.entries()?;
    open.push((root, entries));
    loop {
        let depth = open.len();
        let Some((dir, entries)) = open.last_mut() else { return Ok(()) };
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let path = dir.child(&entry.file_name());
        let meta = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        visit(&path, &meta)?;
        if !meta.is_dir() {
            continue;
        }
        if depth > DEPTH {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "directories are nested too deeply"));
        }
        match dir.descend(&entry.file_name()).and_then(|dir| dir.entries().map(|entries| (dir, entries))) {
            Ok(child) => open.push(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes `root` and everything in it. What is not there is removed already.
pub fn purge(root: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if !meta.is_dir() {
        return fs::remove_file(root);
    }
    let mut deep = 0;
    let top = Dir::open(root)?;
    // What lies too deep is moved up next to the rest, and goes in a later round.
    loop {
        let before = deep;
        empty(&top, &top, 0, &mut deep)?;
        if deep == before {
            return fs::remove_dir(root);
        }
    }
}

fn empty(dir: &Dir, top: &Dir, depth: usize, deep: &mut u64) -> io::Result<()> {
    for entry in dir.entries()? {
        let entry = entry?;
        let path = dir.child(&entry.file_name());
        let removed = if !entry.file_type()?.is_dir() {
            fs::remove_file(&path)
        } else if depth < DEPTH {
            empty(&dir.descend(&entry.file_name())?, top, depth + 1, deep).and_then(|()| fs::remove_dir(&path))
        } else {
            move_up(&path, top, deep)
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

fn move_up(path: &Path, top: &Dir, deep: &mut u64) -> io::Result<()> {
    loop {
        *deep += 1;
        match fs::rename(path, top.child(format!(".flyloft-deep-{deep}").as_ref())) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOTDIR)) => {}
            moved => return moved,
        }
    }
}

/// A directory that stays the same however the names that led to it change.
struct Dir(File);

impl Dir {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    /// Fails where something is mounted: what lies there is not ours to touch.
    fn descend(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self(beneath::descend(self.0.as_fd(), Path::new(name))?.into()))
    }

    fn child(&self, name: &OsStr) -> PathBuf {
        Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()).join(name)
    }

    fn entries(&self) -> io::Result<ReadDir> {
        fs::read_dir(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `depth` directories within each other, far deeper than a path may be long.
    fn nest(root: &Path, depth: usize) {
        let mut dir = Dir::open(root).unwrap();
        for _ in 0..depth {
            let child = dir.child("a-directory-with-a-long-name".as_ref());
            fs::create_dir(&child).unwrap();
            dir = Dir::open(&child).unwrap();
        }
    }

    #[test]
    fn directories_nested_without_reason_are_removed_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("hostile");
        fs::create_dir(&root).unwrap();
        nest(&root, 3 * DEPTH);
        purge(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn directories_nested_without_reason_count_as_using_everything() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("hostile");
        fs::create_dir(&root).unwrap();
        nest(&root, DEPTH + 10);
        assert_eq!(measure(&root).unwrap().inodes, u64::MAX);
        purge(&root).unwrap();
    }

    #[test]
    fn removing_a_tree_stops_where_something_is_mounted() {
        use nix::mount::{MsFlags, mount};
        let dir = tempfile::tempdir().unwrap();
        let (root, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        mount(Some(&kept), &root.join("sub"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let purged = purge(&root);
        super::super::mounts::unmount(&root.join("sub")).unwrap();
        assert!(purged.is_err() && kept.join("file").exists());
    }

    #[test]
    fn removing_a_tree_leaves_what_its_links_point_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&kept, root.join("sub/link")).unwrap();
        purge(&root).unwrap();
        assert!(kept.join("file").exists() && !root.exists());
    }

    #[test]
    fn a_disarmed_tree_has_no_setuid_program_and_each_file_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program");
        fs::write(&file, vec![0; 8192]).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
        fs::hard_link(&file, dir.path().join("again")).unwrap();
        let usage = disarm(dir.path()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(usage, Usage { bytes: 8192, inodes: 2 });
    }
}
