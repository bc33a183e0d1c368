//! Control groups, version 2 and version 1 (hybrid).
//!
//! Where a container's groups are is asked from the kernel, by its init process, and never computed: a stale group
//! makes LXC choose another name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flyloft_core::policy::Limits;

use crate::engine::Stats;
use crate::machine::memory::Pool;

const ROOT: &str = "/sys/fs/cgroup";

/// How LXC names the group of a container, and that of its own process beside it.
const PAYLOAD: &str = "lxc.payload.";
const MONITOR: &str = "lxc.monitor.";

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Unified,
    Legacy {
        /// Whether swap is accounted for.
        swap: bool,
    },
}

impl Layout {
    /// `None` if a controller that limits need is missing, with its name.
    pub fn detect() -> Result<Self, &'static str> {
        let root = Path::new(ROOT);
        if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
            let missing = |name: &&&str| !controllers.split_whitespace().any(|known| known == **name);
            return ["memory", "pids", "cpu"].iter().find(missing).map_or(Ok(Layout::Unified), |name| Err(*name));
        }
        let missing = |name: &&&str| !root.join(name).join("cgroup.procs").exists();
        match ["memory", "pids", "cpu", "freezer"].iter().find(missing) {
            Some(name) => Err(name),
            None => Ok(Layout::Legacy { swap: root.join("memory/memory.memsw.limit_in_bytes").exists() }),
        }
    }

    /// The limits as keys and values of an LXC configuration. Sets the memory before its sum with swap: the kernel
    /// refuses the other order.
    pub fn limits(self, limits: &Limits) -> Vec<(String, u64)> {
        let weight = u64::from(limits.cpu_weight.clamp(1, 10_000));
        let pairs: Vec<(&str, u64)> = match self {
            Layout::Unified => vec![
                ("cgroup2.memory.max", limits.memory),
                ("cgroup2.memory.swap.max", limits.swap),
                ("cgroup2.pids.max", limits.pids.into()),
                ("cgroup2.cpu.weight", weight),
            ],
            Layout::Legacy { swap } => {
                let mut pairs = vec![("cgroup.memory.limit_in_bytes", limits.memory)];
                if swap {
                    pairs.push(("cgroup.memory.memsw.limit_in_bytes", limits.memory + limits.swap));
                }
                // 1024 shares are what a weight of 100 is.
                pairs.extend([
                    ("cgroup.pids.max", limits.pids.into()),
                    ("cgroup.cpu.shares", (weight * 1024 / 100).max(2)),
                ]);
                pairs
            }
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// What a group is charged for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charged {
    /// Memory that is not a file's: what would be lost without swap.
    pub anonymous: u64,
    pub files: u64,
    /// In memory and in swap: of these, those that are being written, and those that nobody needs.
    pub in_swap_cache: u64,
    pub being_written: u64,
}

/// The groups of one running container.
#[derive(Clone, Debug)]
pub struct Groups {
    layout: Layout,
    /// The container's, to LXC.
    name: String,
    /// `/proc/<init>/cgroup`, cut after the container's own group.
    lines: Vec<(String, String)>,
}

impl Groups {
    /// Of the container `name`, which has this process.
    pub fn of(layout: Layout, name: &str, process: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
        match parse(&text, name) {
            lines if lines.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "it has ended")),
            lines => Ok(Self { layout, name: name.to_owned(), lines }),
        }
    }

    /// The group's directory in the hierarchy of a controller.
    fn dir(&self, controller: &str) -> io::Result<PathBuf> {
        let wanted = match self.layout {
            Layout::Unified => "",
            Layout::Legacy { .. } => controller,
        };
        let found = self.lines.iter().find(|(names, _)| names.split(',').any(|name| name == wanted));
        let (_, path) = found.ok_or_else(|| io::Error::other(format!("no cgroup of controller `{controller}`")))?;
        let mount = Path::new(ROOT).join(wanted);
        Ok(mount.join(path.trim_start_matches('/')))
    }

    pub fn frozen(&self) -> io::Result<bool> {
        let dir = self.dir("freezer")?;
        match self.layout {
            Layout::Unified => Ok(field(&fs::read_to_string(dir.join("cgroup.events"))?, "frozen") == Some(1)),
            Layout::Legacy { .. } => Ok(fs::read_to_string(dir.join("freezer.state"))?.trim() == "FROZEN"),
        }
    }

    /// Whether every process was held within `limit`. What was not held to the last one is let go.
    pub fn freeze(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(50);
        loop {
            // Version 1 can get stuck at FREEZING when processes come and go; writing again moves it on.
            self.set_frozen(true)?;
            crate::fault::point("freeze.half");
            if self.frozen()? {
                return Ok(true);
            }
            if Instant::now() > deadline {
                self.thaw()?;
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    /// They run when this comes back.
    pub fn thaw(&self) -> io::Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        let (file, value) = match self.layout {
            Layout::Unified => ("cgroup.freeze", if frozen { "1" } else { "0" }),
            Layout::Legacy { .. } => ("freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
        };
        fs::write(self.dir("freezer")?.join(file), value)
    }

    /// What the groups know of [`Stats`].
    pub fn stats(&self) -> io::Result<Stats> {
        let number = |controller: &str, file: &str| -> io::Result<u64> {
            let text = fs::read_to_string(self.dir(controller)?.join(file))?;
            text.trim().parse().map_err(|_| io::Error::other(format!("`{file}` is not a number")))
        };
        // Swap need not be accounted for.
        let optional = |file: &str| number("memory", file).unwrap_or(0);
        let (memory, swap, cpu) = match self.layout {
            Layout::Unified => {
                let usage = field(&fs::read_to_string(self.dir("cpu")?.join("cpu.stat"))?, "usage_usec").unwrap_or(0);
                (number("memory", "memory.current")?, optional("memory.swap.current"), Duration::from_micros(usage))
            }
            Layout::Legacy { .. } => {
                let memory = number("memory", "memory.usage_in_bytes")?;
                let swap = optional("memory.memsw.usage_in_bytes").saturating_sub(memory);
                (memory, swap, Duration::from_nanos(number("cpuacct", "cpuacct.usage").unwrap_or(0)))
            }
        };
        let pids = number("pids", "pids.current")? as u32;
        Ok(Stats { memory, swap, pids, cpu, ..Stats::default() })
    }

    pub fn charged(&self) -> io::Result<Charged> {
        let text = fs::read_to_string(self.dir("memory")?.join("memory.stat"))?;
        let (prefix, writeback) = match self.layout {
            Layout::Unified => ("", "file_writeback"),
            // Without it, groups below this one do not count.
            Layout::Legacy { .. } => ("total_", "writeback"),
        };
        let bytes = |name: &str| field(&text, &format!("{prefix}{name}")).unwrap_or(0);
        Ok(Charged {
            anonymous: bytes("inactive_anon") + bytes("active_anon"),
            files: bytes("inactive_file") + bytes("active_file"),
            in_swap_cache: bytes("swapcached"),
            being_written: bytes(writeback),
        })
    }

    /// Has the kernel reclaim anonymous memory until at most `left` bytes are there, where it can reclaim that alone
    /// (the kernel's cgroup-v2.rst, `memory.reclaim`). Elsewhere nothing is done.
    pub fn reclaim_anonymous(&self, left: u64) -> io::Result<()> {
        if matches!(self.layout, Layout::Legacy { .. }) {
            return Ok(());
        }
        let file = self.dir("memory")?.join("memory.reclaim");
        let mut before = u64::MAX;
        loop {
            let there = self.charged()?.anonymous;
            if there <= left || there >= before {
                return Ok(());
            }
            before = there;
            match fs::write(&file, format!("{there} swappiness=max")) {
                // Not all of it went.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
                // A kernel before 6.16, or before 5.19.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                reclaimed => reclaimed?,
            }
        }
    }

    /// Has the kernel reclaim all that it can of the group, its files too. `false` if it is older than 5.19 and cannot.
    pub fn reclaim(&self) -> io::Result<bool> {
        let dir = self.dir("memory")?;
        let reclaimed = match self.layout {
            Layout::Legacy { .. } => fs::write(dir.join("memory.force_empty"), "0"),
            Layout::Unified => fs::write(dir.join("memory.reclaim"), self.charged()?.anonymous.to_string()),
        };
        match reclaimed {
            // Not all of it went.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::EBUSY)) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            reclaimed => reclaimed.map(|()| true),
        }
    }

    /// Bytes that the group may still have swapped out. `None` where that has no bound of its own.
    pub fn swap_left(&self) -> io::Result<Option<u64>> {
        if matches!(self.layout, Layout::Legacy { .. }) {
            // Memory and swap are bounded together, and what is moved from one to the other changes nothing.
            return Ok(None);
        }
        let number = |file: &str| -> io::Result<Option<u64>> {
            Ok(fs::read_to_string(self.dir("memory")?.join(file))?.trim().parse().ok())
        };
        let (Some(limit), Some(now)) = (number("memory.swap.max")?, number("memory.swap.current")?) else {
            return Ok(None);
        };
        Ok(Some(limit.saturating_sub(now)))
    }

    /// What the group has in zswap, where the kernel counts that.
    pub fn zswap(&self) -> io::Result<Option<Pool>> {
        let dir = self.dir("memory")?;
        let Ok(taken) = fs::read_to_string(dir.join("memory.zswap.current")) else { return Ok(None) };
        let stored = field(&fs::read_to_string(dir.join("memory.stat"))?, "zswapped").unwrap_or(0);
        Ok(Some(Pool { stored, taken: taken.trim().parse().unwrap_or(0) }))
    }

    /// The processes in it, and in groups that were made below it.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut found = Vec::new();
        let mut dirs = vec![self.dir("pids")?];
        while let Some(dir) = dirs.pop() {
            // One that is gone by now has none. A threaded group's are listed above it (the kernel's cgroup-v2.rst).
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()));
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            dirs.extend(
                entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
            );
        }
        Ok(found)
    }

    /// Whether a process is one of them.
    pub fn have(&self, pid: i32) -> bool {
        let theirs = Self::of(self.layout, &self.name, pid).and_then(|groups| groups.dir("pids"));
        theirs.is_ok_and(|theirs| self.dir("pids").is_ok_and(|ours| ours == theirs))
    }

    /// Processes of this group that the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let dir = self.dir("memory")?;
        let file = match self.layout {
            Layout::Unified => "memory.events",
            Layout::Legacy { .. } => "memory.oom_control",
        };
        Ok(field(&fs::read_to_string(dir.join(file))?, "oom_kill").unwrap_or(0))
    }

    /// How often the kernel refused this group a process or a thread.
    pub fn fork_failures(&self) -> io::Result<u64> {
        Ok(field(&fs::read_to_string(self.dir("pids")?.join("pids.events"))?, "max").unwrap_or(0))
    }
}

