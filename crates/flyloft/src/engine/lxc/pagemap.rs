//! Where each page of a process is: `/proc/PID/pagemap` (the kernel's pagemap.rst).

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use super::pages::Mapping;

pub const PAGE: u64 = 4096;

/// Pages that follow each other and are in the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub addresses: Range<u64>,
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory, for this process alone.
    Own,
    /// In memory, and in that of another process: what fork(2) leaves until one of the two writes to it.
    Shared,
    /// In swap, on the device with this number.
    Swap(u8),
}

/// How far a container is looked into at a time, all of its processes together. A process may ask for a hundred terabytes
/// and use a page of them, and have as many pages in pieces as it likes that take no memory: what the kernel tells of each
/// takes ours. What lies beyond is passed over.
pub struct Sight {
    bytes: Cell<u64>,
    runs: Cell<usize>,
}

impl Default for Sight {
    fn default() -> Self {
        Self { bytes: Cell::new(256 << 30), runs: Cell::new(1 << 20) }
    }
}

impl Sight {
    /// Whether these addresses lie within it. Then there is less of it left.
    pub fn reaches(&self, addresses: &Range<u64>) -> bool {
        let left = self.bytes.get().checked_sub(addresses.end - addresses.start);
        left.filter(|_| self.runs.get() > 0).map(|left| self.bytes.set(left)).is_some()
    }
}

/// The pages of `mappings` that are not a file's, as far as they are in `sight`.
pub fn runs(pid: i32, mappings: &[Mapping], sight: &Sight) -> io::Result<Vec<Run>> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut runs = Vec::new();
    let mut entries = vec![0_u8; 64 << 10];
    for mapping in mappings.iter().filter(|mapping| sight.reaches(&mapping.addresses)) {
        let found = runs.len();
        let mut at = mapping.addresses.start;
        while at < mapping.addresses.end {
            let pages = ((mapping.addresses.end - at) / PAGE).min(entries.len() as u64 / 8) as usize;
            let read = pagemap.read_at(&mut entries[..pages * 8], at / PAGE * 8)? / 8;
            // A process that has ended has no pages.
            if read == 0 {
                return Ok(runs);
            }
            for entry in entries[..read * 8].chunks_exact(8) {
                let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
                if let Some(place) = place(entry, *ZERO_PAGE) {
                    push(&mut runs, at, place);
                }
                at += PAGE;
            }
            if runs.len() - found > sight.runs.get() {
                break;
            }
        }
        sight.runs.set(sight.runs.get().saturating_sub(runs.len() - found));
    }
    Ok(runs)
}

/// The number of the page that all have who have read memory which nobody has written to. `None` where the kernel does not
/// tell numbers, as to whoever is not root on the machine.
static ZERO_PAGE: LazyLock<Option<u64>> = LazyLock::new(|| match zero_page() {
    Ok(number) => Some(number).filter(|number| *number != 0),
    Err(error) => {
        tracing::debug!(%error, "failed to learn which page is the one of zeros");
        None
    }
});

fn zero_page() -> io::Result<u64> {
    let length = PAGE as usize;
    // SAFETY: the kernel chooses where, and nobody has it but this function, which reads what is mapped there.
    let entry = unsafe {
        let at =
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        at.cast::<u8>().read_volatile();
        let mut entry = [0; 8];
        let read = File::open("/proc/self/pagemap")
            .and_then(|pagemap| pagemap.read_exact_at(&mut entry, at as u64 / PAGE * 8));
        libc::munmap(at, length);
        read.map(|()| u64::from_ne_bytes(entry))?
    };
    Ok(entry & NUMBER)
}

/// Of a page in memory.
const NUMBER: u64 = (1 << 55) - 1;

/// What an entry says of a page that is not a file's. The page of zeros takes no memory, however many have it.
fn place(entry: u64, zero_page: Option<u64>) -> Option<Place> {
    let bit = |number: u32| entry >> number & 1 == 1;
    let (present, swapped, of_a_file, exclusive) = (bit(63), bit(62), bit(61), bit(56));
    match (present, swapped) {
        (true, _) if of_a_file || zero_page == Some(entry & NUMBER) => None,
        (true, _) => Some(if exclusive { Place::Own } else { Place::Shared }),
        (false, true) => Some(Place::Swap((entry & 31) as u8)),
        (false, false) => None,
    }
}

fn push(runs: &mut Vec<Run>, at: u64, place: Place) {
    match runs.last_mut() {
        Some(last) if last.addresses.end == at && last.place == place => last.addresses.end += PAGE,
        _ => runs.push(Run { addresses: at..at + PAGE, place }),
    }
}

/// The addresses of the runs that are in such a place.
pub fn addresses(runs: &[Run], wanted: impl Fn(Place) -> bool) -> Vec<Range<u64>> {
    runs.iter().filter(|run| wanted(run.place)).map(|run| run.addresses.clone()).collect()
}

/// The ranges cut into lists of at most `bytes`, one after the other: of large ranges there are many. Of no bytes there is
/// none.
pub fn pieces(ranges: &[Range<u64>], bytes: u64) -> impl Iterator<Item = Vec<Range<u64>>> {
    let mut ranges = ranges.iter().filter(|range| range.start < range.end).cloned();
    let mut rest = None;
    std::iter::from_fn(move || {
        let (mut piece, mut room) = (Vec::new(), bytes);
        while room > 0
            && let Some(range) = rest.take().or_else(|| ranges.next())
        {
            let end = range.end.min(range.start.saturating_add(room));
            room -= end - range.start;
            rest = Some(end..range.end).filter(|rest| rest.start < rest.end);
            piece.push(range.start..end);
        }
        (!piece.is_empty()).then_some(piece)
    })
}

