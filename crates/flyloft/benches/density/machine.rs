//! The machine: what is taken of it, and what a run needs of it that it may not have.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use flyloft::machine::Memory;
use flyloft::machine::load::Load;
use nix::fcntl::{Flock, FlockArg};

use crate::interrupt;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bytes that one environment may have swapped out, and that one which is awake may hold.
const SWAPPED: u64 = 48 * MIB;
const AWAKE: u64 = 96 * MIB;

/// Bytes of the disk that stay free: below its own floor the daemon stops what writes.
const FLOOR: u64 = 4 * GIB;

/// Kernel parameters that `flyloft setup` sets as well: each environment is a neighbour of the host, twice.
const PARAMETERS: [&str; 6] = [
    "ipv4/neigh/default/gc_thresh3",
    "ipv4/neigh/default/gc_thresh2",
    "ipv4/neigh/default/gc_thresh1",
    "ipv6/neigh/default/gc_thresh3",
    "ipv6/neigh/default/gc_thresh2",
    "ipv6/neigh/default/gc_thresh1",
];
const NEIGHBOURS: u64 = 8192;

/// What the run has taken, given back when this goes.
pub struct Claims {
    /// Held, so that no other run takes it up.
    _lock: Flock<File>,
    swap: Option<PathBuf>,
    /// What they were before.
    parameters: Vec<(PathBuf, String)>,
}

impl Claims {
    pub fn make(home: &Path, environments: usize) -> Result<Self> {
        fs::create_dir_all(home).with_context(|| format!("failed to make `{}`", home.display()))?;
        let lock = File::create(home.join("run"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| error)
            .context("another run goes on, whose swap and environments are in the way")?;
        let swap = home.join("swap");
        let is_used = || Memory::look().swaps.iter().any(|known| known.path == swap);
        if is_used() {
            println!("taking up the swap file that an earlier run has left");
        } else {
            let _ = fs::remove_file(&swap);
            let missing = (environments as u64 * SWAPPED).saturating_sub(Load::look().swap_free);
            if missing > 0 {
                make_swap(&swap, missing.next_multiple_of(GIB))?;
            }
        }
        let mut claims = Self { _lock: lock, swap: is_used().then_some(swap), parameters: Vec::new() };
        for name in PARAMETERS {
            let file = Path::new("/proc/sys/net").join(name);
            let Ok(before) = fs::read_to_string(&file) else { continue };
            if before.trim().parse::<u64>().is_ok_and(|before| before < NEIGHBOURS) {
                fs::write(&file, NEIGHBOURS.to_string())
                    .with_context(|| format!("failed to set `{}`", file.display()))?;
                claims.parameters.push((file, before));
            }
        }
        Ok(claims)
    }

    /// How many may be awake at once.
    pub fn awake(&self) -> usize {
        (Load::look().available / 2 / AWAKE) as usize
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        // The lowest first, as the kernel wants them in order.
        for (file, before) in self.parameters.iter().rev() {
            let _ = fs::write(file, before.trim());
        }
        let Some(swap) = &self.swap else { return };
        println!("removing the swap file `{}`", swap.display());
        // Ctrl-C by somebody who does not want to wait for the end of it is for nobody else.
        match Command::new("swapoff").arg(swap).process_group(0).status() {
            Ok(status) if status.success() => drop(fs::remove_file(swap)),
            _ => eprintln!("error: `{}` is in use still; try `swapoff` later, and remove it then", swap.display()),
        }
    }
}

fn make_swap(path: &Path, size: u64) -> Result<()> {
    let dir = path.parent().context("a file is in a directory")?;
    let free = nix::sys::statvfs::statvfs(dir)?;
    let free = free.blocks_available() * free.fragment_size();
    ensure!(
        free >= size + FLOOR,
        "what sleeps needs {} GiB more of swap, and `{}` has {} GiB free, of which {} stay free: \
         take fewer environments, or add swap yourself",
        size / GIB,
        dir.display(),
        free / GIB,
        FLOOR / GIB
    );
    println!("adding {} GiB of swap in `{}`, which goes again at the end", size / GIB, path.display());
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    drop(file);
    let made = || -> Result<()> {
        for command in [["fallocate", "--length"].as_slice(), &["mkswap"], &["swapon"]] {
            let mut process = Command::new(command[0]);
            // One that is cut off in the middle may have switched it on already.
            process.args(&command[1..]).process_group(0);
            if command.len() > 1 {
                process.arg(size.to_string());
            }
            let output = process.arg(path).output()?;
            ensure!(output.status.success(), "`{}`: {}", command[0], String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    };
    made().inspect_err(|_| drop(fs::remove_file(path))).context("failed to add swap")
}

/// What is taken of the machine's memory, in bytes, by kinds. `taken` is all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub taken: f64,
    /// Compressed memory, and what is in it.
    pub pool: f64,
    pub stored: f64,
    /// Of processes.
    pub anonymous: f64,
    pub slab: f64,
    pub page_tables: f64,
    pub stacks: f64,
    pub per_cpu: f64,
    /// Swapped out, compressed or not. Not among what is taken.
    pub swapped: f64,
}

impl Usage {
    /// When the machine has come to rest: the median of some looks.
    pub fn settled() -> Result<Self> {
        pause(Duration::from_secs(3))?;
        let mut looks = Vec::new();
        for _ in 0..9 {
            looks.push(Self::look());
            pause(Duration::from_millis(200))?;
        }
        looks.sort_by(|a, b| a.taken.total_cmp(&b.taken));
        Ok(looks[looks.len() / 2])
    }

    fn look() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.unwrap_or(0.0) * 1024.0
        };
        let pool = Load::look().pool();
        Self {
            taken: bytes("MemTotal") - bytes("MemAvailable"),
            pool: pool.taken as f64,
            stored: pool.stored as f64,
            anonymous: bytes("AnonPages"),
            slab: bytes("SUnreclaim"),
            page_tables: bytes("PageTables") + bytes("SecPageTables"),
            stacks: bytes("KernelStack"),
            per_cpu: bytes("Percpu"),
            swapped: bytes("SwapTotal") - bytes("SwapFree"),
        }
    }