/// Pairs of controllers and path. The path ends with the container's own group, whatever it made below that. Other groups
/// are none of it: of a process that ends version 1 says `/`, which is the whole machine. A host that is a container
/// itself may see the group of that one above it, which is the daemon's as well.
fn parse(text: &str, name: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (controllers, path) = controllers_and_path(line)?;
        let groups: Vec<&str> = path.split('/').collect();
        let own = groups.iter().position(|group| is_of(group, PAYLOAD, name))?;
        Some((controllers.to_owned(), groups[..=own].join("/")))
    };
    text.lines().filter_map(line).collect()
}

/// Of a line of `/proc/PID/cgroup` (cgroups(7)).
fn controllers_and_path(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    Some((controllers, path))
}

/// `name 12` in a file of such lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Every group that LXC made for the container `name`, in all hierarchies: `lxc.monitor.NAME`, `lxc.payload.NAME`, and
/// those with `-1` and so on at the end that it made beside stale ones.
fn leftovers(name: &str) -> io::Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    let mut hierarchies = vec![root.to_owned()];
    hierarchies.extend(fs::read_dir(root)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|dir| dir.is_dir()));
    let first = fs::read_to_string("/proc/1/cgroup")?;
    let above = above(&first);
    let mut found = Vec::new();
    for dir in hierarchies.iter().flat_map(|hierarchy| above.iter().map(|group| hierarchy.join(group))) {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|group| belongs(group, name)) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Below which groups LXC makes its own, by what the kernel says of process 1: below that one's, and not below the scope
