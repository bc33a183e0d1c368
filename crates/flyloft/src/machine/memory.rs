//! Memory, and where pages go that are not needed now: zram, zswap, swap files and partitions.

use std::path::{Path, PathBuf};

use super::load::Load;
use super::{kernel, read};

/// There is something in it for as long as zswap is switched off because something is written out past it.
pub const PASSED_BY: &str = "/run/flyloft-lxc/.zswap";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub total: u64,
    pub swaps: Vec<Swap>,
    pub zram: Zram,
    pub zswap: Zswap,
    /// What compressed memory holds by now, of either kind.
    pub pool: Pool,
}

/// A line of `/proc/swaps` (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    pub used: u64,
}

/// Whether there is compressed memory to swap to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zram {
    #[default]
    Unknown,
    /// In the kernel or loadable.
    Possible,
    /// The kernel has none.
    Missing,
}

/// Whether what goes to the swaps is compressed and kept in memory at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zswap {
    /// The kernel has none.
    #[default]
    Missing,
    Off,
    On,
}

impl Zswap {
    pub fn now() -> Self {
        Self::at(Path::new("/sys/module/zswap/parameters/enabled"), Path::new(PASSED_BY))
    }

    /// For a moment's sake it is not taken for off.
    fn at(switch: &Path, passed_by: &Path) -> Self {
        let is_on = || match read(switch).trim() {
            "Y" => Some(true),
            "N" => Some(false),
            _ => None,
        };
        let is_passed_by = || std::fs::metadata(passed_by).is_ok_and(|note| note.len() > 0);
        match is_on() {
            None => Zswap::Missing,
            // That moment may have ended between the two looks.
            Some(true) => Zswap::On,
            Some(false) if is_passed_by() || is_on() == Some(true) => Zswap::On,
            Some(false) => Zswap::Off,
        }
    }
}

impl Swap {
    pub fn is_zram(&self) -> bool {
        self.path.starts_with("/dev") && self.path.to_string_lossy().starts_with("/dev/zram")
    }
}

impl Memory {
    pub fn look() -> Self {
        let built_in = Path::new("/sys/class/zram-control").exists();
        Self {
            total: bytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
            swaps: swaps(&read("/proc/swaps")),
            zram: if built_in || kernel::has_module("zram") { Zram::Possible } else { Zram::Missing },
            zswap: Zswap::now(),
            pool: Load::look().pool(),
        }
    }

    /// Whether what sleeps can be in compressed memory.
    pub fn compresses(&self) -> bool {
        self.compressed() > 0 || self.zswap == Zswap::On && self.on_disk() > 0
    }

    /// Bytes of swap on zram.
    pub fn compressed(&self) -> u64 {
        self.swaps.iter().filter(|swap| swap.is_zram()).map(|swap| swap.size).sum()
    }

    /// Bytes of swap on disks.
    pub fn on_disk(&self) -> u64 {
        self.swaps.iter().filter(|swap| !swap.is_zram()).map(|swap| swap.size).sum()
    }
}

/// Compressed memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Bytes as they were before.
    pub stored: u64,
    /// Bytes that they take now.
    pub taken: u64,
}

impl Pool {
    pub fn add(&mut self, other: Pool) {
        (self.stored, self.taken) = (self.stored + other.stored, self.taken + other.taken);
    }

    /// What `stored` bytes of it take, if they compress like all of it.
    pub fn share(&self, stored: u64) -> u64 {
        let share = u128::from(stored) * u128::from(self.taken) / u128::from(self.stored.max(1));
        // A pool that is nearly empty takes more than what is in it.
        (share as u64).min(stored)
    }
}

/// `mm_stat` of a zram device: what is stored, its size compressed, what the pool takes (the kernel's zram.rst).
pub fn zram_pool(mm_stat: &str) -> Pool {
    let number = |at| mm_stat.split_whitespace().nth(at).and_then(|text| text.parse().ok()).unwrap_or(0);
    Pool { stored: number(0), taken: number(2) }
}

/// Where the machine swaps to at the moment.
pub fn swaps_now() -> Vec<PathBuf> {
    swaps(&read("/proc/swaps")).into_iter().map(|swap| swap.path).collect()
}

/// A line of `/proc/meminfo`.
pub fn bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

pub fn swaps(table: &str) -> Vec<Swap> {
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        // The kernel writes spaces in names as octal escapes.
        let path = fields.next()?.replace("\\040", " ").into();
        let size = fields.nth(1)?.parse::<u64>().ok()? << 10;
        let used = fields.next()?.parse::<u64>().ok()? << 10;
        Some(Swap { path, size, used })
    };
    table.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_are_told_apart_by_where_pages_go() {
        let table = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/zram0                              partition\t262140\t\t12\t\t100\n\
                     /var/lib/flyloft\\040x/swap              file\t\t1048572\t\t0\t\t-2\n";
        let memory = Memory { swaps: swaps(table), ..Memory::default() };
        assert_eq!(memory.compressed(), 262_140 << 10);
        assert_eq!(memory.on_disk(), 1_048_572 << 10);
        assert_eq!(memory.swaps[0].used, 12 << 10);
        assert_eq!(memory.swaps[1].path, Path::new("/var/lib/flyloft x/swap"));
    }

    #[test]
    fn zswap_is_not_off_while_something_is_written_out_past_it() {
        let dir = tempfile::tempdir().unwrap();
        let (switch, note) = (dir.path().join("enabled"), dir.path().join("note"));
        let now = || Zswap::at(&switch, &note);
        assert_eq!(now(), Zswap::Missing);
        std::fs::write(&switch, "Y\n").unwrap();
        assert_eq!(now(), Zswap::On);
        std::fs::write(&switch, "N\n").unwrap();
        assert_eq!(now(), Zswap::Off);
        std::fs::write(&note, "").unwrap();
        assert_eq!(now(), Zswap::Off);
        std::fs::write(&note, "1").unwrap();
        assert_eq!(now(), Zswap::On);
    }

    #[test]
    fn the_total_is_in_bytes() {
        let meminfo = "MemTotal:         491832 kB\nMemFree: 1 kB\nZswap: 2 kB\nZswapped: 5 kB\n";
        assert_eq!(bytes(meminfo, "MemTotal"), Some(491_832 << 10));
        assert_eq!(bytes(meminfo, "Zswap"), Some(2 << 10));
        assert_eq!(bytes("", "MemTotal"), None);
    }

    #[test]
    fn a_part_of_the_pool_takes_its_share_of_it() {
        let pool = zram_pool("1048576  400000 419430 0 419430 0 0 16 16\n");
        assert_eq!(pool, Pool { stored: 1 << 20, taken: 419_430 });
        assert_eq!(pool.share(1 << 19), 209_715);
        assert_eq!(Pool { stored: 1, taken: 4096 }.share(1), 1);
        assert_eq!(zram_pool("").share(100), 0);
    }
}