    pub fn since(self, before: Self) -> Self {
        self.with(before, |now, then| now - then)
    }

    pub fn each(self, count: usize) -> Self {
        self.with(self, |all, _| all / count.max(1) as f64)
    }

    /// What is neither of a process, compressed, nor of one of the kinds that the kernel counts.
    pub fn rest(self) -> f64 {
        self.taken - self.pool - self.anonymous - self.slab - self.page_tables - self.stacks - self.per_cpu
    }

    fn with(self, other: Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            taken: combine(self.taken, other.taken),
            pool: combine(self.pool, other.pool),
            stored: combine(self.stored, other.stored),
            anonymous: combine(self.anonymous, other.anonymous),
            slab: combine(self.slab, other.slab),
            page_tables: combine(self.page_tables, other.page_tables),
            stacks: combine(self.stacks, other.stacks),
            per_cpu: combine(self.per_cpu, other.per_cpu),
            swapped: combine(self.swapped, other.swapped),
        }
    }
}

/// Bytes that the control groups of containers hold whose names have this in them, LXC's monitors included and compressed
/// memory aside. What nobody is charged for is not in there; what happens elsewhere on the machine is not, either.
pub fn charged(to: &str) -> Result<f64> {
    let legacy = Path::new("/sys/fs/cgroup/memory");
    let root = if legacy.exists() { legacy } else { Path::new("/sys/fs/cgroup") };
    let mut all = 0.0;
    for group in fs::read_dir(root)? {
        let group = group?;
        if !group.file_name().to_string_lossy().contains(to) {
            continue;
        }
        let bytes =
            |file: &str| -> Option<f64> { fs::read_to_string(group.path().join(file)).ok()?.trim().parse().ok() };
        let held = bytes("memory.usage_in_bytes").or_else(|| bytes("memory.current")).unwrap_or_default();
        all += held - bytes("memory.zswap.current").unwrap_or_default();
    }
    Ok(all)
}

/// Bytes of the disk below a state directory, the layers aside, which all environments of an app have in common. A file
/// with several names counts once.
pub fn disk(state: &Path) -> Result<u64> {
    let (layers, mut seen, mut bytes) = (state.join("engine/layers"), HashSet::new(), 0);
    let mut dirs = vec![state.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("failed to look into `{}`", dir.display()))? {
            let path = entry?.path();
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if path == layers || !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    Ok(bytes)
}

/// So many of them, other ones each time.
pub fn some(all: &[String], count: usize) -> Vec<String> {
    let mut all = all.to_vec();
    let mut state = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64) | 1;
    for at in (1..all.len()).rev() {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.swap(at, (state % (at as u64 + 1)) as usize);
    }
    all.truncate(count);
    all
}

/// Waits, unless it is interrupted.
pub fn pause(time: Duration) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(100).min(time - begun.elapsed().min(time)));
    }
    interrupt::check()
}
