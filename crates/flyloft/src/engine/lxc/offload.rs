//! Moves the memory of a frozen container out of the way.
//!
//! Only what is not a file's goes: the files of the layers are shared with siblings, and another that is awake would
//! have to read them from the disk again. Where the kernel can reclaim a group's anonymous memory alone (`swappiness=max`
//! on version 2, since 6.16), it is asked to. Elsewhere each process is paged out mapping by mapping, which takes three
//! things that the kernel does not do by itself:
//!
//! - Pages that processes have in common since a fork are passed over. They are parted first, within bounds: afterwards
//!   each process has a copy.
//! - Pages on their way to a disk stay in memory until somebody wants the room, though they are written. A group that has
//!   next to no files of its own is reclaimed as a whole then. In another one they are mapped once more and paged out
//!   again: what is unchanged on the disk goes at once, as long as half of the swap is free (the kernel's
//!   `vm_swap_full`): beyond that, what is mapped again gives its place in swap back.
//! - Pages in zswap do not move on to the disk. They are read in and paged out past it.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flyloft_core::lifecycle::Depth;

use super::advice::{Advice, Process};
use super::cgroup::Groups;
use super::pagemap::{self, Place, Run, Sight};
use super::pages::{self, Kind};
use super::zswap::{Bypass, Steady};
use crate::engine::{Held, Kept};
use crate::machine::Memory;
use crate::machine::load::Load;
use crate::machine::memory::Zswap;

/// Bytes that stay without anybody asking why.
const SOME: u64 = 1 << 20;

/// Bytes of swap that may be free while there is no room in it.
const DREGS: u64 = 16 << 20;

/// Rounds over all processes. The second finds nearly everything gone.
const ROUNDS: usize = 4;

/// Bytes that are not worth another round.
const LITTLE: u64 = 256 << 10;

/// Bytes that are moved at a time, some ten milliseconds of work.
const PIECE: u64 = 8 << 20;

/// Bytes of copies that parting may make. Beyond that more would be stored than there was.
const COPIES: u64 = 32 << 20;

/// How long written pages are waited for.
const WRITING: Duration = Duration::from_secs(5);

/// Whether somebody still wants it asleep. Whoever wakes it must not wait until all of it is gone.
#[derive(Clone, Default)]
pub struct Wanted(Arc<AtomicBool>);

/// Nobody wants it any more when this goes.
pub struct Wanting(Wanted);

impl Wanted {
    pub fn by_whoever_holds(&self) -> Wanting {
        Wanting(self.clone())
    }

    /// An error once nobody does.
    pub fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::Interrupted, "it is to wake")),
            false => Ok(()),
        }
    }
}

impl Drop for Wanting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// What was held the last time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past {
    /// After the last time, if it has been frozen since.
    pub before: Option<Held>,
    /// When it last slept, and has woken since.
    pub slept: Option<Held>,
}

/// Moves what the processes in `groups` hold, and LXC's `monitor` of them.
pub fn offload(groups: &Groups, monitor: i32, depth: Depth, past: Past, wanted: &Wanted) -> io::Result<Held> {
    let Past { before, slept } = past;
    // Before zswap is passed by, in both depths: of what goes to the disk much would stay in memory.
    if let Err(error) = page_out_monitor(monitor) {
        tracing::debug!(%error, "what LXC's own process holds stays in memory");
    }
    let (_steady, bypass) = match depth {
        Depth::Shallow => (Some(Steady::hold(wanted)?), None),
        Depth::Deep => (None, Bypass::begin(wanted)?),
    };
    let machine = Memory::look();
    if machine.swaps.is_empty() {
        return Ok(Held { kept: Some(Kept::NoSwap), ..Held::reckon(groups, &machine, 0)? });
    }
    // What was on the disk already need not be read to be there.
    let compressed = bypass.is_some() && before.is_none_or(|held| held.compressed > 0);
    // What came from the disk and was not changed would be left there, and be slow to come again.
    let renew = depth == Depth::Shallow && machine.compresses() && slept.is_some_and(|held| held.disk > 0);
    let left = match (if compressed { write_out(groups, wanted) } else { Ok(()) })
        .and_then(|()| page_out(groups, renew, wanted))
    {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            return Ok(Held { kept: Some(Kept::Unsupported), ..Held::reckon(groups, &machine, 0)? });
        }
        left => left?,
    };
    // Behind zswap all of it was kept in memory, or has been written out now or before.
    let in_zswap = match (depth, before.filter(|held| held.moved() > 0)) {
        (Depth::Shallow, Some(before)) => before.compressed,
        _ if bypass.is_none() && machine.zswap == Zswap::On => u64::MAX,
        _ => 0,
    };
    let held = Held::reckon(groups, &machine, in_zswap)?;
    Ok(Held { kept: kept(groups, depth, left, &held)?, ..held })
}