/// Bytes in these ranges.
pub fn size(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lxc::pages;

    #[test]
    fn an_entry_tells_private_memory_from_a_files_and_from_swap() {
        let place = |entry| place(entry, Some(66));
        assert_eq!(place(1 << 63 | 1 << 56 | 77), Some(Place::Own));
        assert_eq!(place(1 << 63 | 77), Some(Place::Shared));
        assert_eq!(place(1 << 63 | 1 << 61 | 77), None);
        assert_eq!(place(1 << 63 | 66), None, "the page of zeros");
        // The offset on the device comes above its number.
        assert_eq!(place(1 << 62 | 9 << 5 | 3), Some(Place::Swap(3)));
        assert_eq!(place(1 << 62 | 66), Some(Place::Swap(2)));
        assert_eq!(place(0), None);
    }

    #[test]
    fn pages_that_follow_each_other_are_one_run() {
        let mut runs = Vec::new();
        for (at, place) in [(0, Place::Own), (1, Place::Own), (2, Place::Shared), (4, Place::Shared)] {
            push(&mut runs, at * PAGE, place);
        }
        let own = addresses(&runs, |place| place == Place::Own);
        let shared = addresses(&runs, |place| place == Place::Shared);
        assert_eq!((&own[..], size(&own)), (std::slice::from_ref(&(0..2 * PAGE)), 2 * PAGE));
        assert_eq!(shared, [2 * PAGE..3 * PAGE, 4 * PAGE..5 * PAGE]);
    }

    #[test]
    fn ranges_are_cut_where_a_piece_is_full() {
        let cut: Vec<_> = pieces(&[0..2 * PAGE, 5 * PAGE..8 * PAGE], 3 * PAGE).collect();
        let [first, second] = &cut[..] else { panic!("{cut:?}") };
        assert_eq!(first[..], [0..2 * PAGE, 5 * PAGE..6 * PAGE]);
        assert_eq!((second.len(), size(second)), (1, 2 * PAGE));
        assert_eq!((pieces(&cut[0], 0).count(), pieces(&[], PAGE).count()), (0, 0));
        // As many as these nobody could hold.
        assert_eq!(pieces(&[0..1 << 62, 0..1], PAGE).nth(2).unwrap(), std::slice::from_ref(&(2 * PAGE..3 * PAGE)));
    }

    /// Address space that takes no memory, but for what is written to it.
    fn reserved(bytes: usize) -> *mut u8 {
        let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the kernel chooses where.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, kind | libc::MAP_NORESERVE, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        at.cast()
    }

    #[test]
    fn whoever_asks_for_terabytes_or_scatters_its_pages_takes_neither_our_time_nor_our_memory() {
        const VAST: usize = 64 << 40;
        const WIDE: usize = 256 << 20;
        let (vast, scattered) = (reserved(VAST), reserved(WIDE));
        // SAFETY: each page lies within what was mapped.
        unsafe {
            libc::madvise(scattered.cast(), WIDE, libc::MADV_NOHUGEPAGE);
            vast.write_volatile(1);
            for at in (0..WIDE / 4).step_by(2 * PAGE as usize) {
                scattered.add(at + PAGE as usize).write_volatile(1);
            }
        }
        let pid = std::process::id() as i32;
        let ours = |at: *mut u8| {
            let mut found = pages::mappings(pid).unwrap();
            found.retain(|mapping| mapping.addresses.contains(&(at as u64 + PAGE)));
            found
        };
        let begun = std::time::Instant::now();
        assert_eq!(runs(pid, &ours(vast), &Sight::default()).unwrap(), []);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
        let sight = Sight { runs: Cell::new(100), ..Sight::default() };
        assert!(runs(pid, &ours(scattered), &sight).unwrap().len() < WIDE / PAGE as usize / 8);
        assert!(!sight.reaches(&(0..PAGE)), "it ends there");
        // SAFETY: they are as long as that, and nobody uses them any more.
        unsafe {
            libc::munmap(vast.cast(), VAST);
            libc::munmap(scattered.cast(), WIDE);
        }
    }

    #[test]
    fn what_a_process_has_only_read_is_nowhere() {
        const SIZE: usize = 1 << 20;
        let memory = reserved(SIZE);
        // SAFETY: each page lies within what was mapped.
        unsafe {
            libc::madvise(memory.cast(), SIZE, libc::MADV_NOHUGEPAGE);
            for at in (0..SIZE).step_by(PAGE as usize) {
                let _ = memory.add(at).read_volatile();
            }
            memory.add(SIZE / 2).write_volatile(1);
        }
        let pid = std::process::id() as i32;
        let (start, half) = (memory as u64, memory as u64 + SIZE as u64 / 2);
        let addresses = start..start + SIZE as u64;
        let mapping = Mapping { addresses, kind: pages::Kind::Anonymous, present: 0, swapped: 0 };
        let found = runs(pid, &[mapping], &Sight::default()).unwrap();
        assert_eq!(found, [Run { addresses: half..half + PAGE, place: Place::Own }]);
        // SAFETY: it is as long as that, and nobody uses it any more.
        unsafe { libc::munmap(memory.cast(), SIZE) };
    }

    #[test]
    fn all_that_a_process_has_written_is_found() {
        let memory = vec![7_u8; 8 << 20];
        let ours = memory.as_ptr() as u64..memory.as_ptr() as u64 + (8 << 20);
        let pid = std::process::id() as i32;
        let mut mappings = pages::mappings(pid).unwrap();
        mappings.retain(|mapping| mapping.addresses.contains(&(ours.start + PAGE)));
        let found: Vec<_> = runs(pid, &mappings, &Sight::default()).unwrap();
        assert!(size(&addresses(&found, |_| true)) >= 8 << 20, "{found:?}");
    }
}
