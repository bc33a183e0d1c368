//! Memory, and where pages go that are not needed now: zram, zswap, swap files and partitions.

use std::path::{Path, PathBuf};

use super::{kernel, read};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub total: u64,
    pub swaps: Vec<Swap>,
    pub zram: Zram,
    /// Whether zswap compresses what goes to the swaps.
    pub zswap: bool,
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

impl Swap {
    pub fn is_zram(&self) -> bool {
        self.path.starts_with("/dev") && self.path.to_string_lossy().starts_with("/dev/zram")
    }
}

impl Memory {
    pub fn look() -> Self {
        let built_in = Path::new("/sys/class/zram-control").exists();
        Self {
            total: total(&read("/proc/meminfo")).unwrap_or(0),
            swaps: swaps(&read("/proc/swaps")),
            zram: if built_in || kernel::has_module("zram") { Zram::Possible } else { Zram::Missing },
            zswap: read("/sys/module/zswap/parameters/enabled").trim() == "Y",
        }
    }

    /// Bytes of swap in compressed memory.
    pub fn compressed(&self) -> u64 {
        self.swaps.iter().filter(|swap| swap.is_zram()).map(|swap| swap.size).sum()
    }

    /// Bytes of swap on disks.
    pub fn on_disk(&self) -> u64 {
        self.swaps.iter().filter(|swap| !swap.is_zram()).map(|swap| swap.size).sum()
    }
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

fn swaps(table: &str) -> Vec<Swap> {
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
    fn the_total_is_in_bytes() {
        assert_eq!(total("MemTotal:         491832 kB\nMemFree: 1 kB\n"), Some(491_832 << 10));
        assert_eq!(total(""), None);
    }
}
