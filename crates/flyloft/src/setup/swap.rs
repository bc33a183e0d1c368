//! Where the memory of sleeping environments goes: compressed memory first, then a disk.
//!
//! Swap that is there already is adopted. What is missing is a swap file beside the state, and zswap in front of it: it
//! takes no size to be decided beforehand, writes out by itself what is coldest, and leaves a way to the disk for those
//! that sleep deeply. Where there is no zswap, or no disk to swap to, compressed memory is a zram device. Nothing of it
//! survives a reboot, so that the service's unit runs this at every start.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use thiserror::Error;

use super::Step;
use crate::exec::{Cmd, ExecError};
use crate::machine::memory::{Zram, Zswap};
use crate::machine::storage::Filesystem;
use crate::machine::{Memory, Storage};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Compressed memory is filled before a disk.
const ZRAM_PRIORITY: &str = "100";

/// What to do about one kind of swap.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// Make it, of this many bytes.
    Make(u64),
    AlreadySo(String),
    Left(String),
}

#[derive(Debug, Error)]
enum SwapError {
    #[error("the kernel gave no zram device")]
    NoDevice,
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub async fn arrange(memory: &Memory, storage: &Storage) -> Vec<Step> {
    let path = storage.state_dir.join("swap");
    let disk = match plan_file(memory, storage, &path) {
        Plan::Make(size) => match make_file(&path, size).await {
            Ok(size) => Step::done("swap on disk", format!("{} MiB in `{}`", size / MIB, path.display())),
            Err(error) => Step::because("swap on disk", format!("failed to use `{}`", path.display()), &error),
        },
        Plan::AlreadySo(what) => Step::already("swap on disk", what),
        Plan::Left(why) => Step::left("swap on disk", why),
    };
    // With the file that was just made.
    let memory = Memory { swaps: Memory::look().swaps, ..memory.clone() };
    let compressed = match plan_compression(&memory) {
        Compression::Zswap => match switch_zswap_on(Path::new(ZSWAP)) {
            Ok(algorithm) => Step::done("compressed memory", format!("zswap, with {algorithm}")),
            Err(error) => Step::because("compressed memory", "failed to switch zswap on", &error),
        },
        Compression::Zram(size) => match make_zram(size).await {
            Ok(device) => Step::done("compressed memory", format!("{} MiB at {device}", size / MIB)),
            // Containers of other systems show zram and refuse it.
            Err(error) => Step::because("compressed memory", "failed to set up zram", &error),
        },
        Compression::AlreadySo(what) => Step::already("compressed memory", what),
        Compression::Left(why) => Step::left("compressed memory", why),
    };
    vec![disk, compressed]
}

/// What to do about compressed memory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Compression {
    Zswap,
    /// Of this many bytes.
    Zram(u64),
    AlreadySo(String),
    Left(String),
}

/// A zram device gets half of the memory, of which it takes less than half again: pages compress to about 40 %.
fn plan_compression(memory: &Memory) -> Compression {
    let half = (memory.total / 2).clamp(64 * MIB, 8 * GIB) / MIB * MIB;
    match (memory.compressed(), memory.on_disk()) {
        (0, _) if memory.compresses() => Compression::AlreadySo("zswap compresses what goes to disk".to_owned()),
        (0, disk) if disk > 0 && memory.zswap == Zswap::Off => Compression::Zswap,
        (0, _) if memory.zram == Zram::Missing => Compression::Left("the kernel has neither zswap nor zram".to_owned()),
        (0, _) => Compression::Zram(half),
        (zram, _) => Compression::AlreadySo(format!("{} MiB of zram", zram / MIB)),
    }
}

const ZSWAP: &str = "/sys/module/zswap/parameters";

/// Gives the algorithm, of those that the kernel has the one that wakes fastest.
fn switch_zswap_on(parameters: &Path) -> io::Result<String> {
    let set = |name: &str, value: &str| fs::write(parameters.join(name), value);
    let _ = ["lz4", "lzo-rle", "zstd"].iter().find(|algorithm| set("compressor", algorithm).is_ok());
    // More than the kernel's own fifth, since memory that sleeps is what this machine is for. Kernels before 6.8 write
    // out only when that is full.
    set("max_pool_percent", "30")?;
    let _ = set("shrinker_enabled", "Y");
    set("enabled", "Y")?;
    Ok(fs::read_to_string(parameters.join("compressor"))?.trim().to_owned())
}

