//! A container's file system: idmapped lower layers, an upper directory of its own, overlayfs over them.
//!
//! overlayfs keeps private clones of its lower mounts, so that one mount a container stays in the host's namespace.
//! Everything is `nosuid` and `nodev`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::beneath;
use super::idmap::{Access, Detached, IdMap};
use super::places::Home;

/// A layer's files and the host's id of their root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lower {
    pub tree: PathBuf,
    pub uid_base: u32,
}

/// A directory of the host that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    /// As seen inside, below the root.
    pub target: PathBuf,
    pub access: Access,
    /// The host's id of the root that the source's files were made for, if that is another than the container's.
    pub uid_base: Option<u32>,
}

/// What `redirect_dir` is for: without it renaming a directory of a lower layer fails, which npm does.
const OPTIONS: &str = "redirect_dir=on,index=off,metacopy=off";

/// Mounts the layers (the lowest first) under the home's upper directory, and the binds into that. Does nothing if it
/// is mounted already.
pub fn compose(home: &Home, layers: &[Lower], binds: &[Bind], uid_base: u32) -> io::Result<()> {
    if is_mounted(&home.merged())? {
        return Ok(());
    }
    home.make_run(uid_base)?;
    for dir in [home.upper(), home.work()] {
        make_dir(&dir, 0o755)?;
        chown(&dir, Some(uid_base), Some(uid_base))?;
    }
    let lower = attach_lower(home, layers, uid_base)?;
    let merged = home.merged();
    let mounted = overlay(&home.dir, &lower, &merged, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
        .and_then(|()| binds.iter().try_for_each(|bind| attach_bind(&merged, bind, uid_base)));
    detach_lower(&lower);
    if mounted.is_err() {
        unmount(&merged)?;
    }
    mounted
}

/// Undoes [`compose`].
pub fn dissolve(home: &Home) -> io::Result<()> {
    unmount(&home.merged())?;
    for dir in [home.merged(), home.run()] {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Mounts an overlay of `lower` (the lowest first) at `target`, with `upper` and `work` of `dir`.
///
/// The options may have 4,095 bytes; through descriptors every path is short.
pub fn overlay(dir: &Path, lower: &[PathBuf], target: &Path, flags: MsFlags) -> io::Result<()> {
    let open = |path: &Path| OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path);
    let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let lower = lower.iter().rev().map(|path| open(path)).collect::<io::Result<Vec<_>>>()?;
    let dir = open(dir)?;
    let stack = lower.iter().map(name).collect::<Vec<_>>().join(":");
    let dir = name(&dir);
    let options = format!("lowerdir={stack},upperdir={dir}/upper,workdir={dir}/work,{OPTIONS}");
    mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str()))?;
    Ok(())
}

fn attach_lower(home: &Home, layers: &[Lower], uid_base: u32) -> io::Result<Vec<PathBuf>> {
    let mut points: Vec<PathBuf> = Vec::new();
    let mut map: Option<(u32, IdMap)> = None;
    for (index, layer) in layers.iter().enumerate() {
        let point = home.lower().join(index.to_string());
        let attached = (|| {
            fs::create_dir_all(&point)?;
            unmount(&point)?;
            // Neighbours are often of the same range: stack layers are.
            if map.as_ref().is_none_or(|(from, _)| *from != layer.uid_base) {
                map = Some((layer.uid_base, IdMap::new(layer.uid_base, uid_base)?));
            }
            let map = map.as_ref().filter(|(from, _)| *from != uid_base).map(|(_, map)| map);
            Detached::clone_of(&layer.tree, Access::ReadOnly, map)?.attach(File::open(&point)?.as_fd())
        })();
        points.push(point);
        if let Err(error) = attached {
            detach_lower(&points);
            return Err(error);
        }
    }
    Ok(points)
}

fn detach_lower(points: &[PathBuf]) {
    for point in points {
        // What cannot be unmounted now is unmounted when the container is removed.
        let _ = unmount(point).and_then(|()| fs::remove_dir(point));
    }
}

fn attach_bind(merged: &Path, bind: &Bind, uid_base: u32) -> io::Result<()> {
    attach_at(merged, bind, uid_base).map_err(|error| {
        let why = match error.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR) => "there must be a directory, and no link on the way".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("nothing can be mounted at `/{}`: {why}", bind.target.display()))
    })
}

fn attach_at(merged: &Path, bind: &Bind, uid_base: u32) -> io::Result<()> {
    let root = File::open(merged)?;
    make_beneath(&root, &bind.target, uid_base)?;
    let point = beneath::open(root.as_fd(), &bind.target, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let map = match bind.uid_base {
        Some(from) if from != uid_base => Some(IdMap::new(from, uid_base)?),
        _ => None,
    };
    Detached::clone_of(&bind.source, bind.access, map.as_ref())?.attach(point.as_fd())
}

/// Makes a directory inside a container's file system, and its parents, and refuses to follow a link on the way. The
/// new ones belong to the app's user below a directory of that user, and to root elsewhere.
pub fn make_beneath(root: &File, path: &Path, uid_base: u32) -> io::Result<()> {
    let mut parent = root.try_clone()?;
    for part in path.components().filter(|part| matches!(part, std::path::Component::Normal(_))) {
        let inside = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(part);
        match fs::create_dir(&inside) {
            Ok(()) => {
                let owner = std::os::unix::fs::MetadataExt::uid(&parent.metadata()?).max(uid_base);
                std::os::unix::fs::lchown(&inside, Some(owner), Some(owner))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let part = Path::new(&part);
        parent = beneath::open(parent.as_fd(), part, libc::O_RDONLY | libc::O_DIRECTORY, 0)?.into();
    }
    Ok(())
}

fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Unmounts `path` and everything below it, as often as something is mounted there.
pub fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point, or not there at all.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether something is mounted at `path`: whether its device is another than its parent's.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta.dev())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let Some(here) = device(path)? else { return Ok(false) };
    Ok(path.parent().map(device).transpose()?.flatten().is_some_and(|parent| parent != here))
}

/// Mount points below `dir`, the deepest first.
pub fn mounted_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = mount_points(&table).filter(|point| point.starts_with(dir)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(points)
}

/// The fifth field of each line of mountinfo (proc_pid_mountinfo(5)), with its octal escapes undone.
fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> + '_ {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| {
        let unescaped = ["\\040 ", "\\011\t", "\\012\n", "\\134\\"];
        PathBuf::from(unescaped.iter().fold(field.to_owned(), |path, pair| path.replace(&pair[..4], &pair[4..])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_blank_is_found_by_its_real_name() {
        let table =
            "45 27 0:39 / /srv/my\\040state/x rw,relatime - overlay overlay rw\n22 27 0:21 / /proc rw - proc proc rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/srv/my state/x"), PathBuf::from("/proc")]);
    }
}
