//! Where each page of a process is: `/proc/PID/pagemap` (the kernel's pagemap.rst).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

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

/// The pages of `mappings` that are not a file's.
pub fn runs(pid: i32, mappings: &[Mapping]) -> io::Result<Vec<Run>> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut runs = Vec::new();
    let mut entries = vec![0_u8; 64 << 10];
    for mapping in mappings {
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
                if let Some(place) = place(entry) {
                    push(&mut runs, at, place);
                }
                at += PAGE;
            }
        }
    }
    Ok(runs)
}

/// What an entry says of a page that is not a file's.
fn place(entry: u64) -> Option<Place> {
    let bit = |number: u32| entry >> number & 1 == 1;
    let (present, swapped, of_a_file, exclusive) = (bit(63), bit(62), bit(61), bit(56));
    match (present, swapped) {
        (true, _) if of_a_file => None,
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

/// The ranges cut into lists of at most `bytes`. Of no bytes there is an empty one.
pub fn pieces(ranges: &[Range<u64>], bytes: u64) -> Vec<Vec<Range<u64>>> {
    let mut pieces = vec![Vec::new()];
    if bytes == 0 {
        return pieces;
    }
    let mut room = bytes;
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            if room == 0 {
                pieces.push(Vec::new());
                room = bytes;
            }
            let end = range.end.min(at + room);
            pieces.last_mut().expect("there is one").push(at..end);
            (room, at) = (room - (end - at), end);
        }
    }
    pieces
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
        assert_eq!(place(1 << 63 | 1 << 56 | 77), Some(Place::Own));
        assert_eq!(place(1 << 63 | 77), Some(Place::Shared));
        assert_eq!(place(1 << 63 | 1 << 61 | 77), None);
        // The offset on the device comes above its number.
        assert_eq!(place(1 << 62 | 9 << 5 | 3), Some(Place::Swap(3)));
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
        let cut = pieces(&[0..2 * PAGE, 5 * PAGE..8 * PAGE], 3 * PAGE);
        let [first, second] = &cut[..] else { panic!("{cut:?}") };
        assert_eq!(first[..], [0..2 * PAGE, 5 * PAGE..6 * PAGE]);
        assert_eq!((second.len(), size(second)), (1, 2 * PAGE));
    }

    #[test]
    fn all_that_a_process_has_written_is_found() {
        let memory = vec![7_u8; 8 << 20];
        let ours = memory.as_ptr() as u64..memory.as_ptr() as u64 + (8 << 20);
        let pid = std::process::id() as i32;
        let mut mappings = pages::mappings(pid).unwrap();
        mappings.retain(|mapping| mapping.addresses.contains(&(ours.start + PAGE)));
        let found: Vec<_> = runs(pid, &mappings).unwrap();
        assert!(size(&addresses(&found, |_| true)) >= 8 << 20, "{found:?}");
    }
}