/// As much as the memory, twice as much on small machines, and never more than a quarter of the free disk. `path` is
/// our file, which stays as it is once it is in use: to replace it would be to read all of it back.
fn plan_file(memory: &Memory, storage: &Storage, path: &Path) -> Plan {
    let wanted = if memory.total < 2 * GIB { memory.total * 2 } else { memory.total };
    let wanted = wanted.clamp(GIB, 16 * GIB) / MIB * MIB;
    let there = memory.on_disk();
    if there >= wanted / 2 || memory.swaps.iter().any(|swap| swap.path == path) {
        return Plan::AlreadySo(format!("{} MiB", there / MIB));
    }
    if !matches!(storage.filesystem, Filesystem::Ext | Filesystem::Xfs) {
        return Plan::Left("swap files need ext4 or xfs; add a swap partition if you can".to_owned());
    }
    let affordable = storage.space.free / 4 / MIB * MIB;
    if affordable < 256 * MIB {
        return Plan::Left(format!("only {} MiB of disk are free", storage.space.free / MIB));
    }
    Plan::Make(wanted.min(affordable))
}

async fn make_zram(size: u64) -> Result<String, SwapError> {
    // Built into the kernel it is there without; an error shows below.
    let _ = Cmd::new("modprobe").arg("zram").run().await;
    let name = free_zram()?;
    let block = Path::new("/sys/block").join(&name);
    // lz4 wakes fastest; where it is missing, the kernel's default is nearly as good.
    if fs::read_to_string(block.join("comp_algorithm")).is_ok_and(|known| offers(&known, "lz4")) {
        fs::write(block.join("comp_algorithm"), "lz4")?;
    }
    fs::write(block.join("disksize"), size.to_string())?;
    let device = format!("/dev/{name}");
    Cmd::new("mkswap").arg(&device).run().await?;
    Cmd::new("swapon").args(["--priority", ZRAM_PRIORITY, &device]).run().await?;
    Ok(device)
}

/// The name of a zram device that nobody has given a size, made where there is none (the kernel's zram.rst).
fn free_zram() -> Result<String, SwapError> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = fs::read_to_string(entry.path().join("disksize"));
        if name.starts_with("zram") && size.is_ok_and(|size| size.trim() == "0") {
            return Ok(name);
        }
    }
    let number = fs::read_to_string("/sys/class/zram-control/hot_add").map_err(|_| SwapError::NoDevice)?;
    Ok(format!("zram{}", number.trim()))
}

/// Whether `lzo [lzo-rle] lz4` has an algorithm.
fn offers(known: &str, algorithm: &str) -> bool {
    known.split_whitespace().any(|name| name.trim_matches(['[', ']']) == algorithm)
}

/// Switches the swap file on, after making it if it is not there. Gives its size.
async fn make_file(path: &Path, size: u64) -> Result<u64, SwapError> {
    // One from before a reboot is as good as a new one, unless the machine went down while it was made.
    if path.is_file() && swap_on(path).await.is_ok() {
        return Ok(path.metadata()?.len());
    }
    let fresh = path.with_extension("new");
    let made = async {
        allocate(&fresh, size)?;
        Cmd::new("mkswap").arg(&fresh).run().await?;
        fs::rename(&fresh, path)?;
        swap_on(path).await
    }
    .await;
    if made.is_err() {
        // What is in use cannot be removed; the kernel sees to that.
        let _ = fs::remove_file(&fresh);
        let _ = fs::remove_file(path);
    }
    made.map(|()| size)
}

async fn swap_on(path: &Path) -> Result<(), SwapError> {
    Cmd::new("swapon").arg(path).run().await?;
    Ok(())
}