/// Why not everything went.
fn kept(groups: &Groups, depth: Depth, left: u64, held: &Held) -> io::Result<Option<Kept>> {
    Ok(if left > SOME {
        Some(why_left(left, Load::look().swap_free, groups.swap_left()?))
    } else if depth == Depth::Deep && held.compressed > SOME {
        Some(Kept::NoDisk)
    } else {
        None
    })
}

/// Why so many bytes are left, where so much of swap is free, and the container may have so much more of it. What would
/// have fitted has gone: so where less is free than is left, swap is what it lacked. The last of it is no proof of room,
/// since each processor sets places aside, and others fill and leave it meanwhile.
fn why_left(left: u64, free: u64, limit: Option<u64>) -> Kept {
    let is_used_up = |free: u64| free < left.min(DREGS);
    if is_used_up(free) {
        Kept::SwapFull
    } else if limit.is_some_and(is_used_up) {
        Kept::SwapLimit
    } else {
        Kept::InCommon
    }
}

/// Brings what is in zswap to the disk. Everything in swap is read for it, since the kernel does not say what is where.
fn write_out(groups: &Groups, wanted: &Wanted) -> io::Result<()> {
    each(groups, |process, runs, _| {
        wanted.check()?;
        let swapped = pagemap::addresses(runs, |place| matches!(place, Place::Swap(_)));
        for piece in pagemap::pieces(&swapped, PIECE) {
            wanted.check()?;
            process.touch(&piece)?;
            process.advise(Advice::PageOut, &piece)?;
        }
        Ok(())
    })
}

/// Pages everything out, and gives the bytes that could not go. With `renew` nothing counts as being in swap already.
fn page_out(groups: &Groups, renew: bool, wanted: &Wanted) -> io::Result<u64> {
    wanted.check()?;
    if renew {
        each(groups, |process, runs, _| {
            for piece in pagemap::pieces(&pagemap::addresses(runs, |place| place == Place::Own), PIECE) {
                wanted.check()?;
                process.part(&piece)?;
            }
            Ok(())
        })?;
    }
    groups.reclaim_anonymous(LITTLE)?;
    let copies = Cell::new(COPIES);
    let mut before = u64::MAX;
    for round in 0..ROUNDS {
        let left = groups.charged()?;
        if round > 0 && left.anonymous <= LITTLE || left.anonymous >= before {
            break;
        }
        before = left.anonymous;
        each(groups, |process, runs, shared_memory| {
            wanted.check()?;
            let own = pagemap::addresses(runs, |place| place == Place::Own);
            for ranges in [&own[..], shared_memory] {
                for piece in pagemap::pieces(ranges, PIECE) {
                    wanted.check()?;
                    process.advise(Advice::PageOut, &piece)?;
                    crate::fault::point("offload.half");
                }
            }
            let in_common = pagemap::addresses(runs, |place| place == Place::Shared);
            let affordable = pagemap::pieces(&in_common, copies.get()).next().unwrap_or_default();
            copies.set(copies.get() - pagemap::size(&affordable));
            process.part(&affordable)?;
            process.advise(Advice::PageOut, &affordable)
        })?;
        if groups.charged()?.in_swap_cache > LITTLE {
            let deadline = Instant::now() + WRITING;
            while groups.charged()?.being_written > 0 && Instant::now() < deadline {
                wanted.check()?;
                std::thread::sleep(Duration::from_millis(2));
            }
            if groups.charged()?.files > LITTLE || !groups.reclaim()? {
                write_out(groups, wanted)?;
            }
        }
    }
    Ok(groups.charged()?.anonymous)
}