/// in which systemd has it.
fn above(text: &str) -> BTreeSet<&str> {
    let group = |line| Some(controllers_and_path(line)?.1.trim_end_matches("/init.scope").trim_start_matches('/'));
    text.lines().filter_map(group).chain([""]).collect()
}

fn belongs(group: &str, name: &str) -> bool {
    [MONITOR, PAYLOAD].iter().any(|kind| is_of(group, kind, name))
}

fn is_of(group: &str, kind: &str, name: &str) -> bool {
    group.strip_prefix(kind).and_then(|rest| rest.strip_prefix(name)).is_some_and(|suffix| {
        suffix.is_empty()
            || suffix.strip_prefix('-').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// Kills what is left in the container's groups and removes them.
pub fn clean(name: &str) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let groups = leftovers(name)?;
        if groups.is_empty() {
            return Ok(());
        }
        for group in &groups {
            thaw_and_kill(group);
            remove_tree(group);
        }
        if Instant::now() > deadline {
            let what = format!("cgroup `{}` cannot be removed", groups[0].display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn thaw_and_kill(group: &Path) {
    // Which of these files there are depends on the hierarchy.
    let _ = fs::write(group.join("freezer.state"), "THAWED");
    let _ = fs::write(group.join("cgroup.kill"), "1");
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = pid.parse() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            thaw_and_kill(&entry.path());
            remove_tree(&entry.path());
        }
    }
    // A group whose processes are not gone yet is tried again.
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_by_the_kernel_and_cut_at_the_container() {
        let text = "8:pids:/lxc.payload.fl-a-x-1\n1:cpu,cpuacct:/lxc.payload.fl-a-x-1/sub/deep\n0::/\n";
        let expected = [("pids", "/lxc.payload.fl-a-x-1"), ("cpu,cpuacct", "/lxc.payload.fl-a-x-1")];
        assert_eq!(parse(text, "fl-a-x-1"), expected.map(|(name, path)| (name.to_owned(), path.to_owned())));
    }

    #[test]
    fn on_a_host_that_is_a_container_its_own_group_is_none_of_a_containers() {
        let text = "8:pids:/lxc.payload.host/lxc.payload.fl-a-x-2/lxc.payload.inner\n4:memory:/lxc.payload.host\n";
        let expected = [("pids".to_owned(), "/lxc.payload.host/lxc.payload.fl-a-x-2".to_owned())];
        // Beside a stale one LXC has chosen another name.
        assert_eq!(parse(text, "fl-a-x"), expected);
        assert_eq!(parse(text, "fl-a"), []);
        let host = "8:pids:/lxc.payload.host/init.scope\n4:memory:/lxc.payload.host\n1:cpu:/\n0::/init.scope\n";
        assert_eq!(above(host), BTreeSet::from(["", "lxc.payload.host"]));
    }

    #[test]
    fn only_the_groups_of_a_container_itself_are_leftovers_of_it() {
        assert!(belongs("lxc.monitor.fl-a-web.c", "fl-a-web.c"));
        assert!(belongs("lxc.payload.fl-a-web.c-12", "fl-a-web.c"));
        assert!(!belongs("lxc.payload.fl-a-web-12.c", "fl-a-web.c"));
        assert!(!belongs("lxc.payload.fl-a-web.c-two", "fl-a-web.c"));
        assert!(!belongs("fl-a-web.c", "fl-a-web.c"));
    }

    #[test]
    fn weights_become_shares_in_proportion() {
        let shares = |cpu_weight| {
            let limits = Limits { cpu_weight, ..Limits::default() };
            Layout::Legacy { swap: false }.limits(&limits).pop().unwrap().1
        };
        assert_eq!((shares(100), shares(200), shares(0)), (1024, 2048, 10));
    }
}
