//! Control groups: which version, and what of it the daemon can use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::read;

/// What limits and sleep need.
pub const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Controllers on version 1, with or without an empty unified hierarchy beside them.
    V1,
    V2,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// `None` where none is mounted.
    pub version: Option<Version>,
    pub controllers: BTreeSet<String>,
    /// Whether a group's swap is counted and bounded.
    pub swap_accounting: bool,
    pub freezer: bool,
    /// How a frozen group's memory is pushed out: `memory.reclaim` (since 5.19) or `memory.force_empty`.
    pub reclaim: bool,
}

impl Cgroups {
    pub fn look() -> Self {
        Self::look_at(Path::new("/sys/fs/cgroup"), Path::new("/proc/cgroups"))
    }

    fn look_at(root: &Path, known: &Path) -> Self {
        let unified = read(root.join("cgroup.controllers"));
        if !unified.is_empty() {
            // These files are in every group but the root.
            let has = |file: &str| children(root).any(|group| group.join(file).exists());
            return Self {
                version: Some(Version::V2),
                controllers: unified.split_whitespace().map(str::to_owned).collect(),
                swap_accounting: has("memory.swap.max"),
                freezer: has("cgroup.freeze"),
                reclaim: has("memory.reclaim"),
            };
        }
        if !root.join("memory").is_dir() && !root.join("pids").is_dir() {
            return Self::default();
        }
        let controllers = enabled(&read(known)).into_iter().filter(|name| root.join(name).is_dir());
        Self {
            version: Some(Version::V1),
            controllers: controllers.collect(),
            swap_accounting: root.join("memory/memory.memsw.limit_in_bytes").exists(),
            freezer: root.join("freezer").is_dir(),
            reclaim: root.join("memory/memory.force_empty").exists(),
        }
    }
}

fn children(root: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

/// The controllers that `/proc/cgroups` calls enabled (cgroups(7)).
fn enabled(known: &str) -> BTreeSet<String> {
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        (!name.starts_with('#') && fields.nth(2) == Some("1")).then(|| name.to_owned())
    };
    known.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (root, known) = (dir.path().join("cgroup"), dir.path().join("cgroups"));
        std::fs::create_dir_all(root.join("memory")).unwrap();
        std::fs::create_dir_all(root.join("freezer")).unwrap();
        std::fs::write(root.join("memory/memory.memsw.limit_in_bytes"), "").unwrap();
        let list = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t9\t1\nfreezer\t6\t9\t1\ncpu\t1\t9\t0\n";
        std::fs::write(&known, list).unwrap();
        let v1 = Cgroups::look_at(&root, &known);
        assert_eq!(v1.version, Some(Version::V1));
        assert_eq!(v1.controllers.iter().collect::<Vec<_>>(), ["freezer", "memory"]);
        assert!(v1.swap_accounting && v1.freezer && !v1.reclaim);

        std::fs::write(root.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        std::fs::create_dir_all(root.join("init.scope")).unwrap();
        std::fs::write(root.join("init.scope/memory.reclaim"), "").unwrap();
        let v2 = Cgroups::look_at(&root, &known);
        assert_eq!(v2.version, Some(Version::V2));
        assert_eq!(v2.controllers.len(), 3);
        assert!(v2.reclaim && !v2.swap_accounting && !v2.freezer);

        assert_eq!(Cgroups::look_at(&dir.path().join("none"), &known), Cgroups::default());
    }
}
