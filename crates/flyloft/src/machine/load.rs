//! How much of the machine is in use at the moment, and how much the daemon itself holds.

use super::read;

/// Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// `MemAvailable`: what could be given to somebody without swapping.
    pub available: u64,
    pub swap_total: u64,
    pub swap_used: u64,
    /// What is in zswap and in zram: the size before it was compressed, and what that takes of the memory.
    pub zswap: Compressed,
    pub zram: Compressed,
    /// None where the kernel does not measure it.
    pub pressure: Option<Pressure>,
    /// What this process holds.
    pub resident: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressed {
    pub stored: u64,
    pub pool: u64,
}

/// Seconds since the boot in which some, or all, tasks waited for memory (`Documentation/accounting/psi.rst` of the
/// kernel).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    pub some: f64,
    pub full: f64,
}

impl Load {
    pub fn look() -> Self {
        let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let zram = devices
            .filter(|device| device.file_name().to_string_lossy().starts_with("zram"))
            .map(|device| mm_stat(&read(device.path().join("mm_stat"))))
            .fold(Compressed::default(), Compressed::plus);
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
        let statm = read("/proc/self/statm");
        let resident = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * page;
        let pressure = pressure(&read("/proc/pressure/memory"));
        Self { zram, resident, pressure, ..Self::of_meminfo(&read("/proc/meminfo")) }
    }

    /// What `/proc/meminfo` says (proc(5); `Documentation/filesystems/proc.rst` of the kernel for zswap).
    fn of_meminfo(meminfo: &str) -> Self {
        let of = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
        };
        let swap_total = of("SwapTotal");
        Self {
            available: of("MemAvailable"),
            swap_total,
            swap_used: swap_total.saturating_sub(of("SwapFree")),
            zswap: Compressed { stored: of("Zswapped"), pool: of("Zswap") },
            ..Self::default()
        }
    }
}

impl Compressed {
    fn plus(self, other: Self) -> Self {
        Self { stored: self.stored + other.stored, pool: self.pool + other.pool }
    }
}

/// A zram device's `mm_stat` (`Documentation/admin-guide/blockdev/zram.rst` of the kernel): the size before it was
/// compressed is the first column, and what it takes of the memory the third.
fn mm_stat(text: &str) -> Compressed {
    let columns: Vec<u64> = text.split_whitespace().map_while(|column| column.parse().ok()).collect();
    match columns[..] {
        [stored, _, pool, ..] => Compressed { stored, pool },
        _ => Compressed::default(),
    }
}

fn pressure(text: &str) -> Option<Pressure> {
    let of = |who: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(who))?;
        let micros: u64 = line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()?;
        Some(micros as f64 / 1e6)
    };
    Some(Pressure { some: of("some ")?, full: of("full ")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read_in_bytes_and_seconds() {
        let meminfo =
            "MemTotal: 100 kB\nMemAvailable:    40 kB\nSwapTotal: 20 kB\nSwapFree: 5 kB\nZswap: 2 kB\nZswapped: 6 kB\n";
        let load = Load::of_meminfo(meminfo);
        assert_eq!((load.available, load.swap_total, load.swap_used), (40 << 10, 20 << 10, 15 << 10));
        assert_eq!(load.zswap, Compressed { stored: 6 << 10, pool: 2 << 10 });
        assert_eq!(mm_stat("  4096  74 12288  0 12288  0  0  0  0\n"), Compressed { stored: 4096, pool: 12_288 });
        let psi = "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n";
        assert_eq!(pressure(psi), Some(Pressure { some: 2.5, full: 0.5 }));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn this_process_holds_something() {
        assert!(Load::look().resident > 1 << 20);
    }
}