fn allocate(path: &Path, size: u64) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let size = size.try_into().map_err(io::Error::other)?;
    nix::fcntl::posix_fallocate(&file, 0, size)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use flyloft_core::disk::Space;

    use super::*;
    use crate::machine::memory::Swap;

    const OURS: &str = "/var/lib/flyloft/swap";

    fn memory(total: u64) -> Memory {
        Memory { total, zram: Zram::Possible, zswap: Zswap::Off, ..Memory::default() }
    }

    fn with_swap(total: u64, path: &str, size: u64) -> Memory {
        Memory { swaps: vec![Swap { path: path.into(), size, used: 0 }], ..memory(total) }
    }

    fn disk(free: u64) -> Storage {
        Storage { filesystem: Filesystem::Ext, space: Space { free, ..Space::default() }, ..Storage::default() }
    }

    #[test]
    fn the_smallest_server_gets_twice_its_memory_on_disk() {
        let small = memory(480 * MIB);
        assert_eq!(plan_compression(&small), Compression::Zram(240 * MIB), "there is no disk yet");
        assert_eq!(plan_file(&small, &disk(8 * GIB), OURS.as_ref()), Plan::Make(GIB));
        assert_eq!(
            plan_file(&small, &disk(2 * GIB), OURS.as_ref()),
            Plan::Make(512 * MIB),
            "a quarter of what is free"
        );
    }

    #[test]
    fn a_large_server_gets_its_memory_once() {
        let large = memory(24 * GIB);
        assert_eq!(plan_compression(&large), Compression::Zram(8 * GIB));
        assert_eq!(plan_file(&large, &disk(500 * GIB), OURS.as_ref()), Plan::Make(16 * GIB));
    }

    #[test]
    fn swap_that_is_there_is_adopted() {
        let partition = with_swap(4 * GIB, "/dev/vda3", 2 * GIB);
        assert_eq!(plan_file(&partition, &disk(100 * GIB), OURS.as_ref()), Plan::AlreadySo("2048 MiB".to_owned()));
        assert_eq!(plan_compression(&partition), Compression::Zswap);
        let without = Memory { zswap: Zswap::Missing, ..partition.clone() };
        assert_eq!(plan_compression(&without), Compression::Zram(2 * GIB), "a disk is no compressed memory");
        let zram = with_swap(4 * GIB, "/dev/zram0", 2 * GIB);
        assert!(matches!(plan_compression(&zram), Compression::AlreadySo(_)));
        assert_eq!(
            plan_file(&zram, &disk(100 * GIB), OURS.as_ref()),
            Plan::Make(4 * GIB),
            "compressed memory is no disk"
        );
        let zswap = Memory { zswap: Zswap::On, ..partition };
        assert!(matches!(plan_compression(&zswap), Compression::AlreadySo(_)));
        let nowhere = Memory { swaps: Vec::new(), ..zswap };
        assert_eq!(plan_compression(&nowhere), Compression::Zram(2 * GIB), "zswap alone holds nothing");
    }

    #[test]
    fn our_own_file_is_kept_when_the_memory_has_grown() {
        let grown = with_swap(8 * GIB, OURS, GIB);
        assert_eq!(plan_file(&grown, &disk(100 * GIB), OURS.as_ref()), Plan::AlreadySo("1024 MiB".to_owned()));
    }

    #[test]
    fn what_cannot_be_is_left() {
        assert!(matches!(plan_compression(&Memory { zram: Zram::Missing, ..memory(GIB) }), Compression::Left(_)));
        let btrfs = Storage { filesystem: Filesystem::Btrfs, ..disk(100 * GIB) };
        assert!(matches!(plan_file(&memory(GIB), &btrfs, OURS.as_ref()), Plan::Left(_)));
        assert!(matches!(plan_file(&memory(GIB), &disk(900 * MIB), OURS.as_ref()), Plan::Left(_)));
    }

    #[test]
    fn a_swap_file_is_private_and_has_no_holes() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swap");
        allocate(&path, MIB).unwrap();
        let meta = path.metadata().unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (MIB, 0o600));
        assert!(meta.blocks() * 512 >= MIB, "swapon refuses files with holes");
    }

    #[test]
    fn zswap_is_switched_on_with_what_the_kernel_offers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["compressor", "max_pool_percent", "enabled"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(switch_zswap_on(dir.path()).unwrap(), "lz4");
        assert_eq!(fs::read_to_string(dir.path().join("enabled")).unwrap(), "Y");
    }

    #[test]
    fn lz4_is_chosen_where_it_is_offered() {
        assert!(offers("lzo [lzo-rle] lz4 zstd\n", "lz4"));
        assert!(offers("[lz4] zstd\n", "lz4"));
        assert!(!offers("lzo [lzo-rle] lz4hc\n", "lz4"));
    }
}