/// It is not frozen, and does nothing until the container ends.
fn page_out_monitor(pid: i32) -> io::Result<()> {
    // Whoever has its number after it was killed is slower for a moment.
    let Some(process) = Process::open(pid)? else { return Ok(()) };
    let runs = pagemap::runs(pid, &pages::mappings(pid)?, &Sight::default())?;
    process.advise(Advice::PageOut, &pagemap::addresses(&runs, |place| place == Place::Own))
}

/// For each process: where its pages are, and its shared memory.
fn each(groups: &Groups, act: impl Fn(&Process, &[Run], &[Range<u64>]) -> io::Result<()>) -> io::Result<()> {
    let sight = Sight::default();
    for pid in groups.processes()? {
        // Those before it took their time: it may have been killed, and its number given to somebody else.
        let Some(process) = Process::open(pid)?.filter(|_| groups.have(pid)) else { continue };
        let mappings = pages::mappings(pid)?;
        let (shared, private): (Vec<_>, Vec<_>) =
            mappings.into_iter().partition(|mapping| mapping.kind == Kind::SharedMemory);
        let shared = shared.into_iter().map(|mapping| mapping.addresses);
        let shared: Vec<_> = shared.filter(|addresses| sight.reaches(addresses)).collect();
        act(&process, &pagemap::runs(pid, &private, &sight)?, &shared)?;
    }
    Ok(())
}

impl Held {
    /// By what the kernel reports now. Of what is in swap behind zswap, `in_zswap` bytes at most are in it still, where
    /// the kernel does not count that itself.
    pub(super) fn reckon(groups: &Groups, machine: &Memory, in_zswap: u64) -> io::Result<Self> {
        let stats = groups.stats()?;
        let load = Load::look();
        let (compressed, pool) = if machine.compressed() > 0 && machine.on_disk() == 0 {
            (stats.swap, load.zram.share(stats.swap))
        } else if machine.compressed() > 0 {
            let in_zram = in_zram(groups, machine)?.min(stats.swap);
            (in_zram, load.zram.share(in_zram))
        } else if let Some(zswap) = groups.zswap()? {
            (zswap.stored, zswap.taken)
        } else {
            let in_zswap = in_zswap.min(load.zswap.stored).min(stats.swap);
            (in_zswap, load.zswap.share(in_zswap))
        };
        // Version 2 charges a group for what it has in zswap.
        let charged = groups.zswap()?.map_or(0, |zswap| zswap.taken);
        Ok(Self {
            resident: stats.memory.saturating_sub(charged),
            compressed,
            pool,
            disk: stats.swap.saturating_sub(compressed),
            kept: None,
        })
    }
}

/// Bytes on devices of compressed memory. `/proc/swaps` has the devices in the order of their numbers.
fn in_zram(groups: &Groups, machine: &Memory) -> io::Result<u64> {
    let is_zram = |device: u8| machine.swaps.get(usize::from(device)).is_some_and(|swap| swap.is_zram());
    let found = Cell::new(0);
    each(groups, |_, runs, _| {
        let in_zram = pagemap::addresses(runs, |place| matches!(place, Place::Swap(device) if is_zram(device)));
        found.set(found.get() + pagemap::size(&in_zram));
        Ok(())
    })?;
    Ok(found.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_left_lacked_swap_where_there_is_less_of_it_than_is_left() {
        for (left, free, limit, why) in [
            (20 * MIB, 0, None, Kept::SwapFull),
            (20 * MIB, MIB + 4096, None, Kept::SwapFull),
            (3 * MIB, 2 * MIB, Some(MIB), Kept::SwapFull),
            (3 * MIB, 4 * MIB, None, Kept::InCommon),
            (200 * MIB, 100 * MIB, None, Kept::InCommon),
            (20 * MIB, 1 << 30, Some(MIB + 4096), Kept::SwapLimit),
            (20 * MIB, 1 << 30, Some(1 << 30), Kept::InCommon),
        ] {
            assert_eq!(why_left(left, free, limit), why, "{left} left, {free} free, {limit:?}");
        }
    }
}
