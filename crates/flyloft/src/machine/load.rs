//! How much of the machine's memory is in use at the moment.

use std::path::Path;

use super::memory::{Pool, Swap, Zswap, bytes, swaps, zram_pool};
use super::read;

/// What is free and what is taken at the moment, in bytes. Read with a few system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// What new work can have without swapping, as the kernel reckons.
    pub available: u64,
    pub swap_total: u64,
    pub swap_free: u64,
    pub zram: Pool,
    pub zswap: Pool,
    /// What zswap may take: nothing where it is off, or has no disk behind it.
    pub zswap_most: u64,
    /// `None` where the kernel does not measure it.
    pub pressure: Option<Pressure>,
}

/// `/proc/pressure/memory` (the kernel's psi.rst): time in which some, or all, of those who had work to do waited for
/// memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Per cent of the last ten seconds.
    pub some: f32,
    /// Seconds since the boot.
    pub some_total: f64,
    pub full_total: f64,
}

impl Load {
    pub fn look() -> Self {
        let meminfo = read("/proc/meminfo");
        let bytes = |name| bytes(&meminfo, name).unwrap_or(0);
        let swaps = swaps(&read("/proc/swaps"));
        let mut zram = Pool::default();
        for swap in swaps.iter().filter(|swap| swap.is_zram()) {
            let name = swap.path.file_name().unwrap_or_default();
            zram.add(zram_pool(&read(Path::new("/sys/block").join(name).join("mm_stat"))));
        }
        Self {
            available: bytes("MemAvailable"),
            swap_total: bytes("SwapTotal"),
            swap_free: bytes("SwapFree"),
            zram,
            zswap: Pool { stored: bytes("Zswapped"), taken: bytes("Zswap") },
            zswap_most: if swaps.iter().all(Swap::is_zram) { 0 } else { zswap_most(bytes("MemTotal")) },
            pressure: pressure(&read("/proc/pressure/memory")),
        }
    }

    /// Compressed memory of both kinds.
    pub fn pool(&self) -> Pool {
        let mut pool = self.zram;
        pool.add(self.zswap);
        pool
    }
}

/// What zswap may take of so much memory (the kernel's zswap.rst).
fn zswap_most(total: u64) -> u64 {
    let percent = || read("/sys/module/zswap/parameters/max_pool_percent").trim().parse().unwrap_or(0);
    if Zswap::now() == Zswap::On { total / 100 * percent() } else { 0 }
}

fn pressure(text: &str) -> Option<Pressure> {
    let field = |kind: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_whitespace().find_map(|field| field.strip_prefix(name))?.parse::<f64>().ok()
    };
    let total = |kind| Some(field(kind, "total=")? / 1e6);
    Some(Pressure { some: field("some ", "avg10=")? as f32, some_total: total("some ")?, full_total: total("full ")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_that_of_the_last_ten_seconds_and_that_since_the_boot() {
        let text = "some avg10=1.50 avg60=0.10 avg300=0.00 total=2500000\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=500000\n";
        assert_eq!(pressure(text), Some(Pressure { some: 1.5, some_total: 2.5, full_total: 0.5 }));
        assert_eq!(pressure(""), None);
    }
}
